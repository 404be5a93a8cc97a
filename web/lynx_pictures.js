// The shipped workflows begin with a portrait, and some with a video, that come with this pack. Where one is
// opened and ComfyUI's input folder has no file of that name, the file is uploaded, as if it were dropped on the node.
import { api } from "../../scripts/api.js";
import { app } from "../../scripts/app.js";

const SHIPPED = new Set(["lynx_portrait.jpg", "lynx_motion.mp4", "lynx_distant.mp4"]);
const WIDGETS = { LoadImage: "image", LoadVideo: "file" };
const HERE = new URL(".", import.meta.url);

function* listNodes(data) {
  yield* data?.nodes ?? [];
  for (const subgraph of data?.definitions?.subgraphs ?? []) yield* subgraph.nodes ?? [];
}

const listChoices = (type) => {
  const [kind, options] = LiteGraph.registered_node_types[type]?.nodeData?.input?.required?.[WIDGETS[type]] ?? [];
  return Array.isArray(kind) ? kind : options?.options;
};

async function upload(name, source) {
  const body = new FormData();
  body.append("image", await (await fetch(source)).blob(), name);
  return (await (await api.fetchApi("/upload/image", { method: "POST", body })).json()).name;
}

app.registerExtension({
  name: "Lynx.Pictures",
  async beforeConfigureGraph(data) {
    for (const node of listNodes(data)) {
      const choices = node.type in WIDGETS ? listChoices(node.type) : undefined;
      const name = node.widgets_values?.[0];
      // The demo sends its photo along inside the workflow (scripts/demo_workflow.py).
      const source = data.extra?.lynx_pictures?.[name] ?? (SHIPPED.has(name) ? new URL(name, HERE) : undefined);
      if (!choices || !source || choices.includes(name)) continue;
      try {
        choices.push(await upload(name, source));
      } catch (error) {
        console.warn(`Lynx: ${name} could not be put into the input folder; choose a picture of your own`, error);
      }
    }
  },
});
