// A preset of Lynx Apply fills the widgets below it; an edit of one of them turns the preset into "custom".
// That is all a preset does: the server takes the values, whatever the preset is called.
// The values come with the node's definition (nodes/presets.py), so they are written in one place only.
// A widget may be promoted to the subgraph that Lynx Apply lies in: then the value is that of the subgraph's node.
// Nodes 2.0 tells nobody of an edit there (frontend 1.47), so a promoted preset fills nothing in it; the server then
// says that the values are not the preset's (lynx_warnings.js).
import { app } from "../../scripts/app.js";

const NODE = "LynxApply";
const CUSTOM = "custom";

function chain(object, name, after) {
  const before = object[name];
  object[name] = function (...args) {
    const result = before?.apply(this, args);
    after.apply(this, args);
    return result;
  };
}

function findWidget(node, name) {
  return node.widgets?.find((widget) => widget.name === name);
}

// The Lynx Apply whose widget a subgraph's node shows as `name`, and the subgraph nodes that lead to it, from outside in.
function followInside(node, name, holders = []) {
  if (node.comfyClass === NODE) return { apply: node, name, holders };
  const input = node.subgraph?.inputs?.find((slot) => slot.name === name);
  const link = input?.linkIds?.length ? node.subgraph.getLink(input.linkIds[0]) : undefined;
  const inside = link && node.subgraph.getNodeById(link.target_id);
  const slot = inside?.inputs?.[link.target_slot];
  return slot ? followInside(inside, slot.widget?.name ?? slot.name, [...holders, node]) : undefined;
}

// The widget that holds the value of Lynx Apply's `name`: its own, or the outermost one it is promoted to.
function followOutside(apply, name, holders) {
  let [node, shown] = [apply, name];
  for (const holder of holders.toReversed()) {
    const link = node.inputs?.find((slot) => (slot.widget?.name ?? slot.name) === shown)?.link;
    const input = link == null ? undefined : holder.subgraph.inputs.find((slot) => slot.linkIds.includes(link));
    if (!input) break;
    [node, shown] = [holder, input.name];
  }
  return findWidget(node, shown);
}

function onChange(apply, name, value, holders) {
  const presets = apply.constructor.nodeData?.input?.required?.preset?.[1]?.lynx_presets;
  const preset = presets && followOutside(apply, "preset", holders);
  if (!preset) return;
  if (name === "preset") {
    for (const [filled, its] of Object.entries(presets[value] ?? {})) {
      const widget = followOutside(apply, filled, holders);
      if (widget) widget.value = its;
    }
  } else if (presets[preset.value]?.[name] !== undefined && presets[preset.value][name] !== value) {
    preset.value = CUSTOM;
  }
  apply.setDirtyCanvas?.(true, true);
}

app.registerExtension({
  name: "Lynx.Presets",
  // A graph of an earlier version may hold a preset's former name, which the list has no more.
  loadedGraphNode(node) {
    const former = node.constructor.nodeData?.input?.required?.preset?.[1]?.lynx_former_presets;
    const preset = node.comfyClass === NODE && former && findWidget(node, "preset");
    if (preset && former[preset.value]) preset.value = former[preset.value];
  },
  nodeCreated(node) {
    // Only edits count: where a workflow is opened or an edit is undone, the widgets hold what was saved.
    if (node.comfyClass === NODE) {
      for (const widget of node.widgets ?? []) {
        chain(widget, "callback", (value) => onChange(node, widget.name, value, []));
      }
    } else if (node.isSubgraphNode?.()) {
      chain(node, "onWidgetChanged", (name, value) => {
        const found = followInside(node, name);
        if (found) onChange(found.apply, found.name, value, found.holders);
      });
    }
  },
});
