"""Takes a workflow's subgraphs apart, as the editor does before it queues: nodes inside get ids such as "7:12"."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

Workflow = Mapping[str, Any]
ENTRY_ID, EXIT_ID = -10, -20
LinkRow = list[Any]


def flatten(workflow: Workflow) -> dict[str, Any]:
    """Give the same workflow without subgraphs.

    A node inside keeps in `promoted` the values that the subgraph's node has for its widgets.
    """
    definitions = {each["id"]: each for each in workflow.get("definitions", {}).get("subgraphs", ())}
    nodes = {node["id"]: dict(node) for node in workflow["nodes"]}
    links = {row[0]: list(row) for row in workflow["links"]}
    while holders := [node for node in nodes.values() if node["type"] in definitions]:
        for holder in holders:
            del nodes[holder["id"]]
            for node in _open_holder(holder, definitions[holder["type"]], links):
                nodes[node["id"]] = node
    return {**workflow, "nodes": list(nodes.values()), "links": list(links.values())}


def _open_holder(
    holder: dict[str, Any], definition: Workflow, links: dict[Any, LinkRow]
) -> Iterator[dict[str, Any]]:
    """Give the nodes inside; `links` is changed so that they lead to them."""
    inside = {row["id"]: row for row in definition["links"]}
    sockets = {socket["name"]: socket for socket in holder.get("inputs", ())}
    widgets = [name for name, socket in sockets.items() if "widget" in socket]
    values = dict(zip(widgets, holder.get("widgets_values") or (), strict=False)) | holder.get("promoted", {})
    exits = {link["target_slot"]: link for link in inside.values() if link["target_id"] == EXIT_ID}
    for row in links.values():
        if row[1] == holder["id"]:
            leaving = exits[row[2]]
            row[1], row[2] = _name(holder, leaving["origin_id"]), leaving["origin_slot"]
    for link in inside.values():
        if link["origin_id"] != ENTRY_ID and link["target_id"] != EXIT_ID:
            name = _name(holder, link["id"])
            links[name] = [
                name, _name(holder, link["origin_id"]), link["origin_slot"],
                _name(holder, link["target_id"]), link["target_slot"], link["type"],
            ]  # fmt: skip
    for node in definition["nodes"]:
        opened = {**node, "id": _name(holder, node["id"]), "inputs": [], "promoted": {}}
        if holder.get("mode", 0):
            opened["mode"] = holder["mode"]
        for socket in node.get("inputs", ()):
            link = inside.get(socket.get("link"))
            source: Any = None
            if link is not None and link["origin_id"] == ENTRY_ID:
                taken = sockets[definition["inputs"][link["origin_slot"]]["name"]]
                source = taken.get("link")
                if source is None and taken["name"] in values:
                    opened["promoted"][socket["name"]] = values[taken["name"]]
            elif link is not None:
                source = _name(holder, link["id"])
            opened["inputs"].append({**socket, "link": source})
        yield opened


def _name(holder: Mapping[str, Any], inner_id: Any) -> str:
    return f"{holder['id']}:{inner_id}"
