"""JavaScript that reads and changes a graph in the editor."""

SHRINK = """([width, height, length, steps]) => {
  const wanted = {width, height, length, steps, switch_at_step: steps / 2, face_size: 64};
  for (const node of window.app.graph._nodes)
    for (const widget of node.widgets ?? [])
      if (widget.name in wanted && node.type !== "MarkdownNote") widget.value = wanted[widget.name];
}"""

SUMMARISE = """() => ({
  types: window.app.graph._nodes.map(node => node.type),
  links: Object.keys(window.app.graph.serialize().links).length,
  tooSmall: window.app.graph._nodes.filter(node => {
    const [width, height] = node.computeSize();
    // A video asks for the width that it has at its least height, and takes less.
    return (width > node.size[0] + 1 && node.type !== "LoadVideo") || height > node.size[1] + 1;
  }).map(node => node.type),
  faulty: window.app.graph._nodes.filter(node => node.has_errors).map(node => node.type),
  missing: window.app.graph._nodes.filter(node => !(node.type in LiteGraph.registered_node_types)
    ).map(node => node.type),
  unknownValues: window.app.graph._nodes.flatMap(node => (node.widgets ?? []).filter(widget => {
    const values = widget.options?.values;
    return Array.isArray(values) && !values.includes(widget.value);
  }).map(widget => `${node.type}.${widget.name}: ${widget.value}`)),
})"""

DRAWN = """() => ({
  zoom: window.app.canvas.ds.scale,
  nodes: window.app.graph._nodes.map(node => [node.id, node.title, [...node.pos], [...node.size]]),
  links: [...window.app.graph.links.values()].map(link => {
    const origin = window.app.graph.getNodeById(link.origin_id), target = window.app.graph.getNodeById(link.target_id);
    return [[origin.id, [...origin.getOutputPos(link.origin_slot)]], [target.id, [...target.getInputPos(link.target_slot)]]];
  }),
})"""

FIT = """() => {
  const canvas = window.app.canvas, boxes = window.app.graph._groups.map(group => [...group.pos, ...group.size]);
  const left = Math.min(...boxes.map(b => b[0])), top = Math.min(...boxes.map(b => b[1]));
  const right = Math.max(...boxes.map(b => b[0] + b[2])), bottom = Math.max(...boxes.map(b => b[1] + b[3]));
  const width = canvas.canvas.clientWidth, height = canvas.canvas.clientHeight;
  const scale = Math.min((width - 90) / (right - left), (height - 160) / (bottom - top));
  canvas.ds.scale = scale;
  canvas.ds.offset[0] = 75 / scale - left;
  canvas.ds.offset[1] = 120 / scale - top;
  canvas.setDirty(true, true);
  return (bottom - top) * scale + 140;
}"""
