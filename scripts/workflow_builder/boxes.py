"""Nodes as boxes in rows and columns: measured as the editor's classic canvas draws them, so that none overlap."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

Json = dict[str, Any]

TITLE_HEIGHT = 30
GAP, ROW_GAP, GROUP_PADDING, GROUP_TITLE_HEIGHT = 70, 20, 20, 36
"""Links need the gap between columns; between rows there are none."""


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
class Space:
    """Room left free, in which a link passes."""

    width: float = 0
    height: float = 0


@dataclass
class Row:
    """Boxes side by side."""

    children: Sequence[Box]
    gap: float = GAP


@dataclass
class Column:
    """Boxes below each other, all as wide as the widest."""

    children: Sequence[Box]
    gap: float = ROW_GAP


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


Box = Node | Space | Row | Column | Group


def row(*children: Box, gap: float = GAP) -> Row:
    return Row(children, gap)


def column(*children: Box, gap: float = ROW_GAP) -> Column:
    return Column(children, gap)


def measure(box: Box) -> tuple[float, float]:
    """Width and height of a box, title bars included."""
    if isinstance(box, Node):
        return box.width, box.height + TITLE_HEIGHT
    if isinstance(box, Space):
        return box.width, box.height
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
    if isinstance(box, Space):
        return []
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
