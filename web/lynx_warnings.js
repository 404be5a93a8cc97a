// Shows warnings in the corner of the editor: those of Lynx nodes inside a subgraph (nodes/host/messages.py), because a
// closed subgraph hides what its nodes say, and of a bypassed subgraph that holds Lynx Apply or Lynx Person. ComfyUI hands
// the first conditioning of a bypassed subgraph on as all of them; with a core sampler no Lynx node runs that could say so.
import { api } from "../../scripts/api.js";
import { app } from "../../scripts/app.js";

const SHOWN_MS = 20_000;
const NODES = ["LynxApply", "LynxPerson"];
const BYPASSED = 4;

function warn(summary, detail) {
  app.extensionManager.toast.add({ severity: "warn", summary, detail, life: SHOWN_MS });
}

const listNodes = (graph) => graph?.nodes ?? graph?._nodes ?? [];

const holdsApply = (graph) => listNodes(graph).some((node) => NODES.includes(node.comfyClass) || holdsApply(node.subgraph));

function* findBypassed(graph) {
  for (const node of listNodes(graph)) {
    if (!node.subgraph) continue;
    if (node.mode !== BYPASSED) yield* findBypassed(node.subgraph);
    else if (holdsApply(node.subgraph)) yield node;
  }
}

app.registerExtension({
  name: "Lynx.Warnings",
  setup() {
    api.addEventListener("lynx.warning", ({ detail }) => warn(detail.node, detail.text));
    api.addEventListener("promptQueueing", () => {
      for (const node of findBypassed(app.rootGraph ?? app.graph)) {
        warn(
          node.title,
          "This bypassed subgraph holds Lynx Apply or Lynx Person: the person is not in the video, and its first " +
            "conditioning goes on as all of them, the negative prompt too. Bypass that node inside of it instead.",
        );
      }
    });
  },
});
