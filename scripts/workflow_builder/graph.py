"""A small builder of ComfyUI graphs: nodes by name, boxes in rows and columns, JSON as the editor saves it.

Nodes are measured as the editor's classic canvas draws them (a title bar of 30, 20 a socket, 24 a
widget), so boxes never overlap; the tables of node types are checked against both hosts by
`tests/host/test_workflows.py`.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

Json = dict[str, Any]

TITLE_HEIGHT, SOCKET_HEIGHT, WIDGET_HEIGHT = 30, 20, 24
GAP, GROUP_PADDING, GROUP_TITLE_HEIGHT = 40, 30, 50
NOTE_CHAR_WIDTH, NOTE_LINE_HEIGHT, NOTE_PADDING = 5.8, 15, 40
NOTE_COLOURS = ("#222", "#000")
PACK_ID, CORE_ID = "comfyui-lynx", "comfy-core"
EXTRA_VALUES = {"seed": "fixed", "noise_seed": "fixed", "image": "image"}
"""Widgets behind which the editor keeps one more value: what happens to a seed after a run, the upload button."""


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

    @property
    def height(self) -> int:
        """Height without the title bar."""
        num_sockets = max(len(self.inputs.split()), len(self.outputs.split()))
        num_widgets = len(self.widgets.split()) + self.newer_widgets
        num_widgets += sum(name.split(":")[0] in EXTRA_VALUES for name in self.widgets.split())
        widgets = 8 + WIDGET_HEIGHT * num_widgets if num_widgets else 0
        return 6 + SOCKET_HEIGHT * num_sockets + widgets + self.picture_height


@dataclass(frozen=True)
class Output:
    """One output of a node, to be given to another node's input."""

    node: Node
    slot: int
    type: str


@dataclass
class Node:
    """A node in a graph; `node["MODEL"]` is its output of that name."""

    id: int
    type: str
    sockets: list[Json]
    outputs: list[Json]
    values: list[Any]
    width: float
    height: float
    properties: Json = field(default_factory=dict)
    title: str | None = None
    colours: tuple[str, str] | None = None
    x: float = 0
    y: float = 0

    def __getitem__(self, name: str) -> Output:
        slot = [output["name"] for output in self.outputs].index(name)
        return Output(self, slot, self.outputs[slot]["type"])


@dataclass
class Row:
    """Boxes side by side."""

    children: Sequence[Box]
    gap: float = GAP


@dataclass
class Column:
    """Boxes below each other, all as wide as the widest."""

    children: Sequence[Box]
    gap: float = GAP - 10


@dataclass
class Group:
    """A titled, coloured frame round a box."""

    title: str
    colour: str
    child: Box
    x: float = 0
    y: float = 0
    width: float = 0
    height: float = 0


Box = Node | Row | Column | Group


def row(*children: Box, gap: float = GAP) -> Row:
    return Row(children, gap)


def column(*children: Box, gap: float = GAP - 10) -> Column:
    return Column(children, gap)


def measure(box: Box) -> tuple[float, float]:
    """Width and height of a box, title bars included."""
    if isinstance(box, Node):
        return box.width, box.height + TITLE_HEIGHT
    if isinstance(box, Group):
        width, height = measure(box.child)
        return width + 2 * GROUP_PADDING, height + GROUP_TITLE_HEIGHT + GROUP_PADDING
    sizes = [measure(child) for child in box.children]
    widths, heights = zip(*sizes, strict=True)
    gaps = box.gap * (len(sizes) - 1)
    if isinstance(box, Row):
        return sum(widths) + gaps, max(heights)
    return max(widths), sum(heights) + gaps


def place(box: Box, x: float, y: float, width: float, height: float) -> list[Group]:
    """Put a box into a rectangle: columns widen what is in them, frames fill it.

    Returns:
        The groups inside, from the outside in.
    """
    if isinstance(box, Node):
        box.x, box.y, box.width = x, y + TITLE_HEIGHT, width
        return []
    if isinstance(box, Group):
        box.x, box.y, box.width, box.height = x, y, width, height
        inner_width, inner_height = width - 2 * GROUP_PADDING, height - GROUP_TITLE_HEIGHT - GROUP_PADDING
        return [
            box,
            *place(box.child, x + GROUP_PADDING, y + GROUP_TITLE_HEIGHT, inner_width, inner_height),
        ]
    groups = []
    bottom = y + height
    for child in box.children:
        child_width, child_height = measure(child)
        if isinstance(box, Row):
            groups += place(child, x, y, child_width, height)
            x += child_width + box.gap
        else:
            is_last = child is box.children[-1]
            groups += place(child, x, y, width, bottom - y if is_last else child_height)
            y += child_height + box.gap
    return groups


class Graph:
    """A workflow under construction.

    Args:
        node_types: what is known of each node type; see `NodeType`.
    """

    def __init__(self, node_types: dict[str, NodeType]) -> None:
        self.node_types = node_types
        self.nodes: list[Node] = []
        self.links: list[list[Any]] = []

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
        node.properties = {"Node name for S&R": type, "cnr_id": PACK_ID if "Lynx" in type else CORE_ID}
        if models:
            node.properties["models"] = list(models)
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
            if name in EXTRA_VALUES:
                node.values.append(EXTRA_VALUES[name])
        if inputs:
            raise TypeError(f"{type} has no input {', '.join(inputs)}")
        self.nodes.append(node)
        return node

    def _connect(self, node: Node, socket: Json, source: Output | None) -> None:
        node.sockets.append(socket)
        if source is None:
            return
        if source.type != socket["type"]:
            raise TypeError(f"{node.type}.{socket['name']} takes {socket['type']}, not {source.type}")
        link_id = len(self.links) + 1
        self.links.append([link_id, source.node.id, source.slot, node.id, len(node.sockets) - 1, source.type])
        socket["link"] = link_id
        source.node.outputs[source.slot]["links"].append(link_id)

    def note(self, title: str, text: str, width: float = 360) -> Node:
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
        return {
            "id": str(uuid.uuid5(uuid.NAMESPACE_URL, f"ComfyUI-Lynx/{name}")),
            "revision": 0,
            "last_node_id": len(self.nodes),
            "last_link_id": len(self.links),
            "nodes": [describe_node(node, order) for order, node in enumerate(self.nodes)],
            "links": self.links,
            "groups": [describe_group(group, number) for number, group in enumerate(groups, 1)],
            "config": {},
            "extra": {"ds": {"scale": 0.5, "offset": [40, 40]}, "workflowRendererVersion": "LG"},
            "version": 0.4,
        }


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


def describe_group(group: Group, number: int) -> Json:
    return {
        "id": number,
        "title": group.title,
        "bounding": [round(group.x), round(group.y), round(group.width), round(group.height)],
        "color": group.colour,
        "font_size": 24,
        "flags": {},
    }
