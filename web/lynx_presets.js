// Shows a preset of Lynx Apply in its widgets; an edit of one of them turns the preset into "custom".
// The values come with the node's definition (nodes/presets.py), so they are written in one place only.
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
  const preset = node.widgets?.find((widget) => widget.name === "preset");
  if (!preset) return;
  const named = (name) => node.widgets.find((widget) => widget.name === name);

  function show() {
    for (const [name, value] of Object.entries(presets[preset.value] ?? {})) {
      const widget = named(name);
      if (widget) widget.value = value;
    }
    node.setDirtyCanvas?.(true, true);
  }

  function becomeCustom(name, value) {
    const shown = presets[preset.value]?.[name];
    if (shown !== undefined && shown !== value) {
      preset.value = CUSTOM;
      node.setDirtyCanvas?.(true, true);
    }
  }

  chain(preset, "callback", show);
  chain(node, "onConfigure", show);
  for (const name of Object.keys(Object.values(presets)[0] ?? {})) {
    const widget = named(name);
    if (widget) chain(widget, "callback", () => becomeCustom(name, widget.value));
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
