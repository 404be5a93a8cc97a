// What an artist does in the editor and sees there, as functions of `window.wiring`.
// Nodes are named by the ids that the tests gave them; `find` also looks into subgraphs.
(() => {
  const app = () => window.app;
  const list = () => {
    const nodes = [...app().rootGraph._nodes];
    for (const node of nodes) if (node.subgraph) nodes.push(...node.subgraph._nodes); // and theirs, as they come
    return nodes;
  };
  const find = (id) => {
    const node = list().find((node) => node.id === Number(id) || node.id === String(id));
    if (!node) throw new Error(`the graph has no node ${id}`);
    return node;
  };
  const findWidget = (node, name) => {
    const widget = node.widgets?.find((widget) => widget.name === name);
    if (!widget) throw new Error(`${node.type} has no widget ${name}: ${node.widgets?.map((w) => w.name)}`);
    return widget;
  };
  const findInput = (node, name) => {
    const index = node.inputs?.findIndex((input) => input.name === name) ?? -1;
    if (index < 0) throw new Error(`${node.type} has no input ${name}: ${node.inputs?.map((i) => i.name)}`);
    return index;
  };
  const edit = (id, name, value) => {
    const node = find(id), widget = findWidget(node, name), before = widget.value;
    widget.value = value;
    widget.callback?.(value, app().canvas, node);
    node.onWidgetChanged?.(name, value, before, widget);
  };
  const isRed = (node) =>
    Boolean(node.has_errors) ||
    ["error", "executionError"].some((style) => Boolean(node.strokeStyles?.[style]?.call(node)));
  const seen = { events: [], notes: {} };
  const listen = () => {
    const keep = (kind) => ({ detail }) => seen.events.push({ kind, ...detail });
    for (const kind of ["execution_error", "execution_success", "execution_interrupted"])
      app().api.addEventListener(kind, keep(kind));
  };

  window.wiring = {
    listen,

    // `prompt` is in the API format with numbers as ids; links are [id, slot].
    build(prompt) {
      app().graph.clear();
      const nodes = {};
      for (const [id, { class_type }] of Object.entries(prompt)) {
        const node = LiteGraph.createNode(class_type);
        if (!node) throw new Error(`the editor knows no node ${class_type}`);
        node.id = Number(id);
        app().graph.add(node);
        nodes[id] = node;
      }
      for (const [id, { inputs }] of Object.entries(prompt))
        for (const [name, value] of Object.entries(inputs)) {
          if (Array.isArray(value)) nodes[value[0]].connect(value[1], nodes[id], findInput(nodes[id], name));
          else if (findWidget(nodes[id], name).value !== value) edit(id, name, value);
        }
      // A seed that changes after each run would make no two runs comparable.
      for (const node of Object.values(nodes))
        for (const widget of node.widgets ?? []) if (widget.name === "control_after_generate") widget.value = "fixed";
      app().graph.arrange();
    },

    edit,
    read: (id) => Object.fromEntries((find(id).widgets ?? []).map(({ name, value }) => [name, value])),
    link: (source, slot, target, input) =>
      find(source).connect(slot, find(target), findInput(find(target), input)),
    unlink: (id, input) => find(id).disconnectInput(findInput(find(id), input)),
    setMode: (id, mode) => void (find(id).mode = mode),

    // Put nodes into a subgraph and promote widgets of theirs; gives the id of the subgraph's node.
    enclose(ids, promoted) {
      const { subgraph, node } = app().graph.convertToSubgraph(new Set(ids.map(find)));
      for (const [id, name] of promoted) {
        const inner = subgraph._nodes.find((node) => node.id === Number(id) || node.id === String(id));
        const slot = inner.inputs[findInput(inner, name)];
        subgraph.addInput(name, slot.type).connect(slot, inner);
      }
      return Number(node.id);
    },

    save: () => JSON.stringify(app().rootGraph.serialize()),
    open: (text) => app().loadGraphData(JSON.parse(text)),
    exportApi: async () => (await app().graphToPrompt()).output,

    startRun: () => void (seen.events.length = 0),
    hasEnded: (promptId) => seen.events.some((event) => event.prompt_id === promptId),
    red: () => list().filter(isRed).map((node) => Number(node.id)),
    notes: () =>
      Object.fromEntries(
        list().flatMap((node) =>
          (node.widgets ?? [])
            .filter(({ name, value }) => name.startsWith("$$") && typeof value === "string" && value)
            .map(({ value }) => [Number(node.id), value])
        )
      ),
  };
})();
