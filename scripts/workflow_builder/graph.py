"""A small builder of ComfyUI graphs: nodes by name, subgraphs, JSON as the editor saves it.

Nodes are measured as the editor's classic canvas draws them (a title bar of 30, 20 a socket, 24 a
widget), so boxes never overlap; the tables of node types are checked against both hosts by
`tests/host/test_workflows.py`.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from .boxes import Box, Group, Json, Node, Output, measure, place

SOCKET_HEIGHT, WIDGET_HEIGHT = 20, 24
NOTE_CHAR_WIDTH, NOTE_LINE_HEIGHT, NOTE_PADDING = 5.8, 15, 40
NOTE_COLOURS = ("#222", "#000")
SUBGRAPH_COLOURS = ("#2a363b", "#3f5159")
PACK_ID, CORE_ID = "comfyui-lynx", "comfy-core"
EXTRA_VALUES = {"seed": "randomize", "noise_seed": "randomize", "image": "image", "file": "image"}
"""Widgets behind which the editor keeps one more value: what happens to a seed after a run, the upload button."""
ENTRY_ID, EXIT_ID = -10, -20
"""What links inside a subgraph call its inputs and its outputs."""
PREVIEW = "$$canvas-image-preview"


@dataclass(frozen=True)
class NodeType:
    """The sockets and widgets of a node type, each a list of `name:TYPE`; `?` marks an optional one."""

    inputs: str = ""
    widgets: str = ""
    outputs: str = ""
    width: int = 320
    picture_height: int = 0
    """Room below the widgets: for a picture, a video, the text of a run, the badge of Nodes 2.0."""
    newer_widgets: int = 0
    """Widgets that newer hosts add at the end; they keep their defaults."""
    text_heights: tuple[tuple[str, int], ...] = ()
    """Height of each widget that holds lines of text."""

    @property
    def height(self) -> int:
        """Height without the title bar."""
        num_sockets = max(len(self.inputs.split()), len(self.outputs.split()))
        texts = dict(self.text_heights)
        names = [name for name, _, _ in parse_slots(self.widgets)]
        num_lines = (
            sum(1 + (name in EXTRA_VALUES) for name in names if name not in texts) + self.newer_widgets
        )
        widgets = 8 + WIDGET_HEIGHT * num_lines if names or num_lines else 0
        return 6 + SOCKET_HEIGHT * num_sockets + widgets + sum(texts.values()) + self.picture_height


class Graph:
    """A workflow, or the inside of a subgraph, under construction.

    Args:
        node_types: what is known of each node type; see `NodeType`.
    """

    def __init__(self, node_types: dict[str, NodeType]) -> None:
        self.node_types = node_types
        self.nodes: list[Node] = []
        self.links: list[list[Any]] = []
        self.subgraphs: list[Subgraph] = []
        """Those that nodes of this graph stand for."""
        self.entry = Node(ENTRY_ID, "inputs", [], [], [], 0, 0)
        self.exit = Node(EXIT_ID, "outputs", [], [], [], 0, 0)

    def add(
        self, type: str, /, *, title: str | None = None, models: Sequence[Json] = (), **inputs: Any
    ) -> Node:
        """Add a node.

        Args:
            models: files that a loader needs, each `name`, `url` and `directory`, which the editor offers to download.
            inputs: by name, an `Output` of another node or a widget's value; every widget needs one or the other.

        Raises:
            TypeError: when an input is unknown or of another type, or a widget is left without a value.
        """
        kind = self.node_types[type]
        node = self._make_node(type, kind, title, inputs)
        node.properties = {"Node name for S&R": type, "cnr_id": PACK_ID if "Lynx" in type else CORE_ID}
        if models:
            node.properties["models"] = list(models)
        return node

    def add_subgraph(self, subgraph: Subgraph, title: str | None = None, **inputs: Any) -> Node:
        """Add a node that stands for a subgraph; widgets that are left out keep the values of its inside."""
        if subgraph not in self.subgraphs:
            self.subgraphs.append(subgraph)
        values = {**subgraph.defaults, **inputs}
        node = self._make_node(subgraph.id, subgraph.as_node_type(), title or subgraph.name, values)
        node.colours = SUBGRAPH_COLOURS
        # Frontends before 1.44 show a widget of the inside only if it is listed here.
        node.properties = {"proxyWidgets": [["-1", name] for name in subgraph.defaults]}
        return node

    def _make_node(self, type: str, kind: NodeType, title: str | None, inputs: Json) -> Node:
        node = Node(
            id=len(self.nodes) + 1,
            type=type,
            sockets=[],
            outputs=[{"name": name, "type": of, "links": []} for name, of, _ in parse_slots(kind.outputs)],
            values=[],
            width=kind.width,
            height=kind.height,
            title=title,
        )
        for name, of, optional in parse_slots(kind.inputs):
            socket: Json = {"name": name, "type": of, "link": None}
            if optional:
                socket["shape"] = 7
            self._connect(node, socket, inputs.pop(name, None))
        for name, of, optional in parse_slots(kind.widgets):
            socket = {"name": name, "type": of, "widget": {"name": name}, "link": None}
            if optional:
                socket["shape"] = 7
            value = inputs.pop(name)
            self._connect(node, socket, value if isinstance(value, Output) else None)
            node.values.append(0 if isinstance(value, Output) else value)
            if name in EXTRA_VALUES and type in self.node_types:
                node.values.append(EXTRA_VALUES[name])
        if inputs:
            raise TypeError(f"{title or type} has no input {', '.join(inputs)}")
        self.nodes.append(node)
        return node

    def _connect(self, node: Node, socket: Json, source: Output | None) -> None:
        node.sockets.append(socket)
        if source is None:
            return
        if source.type != socket["type"]:
            raise TypeError(f"{node.type}.{socket['name']} takes {socket['type']}, not {source.type}")
        self._link(source, node, len(node.sockets) - 1)

    def _link(self, source: Output, target: Node, slot: int) -> None:
        link_id = len(self.links) + 1
        self.links.append([link_id, source.node.id, source.slot, target.id, slot, source.type])
        target.sockets[slot]["link"] = link_id
        source.node.outputs[source.slot]["links"].append(link_id)

    def take(self, name: str, type: str, optional: bool = False) -> Output:
        """Give the subgraph an input; the output stands for what comes in."""
        slot: Json = {"name": name, "type": type, "links": []}
        if optional:
            slot["shape"] = 7
        self.entry.outputs.append(slot)
        return Output(self.entry, len(self.entry.outputs) - 1, type)

    def promote(self, node: Node, widget: str, name: str = "", text_height: int = 0) -> None:
        """Show a widget of the inside on the subgraph's node, under its own name or another.

        Args:
            text_height: of a widget with lines of text.
        """
        index = next(i for i, socket in enumerate(node.sockets) if socket["name"] == widget)
        socket = node.sockets[index]
        widgets = [socket["name"] for socket in node.sockets if "widget" in socket]
        place_of_value = 0
        for earlier in widgets[: widgets.index(widget)]:
            place_of_value += 1 + (earlier in EXTRA_VALUES)
        slot = {
            "name": name or widget,
            "type": socket["type"],
            "links": [],
            "value": node.values[place_of_value],
        }
        slot["text_height"] = text_height
        self.entry.outputs.append(slot)
        self._link(Output(self.entry, len(self.entry.outputs) - 1, socket["type"]), node, index)

    def give(self, name: str, source: Output) -> None:
        """Give the subgraph an output."""
        self.exit.sockets.append({"name": name, "type": source.type, "link": None})
        self._link(source, self.exit, len(self.exit.sockets) - 1)

    def note(self, title: str, text: str, width: float = 340) -> Node:
        """Add a Markdown note, as high as its text needs at that width."""
        chars_per_line = int((width - 70) / NOTE_CHAR_WIDTH)
        lines = sum(
            0.8 if not line else -(-len(shown_text(line)) // chars_per_line) for line in text.splitlines()
        )
        node = Node(
            id=len(self.nodes) + 1,
            type="MarkdownNote",
            sockets=[],
            outputs=[],
            values=[text],
            width=width,
            height=lines * NOTE_LINE_HEIGHT + NOTE_PADDING,
            title=title,
            colours=NOTE_COLOURS,
        )
        self.nodes.append(node)
        return node

    def to_json(self, name: str, layout: Box) -> Json:
        """The workflow file: format 0.4, the same bytes for the same graph."""
        groups = place(layout, 0, 0, *measure(layout))
        definitions, first_id, first_link = [], len(self.nodes), len(self.links)
        for subgraph in self.subgraphs:
            definitions.append(subgraph.to_json(first_id, first_link))
            first_id += len(subgraph.graph.nodes)
            first_link += len(subgraph.graph.links)
        nodes = [describe_node(node, order) for order, node in enumerate(self.nodes)]
        for described in nodes:
            expose_preview(described, self.subgraphs, len(self.nodes))
        workflow: Json = {
            "id": str(uuid.uuid5(uuid.NAMESPACE_URL, f"ComfyUI-Lynx/{name}")),
            "revision": 0,
            "last_node_id": first_id,
            "last_link_id": first_link,
            "nodes": nodes,
            "links": self.links,
            "groups": [describe_group(group, number) for number, group in enumerate(groups, 1)],
        }
        if definitions:
            workflow["definitions"] = {"subgraphs": definitions}
        return workflow | {
            "config": {},
            "extra": {"ds": {"scale": 0.7, "offset": [80, 80]}, "workflowRendererVersion": "LG"},
            "version": 0.4,
        }


@dataclass(eq=False)
class Subgraph:
    """A graph that another graph holds as one node."""

    name: str
    graph: Graph = field(repr=False)
    layout: Box = field(repr=False)
    width: int = 330
    description: str = ""
    preview: int | None = None
    """The id of the node inside whose picture is shown outside."""
    picture_height: int = 0

    @property
    def id(self) -> str:
        inside = "/".join(f"{node.type}{node.values}{node.sockets}" for node in self.graph.nodes)
        return str(uuid.uuid5(uuid.NAMESPACE_URL, f"ComfyUI-Lynx/subgraph/{self.name}/{inside}"))

    @property
    def defaults(self) -> Json:
        """Name of each promoted widget -> its value inside."""
        return {slot["name"]: slot["value"] for slot in self.graph.entry.outputs if "value" in slot}

    def as_node_type(self) -> NodeType:
        slots = self.graph.entry.outputs
        described = [(slot, f"{slot['name']}:{slot['type']}{'?' * ('shape' in slot)}") for slot in slots]
        return NodeType(
            inputs=" ".join(text for slot, text in described if "value" not in slot),
            widgets=" ".join(text for slot, text in described if "value" in slot),
            outputs=" ".join(f"{socket['name']}:{socket['type']}" for socket in self.graph.exit.sockets),
            width=self.width,
            picture_height=self.picture_height,
            text_heights=tuple((s["name"], s["text_height"]) for s in slots if s.get("text_height")),
        )

    def to_json(self, first_id: int, first_link: int) -> Json:
        """The definition, with the ids of nodes and links moved behind those of the other graphs."""
        g = self.graph
        groups = place(self.layout, 0, 0, *measure(self.layout))
        width, height = measure(self.layout)
        nodes = [describe_node(node, order) for order, node in enumerate(g.nodes)]
        for node in nodes:
            node["id"] += first_id
            node["inputs"] = [
                socket | {"link": socket["link"] and socket["link"] + first_link} for socket in node["inputs"]
            ]
            node["outputs"] = [
                output | {"links": [link + first_link for link in output["links"]]}
                for output in node["outputs"]
            ]
        return {
            "id": self.id,
            "version": 1,
            "state": {
                "lastGroupId": len(groups),
                "lastNodeId": first_id + len(g.nodes),
                "lastLinkId": first_link + len(g.links),
                "lastRerouteId": 0,
            },
            "revision": 0,
            "config": {},
            "name": self.name,
            "inputNode": describe_end(ENTRY_ID, len(g.entry.outputs), -260, height),
            "outputNode": describe_end(EXIT_ID, len(g.exit.sockets), width + 130, height),
            "inputs": [self._describe_slot(slot, slot["links"], first_link) for slot in g.entry.outputs],
            "outputs": [self._describe_slot(slot, [slot["link"]], first_link) for slot in g.exit.sockets],
            "widgets": [],
            "nodes": nodes,
            "groups": [describe_group(group, number) for number, group in enumerate(groups, 1)],
            "links": [describe_link(link, first_id, first_link) for link in g.links],
            "extra": {"workflowRendererVersion": "LG"},
            "category": "Lynx",
            "description": self.description,
        }

    def _describe_slot(self, slot: Json, links: Sequence[int], first_link: int) -> Json:
        described: Json = {
            "id": str(uuid.uuid5(uuid.NAMESPACE_URL, f"{self.id}/{slot['name']}")),
            "name": slot["name"],
            "type": slot["type"],
            "linkIds": [link + first_link for link in links],
        }
        return described | ({"shape": 7} if "shape" in slot else {})


def expose_preview(described: Json, subgraphs: Sequence[Subgraph], first_id: int) -> None:
    """Name the node whose picture a subgraph's node shows by its id in the file."""
    for subgraph in subgraphs:
        if subgraph.id == described["type"]:
            shown = str((subgraph.preview or 0) + first_id)
            exposure = {"name": PREVIEW, "sourceNodeId": shown, "sourcePreviewName": PREVIEW}
            extra = {"previewExposures": [exposure]} if subgraph.preview else {}
            described["properties"] = described["properties"] | extra
        first_id += len(subgraph.graph.nodes)


