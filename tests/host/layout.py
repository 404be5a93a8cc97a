"""Where a workflow's nodes and links lie, as the editor's canvas draws them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

TITLE_HEIGHT, SLOT_HEIGHT = 30, 20
SCREEN = 1920, 1080
FIT_SHARE, FIT_MARGIN = 0.75, 10
"""The editor shows a template so that it fills three quarters of the canvas."""
SOCKET_DEPTH = 12
"""The middle of a socket lies inside the node's edge."""
EXTRA_SHARE = 0.25
"""A link leaves its socket straight, for this share of its length."""

Box = tuple[float, float, float, float]
Point = tuple[float, float]
End = tuple[Any, Point]
"""A node, and where a link touches it."""


def box_of(node: dict[str, Any]) -> Box:
    """Left, top, right and bottom of a node with its title bar."""
    (x, y), (width, height) = node["pos"], node["size"]
    return x, y - TITLE_HEIGHT, x + width, y + height


def box_of_group(group: dict[str, Any]) -> Box:
    x, y, width, height = group["bounding"]
    return x, y, x + width, y + height


def is_inside(inner: Box, outer: Box) -> bool:
    left, top, right, bottom = inner
    return left >= outer[0] and top >= outer[1] and right <= outer[2] and bottom <= outer[3]


def overlaps(a: Box, b: Box) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def measure_zoom(workflow: dict[str, Any]) -> float:
    """The zoom at which the editor opens a template on a screen of 1920 x 1080."""
    boxes = [*map(box_of, workflow["nodes"]), *map(box_of_group, workflow["groups"])]
    left, top = min(box[0] for box in boxes), min(box[1] for box in boxes)
    right, bottom = max(box[2] for box in boxes), max(box[3] for box in boxes)
    width, height = right - left + 2 * FIT_MARGIN, bottom - top + 2 * FIT_MARGIN
    return min(1.0, FIT_SHARE * SCREEN[0] / width, FIT_SHARE * SCREEN[1] / height)


def place_slot(node: dict[str, Any], slot: int, is_output: bool) -> Point:
    (x, y), (width, _) = node["pos"], node["size"]
    sockets = node["outputs"] if is_output else [s for s in node["inputs"] if "widget" not in s]
    names = [socket["name"] for socket in sockets]
    if is_output:
        return x + width, y + SLOT_HEIGHT * (slot + 0.7)
    name = node["inputs"][slot]["name"]
    if name in names:
        return x, y + SLOT_HEIGHT * (names.index(name) + 0.7)
    widgets = [s["name"] for s in node["inputs"] if "widget" in s]
    return x, y + SLOT_HEIGHT * max(len(names), len(node["outputs"])) + 20 + 24 * widgets.index(name)


def trace_link(start: Point, end: Point, num_points: int = 60) -> Iterator[Point]:
    """Points of the curve that the editor draws."""
    (x0, y0), (x3, y3) = start, end
    reach = EXTRA_SHARE * ((x3 - x0) ** 2 + (y3 - y0) ** 2) ** 0.5
    for step in range(1, num_points):
        t = step / num_points
        a, b, c, d = (1 - t) ** 3, 3 * t * (1 - t) ** 2, 3 * t * t * (1 - t), t**3
        yield a * x0 + b * (x0 + reach) + c * (x3 - reach) + d * x3, (a + b) * y0 + (c + d) * y3


def find_hidden_links(workflow: dict[str, Any]) -> list[str]:
    """Links that run behind a node which they do not end at."""
    nodes = {node["id"]: node for node in workflow["nodes"]}
    links = [
        (
            (origin, place_slot(nodes[origin], origin_slot, is_output=True)),
            (target, place_slot(nodes[target], target_slot, is_output=False)),
        )
        for _, origin, origin_slot, target, target_slot, _ in workflow["links"]
    ]
    return find_hidden({id: (name_of(node), box_of(node)) for id, node in nodes.items()}, links)


def find_hidden(boxes: dict[Any, tuple[str, Box]], links: list[tuple[End, End]]) -> list[str]:
    """The same from what is drawn: node -> name and box, and where each link begins and ends."""
    hidden = []
    for (origin, start), (target, end) in links:
        points = list(trace_link(start, end))
        for node, (name, (left, top, right, bottom)) in boxes.items():
            own = SOCKET_DEPTH if node in (origin, target) else 0
            if any(left + own < x < right - own and top < y < bottom for x, y in points):
                hidden.append(f"{boxes[origin][0]} to {boxes[target][0]}: behind {name}")
    return hidden


def name_of(node: dict[str, Any]) -> str:
    return str(node.get("title", node["type"]))
