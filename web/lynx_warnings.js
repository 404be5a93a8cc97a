// Shows warnings of Lynx nodes inside a subgraph (nodes/host/messages.py) in the corner of the editor, because a closed
// subgraph hides what its nodes say.
import { api } from "../../scripts/api.js";
import { app } from "../../scripts/app.js";

const SHOWN_MS = 20_000;

app.registerExtension({
  name: "Lynx.Warnings",
  setup() {
    api.addEventListener("lynx.warning", ({ detail }) => {
      app.extensionManager.toast.add({
        severity: "warn",
        summary: detail.node,
        detail: detail.text,
        life: SHOWN_MS,
      });
    });
  },
});