def parse_slots(slots: str) -> list[tuple[str, str, bool]]:
    """Read `name:TYPE? ...` as (name, type, optional)."""
    parts = [slot.split(":") for slot in slots.split()]
    return [(name, of.rstrip("?"), of.endswith("?")) for name, of in parts]


def shown_text(line: str) -> str:
    """A line of Markdown without the addresses of its links."""
    pieces = line.split("](")
    return pieces[0] + "".join(piece.split(")", 1)[-1] for piece in pieces[1:])


def describe_node(node: Node, order: int) -> Json:
    described: Json = {
        "id": node.id,
        "type": node.type,
        "pos": [round(node.x), round(node.y)],
        "size": [round(node.width), round(node.height)],
        "flags": {},
        "order": order,
        "mode": 0,
        "inputs": node.sockets,
        "outputs": node.outputs,
        "properties": node.properties,
        "widgets_values": node.values,
    }
    if node.title:
        described["title"] = node.title
    if node.colours:
        described["color"], described["bgcolor"] = node.colours
    return described


def describe_end(id: int, num_slots: int, x: float, height: float) -> Json:
    """The box at the left or right of a subgraph's inside, from which its inputs or outputs go."""
    own_height = 40 + SOCKET_HEIGHT * num_slots
    return {"id": id, "bounding": [x, round(max(0, (height - own_height) / 2)), 130, own_height]}


def describe_link(link: list[Any], first_id: int, first_link: int) -> Json:
    id, origin, origin_slot, target, target_slot, of = link
    return {
        "id": id + first_link,
        "origin_id": origin if origin < 0 else origin + first_id,
        "origin_slot": origin_slot,
        "target_id": target if target < 0 else target + first_id,
        "target_slot": target_slot,
        "type": of,
    }


def describe_group(group: Group, number: int) -> Json:
    return {
        "id": number,
        "title": group.title,
        "bounding": [round(group.x), round(group.y), round(group.width), round(group.height)],
        "color": group.colour,
        "font_size": 20,
        "flags": {},
    }
