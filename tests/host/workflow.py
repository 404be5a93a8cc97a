"""Turns a workflow file of ComfyUI's editor into the API prompt that its queue button sends.

The editor does this in the browser (`app.graphToPrompt()`); here the same is done from the nodes'
schemas, for what the shipped workflows use: widgets, links, subgraphs, reroutes, muted and bypassed nodes, notes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from subgraphs import flatten

Prompt = dict[str, Any]
Workflow = Mapping[str, Any]
ObjectInfo = Mapping[str, Mapping[str, Any]]

EDITOR_ONLY = frozenset({"Note", "MarkdownNote"})
MUTED, BYPASSED = 2, 4
WIDGET_TYPES = frozenset({"INT", "FLOAT", "STRING", "BOOLEAN", "COMBO"})
DYNAMIC_COMBO = "COMFY_DYNAMICCOMBO_V3"
_MISSING = object()
SEED_NAMES = frozenset({"seed", "noise_seed"})


class WorkflowError(ValueError):
    """The workflow cannot become a prompt; the message names the node and what is wrong."""


@dataclass(frozen=True)
class _Link:
    origin_id: int | str
    origin_slot: int


def workflow_to_prompt(workflow: Workflow, object_info: ObjectInfo) -> Prompt:
    """Convert a workflow in the editor's format to the API format.

    Args:
        workflow: the JSON of a saved workflow, format version 0.4.
        object_info: every node's schema, from the server's `/object_info`.

    Returns:
        node id -> `class_type`, `inputs` and `_meta.title`.

    Raises:
        WorkflowError: when a node is unknown, or stores no value for a widget that has no default.
    """
    workflow = flatten(workflow)
    nodes = {node["id"]: node for node in workflow["nodes"]}
    links = {link[0]: _Link(link[1], link[2]) for link in workflow["links"]}
    prompt: Prompt = {}
    for node in workflow["nodes"]:
        if (
            node["type"] in EDITOR_ONLY
            or node["type"] == "Reroute"
            or node.get("mode", 0) in (MUTED, BYPASSED)
        ):
            continue
        if node["type"] not in object_info:
            raise WorkflowError(f"node {node['id']}: the server has no node {node['type']!r}")
        inputs = _widget_values(node, object_info[node["type"]]) | node.get("promoted", {})
        for slot in node.get("inputs", []):
            source = _follow(slot.get("link"), links, nodes)
            if source is not None:
                inputs[slot["name"]] = [str(source.origin_id), source.origin_slot]
        prompt[str(node["id"])] = {
            "class_type": node["type"],
            "inputs": inputs,
            "_meta": {"title": node.get("title", node["type"])},
        }
    return prompt


def _follow(link_id: int | None, links: Mapping[int, _Link], nodes: Mapping[int, Any]) -> _Link | None:
    """The output that really feeds a link: past reroutes and bypassed nodes, None when muted."""
    while link_id is not None:
        link = links[link_id]
        origin = nodes[link.origin_id]
        if origin.get("mode", 0) == MUTED:
            return None
        if origin["type"] == "Reroute":
            link_id = origin["inputs"][0].get("link")
        elif origin.get("mode", 0) == BYPASSED:
            wanted = origin["outputs"][link.origin_slot]["type"]
            same_type = [slot for slot in origin.get("inputs", []) if slot["type"] == wanted]
            link_id = same_type[0].get("link") if same_type else None
        else:
            return link
    return None


def _widget_values(node: Mapping[str, Any], schema: Mapping[str, Any]) -> dict[str, Any]:
    """Name the values of a node's widgets, which a workflow file holds as a bare list."""
    stored = node.get("widgets_values") or []
    if isinstance(stored, Mapping):
        return dict(stored)
    try:
        return dict(_name_values(schema["input"], iter(stored), prefix=""))
    except LookupError as error:
        count = len(stored)
        raise WorkflowError(
            f"node {node['id']} ({node['type']}) stores {count} widget values: {error}"
        ) from None


def _name_values(section: Mapping[str, Any], values: Iterator[Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for group in ("required", "optional"):
        for name, spec in section.get(group, {}).items():
            kind, options = spec[0], (spec[1] if len(spec) > 1 else {})
            if kind == DYNAMIC_COMBO:
                choices = {option["key"]: option["inputs"] for option in options["options"]}
                chosen = next(values, next(iter(choices)))
                yield prefix + name, chosen
                yield from _name_values(choices.get(chosen, {}), values, prefix=f"{prefix}{name}.")
            elif _is_widget(kind, options):
                value = next(values, _MISSING)
                yield prefix + name, _default_of(name, kind, options) if value is _MISSING else value
                if _has_control_after_generate(name, kind, options):
                    next(values, None)


def _default_of(name: str, kind: Any, options: Mapping[str, Any]) -> Any:
    """What the editor shows where a file of an older version stores no value for a newer widget."""
    choices = kind if isinstance(kind, list) else options.get("options")
    if "default" not in options and not choices:
        raise LookupError(f"none for {name!r}, which has no default")
    return options["default"] if "default" in options else choices[0]


def _is_widget(kind: Any, options: Mapping[str, Any]) -> bool:
    return (isinstance(kind, list) or kind in WIDGET_TYPES) and not options.get("forceInput", False)


def _has_control_after_generate(name: str, kind: Any, options: Mapping[str, Any]) -> bool:
    """The editor puts a fixed/randomize choice behind every seed, and stores it as a value of its own."""
    if "control_after_generate" in options:
        return bool(options["control_after_generate"])
    return kind == "INT" and name in SEED_NAMES
