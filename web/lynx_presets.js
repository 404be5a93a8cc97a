// A preset of Lynx Apply fills the widgets below it; an edit of one of them turns the preset into "custom".
// That is all a preset does: the server takes the values, whatever the preset is called.
// The values come with the node's definition (nodes/presets.py), so they are written in one place only.
// A preset that is promoted to a subgraph fills nothing: the editor keeps its value at the subgraph and tells no
// node inside. The server then says that the values are not the preset's (lynx_warnings.js).
import { app } from "../../scripts/app.js";

const CUSTOM = "custom";

function chain(object, name, after) {
  const before = object[name];
  object[name] = function (...args) {
    const result = before?.apply(this, args);
    after.apply(this, args);
    return result;
  };
}

function linkPreset(node, presets) {
  const named = (name) => node.widgets?.find((widget) => widget.name === name);
  const preset = named("preset");
  if (!preset) return;

  // Only an edit fills: where a workflow is opened or an edit undone, the widgets hold what was saved.
  chain(preset, "callback", (chosen) => {
    for (const [name, value] of Object.entries(presets[chosen] ?? {})) {
      const widget = named(name);
      if (widget) widget.value = value;
    }
    node.setDirtyCanvas?.(true, true);
  });

  for (const name of Object.keys(Object.values(presets)[0] ?? {})) {
    const widget = named(name);
    if (!widget) continue;
    chain(widget, "callback", (value) => {
      const shown = presets[preset.value]?.[name];
      if (shown === undefined || shown === value) return;
      preset.value = CUSTOM;
      node.setDirtyCanvas?.(true, true);
    });
  }
}

app.registerExtension({
  name: "Lynx.Presets",
  nodeCreated(node) {
    if (node.comfyClass !== "LynxApply") return;
    const options = node.constructor.nodeData?.input?.required?.preset?.[1];
    if (options?.lynx_presets) linkPreset(node, options.lynx_presets);
  },
});
