"""The demo's edits of a shipped workflow, made in the editor's own format: so the video brings back what made it."""

from __future__ import annotations

import base64
import copy
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from PIL import Image
from workflow import SEED_NAMES

Json = dict[str, Any]
PHOTO_NAME = "lynx_demo_photo.jpg"
MAX_PHOTO_PX = 768
"""Of the photo that travels inside the workflow."""
PICTURES_KEY = "lynx_pictures"
"""Of a workflow's `extra`: pictures by name, which web/lynx_pictures.js puts into the input folder."""


def edit_workflow(workflow: Json, values: Json, photo: Path | None, is_aligned: bool = False) -> Json:
    """Give a workflow with what was asked for in it.

    Args:
        values: widget -> value, for every node at the top that shows it; None leaves it.
        photo: the picture that takes the place of the workflow's own.
        is_aligned: the photo is a face crop, which no face is looked for in.
    """
    edited = copy.deepcopy(workflow)
    for name, value in values.items():
        if value is not None:
            set_widget(edited["nodes"], name, value)
    for node in list_inner_nodes(edited):
        if node["type"] == "LynxCropFace":
            set_widget([node], "already_aligned", is_aligned)
    if photo is not None:
        put_photo(edited)
        edited["extra"][PICTURES_KEY] = {PHOTO_NAME: encode_photo(photo)}
    return edited


def list_inner_nodes(workflow: Json) -> Iterator[Json]:
    for subgraph in workflow.get("definitions", {}).get("subgraphs", []):
        yield from subgraph["nodes"]


def set_widget(nodes: list[Json], name: str, value: Any) -> None:
    """Set a widget on every node that has it."""
    for node in nodes:
        place = 0
        for socket in node["inputs"]:
            if "widget" not in socket:
                continue
            if socket["name"] == name:
                node["widgets_values"][place] = value
                if name in SEED_NAMES:
                    node["widgets_values"][place + 1] = "fixed"  # what was made can be made again
            place += 1 + (socket["name"] in (*SEED_NAMES, "image", "file"))


def put_photo(workflow: Json) -> None:
    """Let the person come from the demo's photo: in Load Image, or in one that is put in front of the identity."""
    loaders = [node for node in workflow["nodes"] if node["type"] == "LoadImage"]
    if loaders:
        set_widget(loaders, "image", PHOTO_NAME)
        return
    link = next(row for row in workflow["links"] if row[5] == "IMAGE")
    source = next(node for node in workflow["nodes"] if node["id"] == link[1])
    source["outputs"][link[2]]["links"].remove(link[0])
    workflow["last_node_id"] += 1
    link[1], link[2] = workflow["last_node_id"], 0
    below = max(
        node["pos"][1] + node["size"][1] for node in workflow["nodes"] if node["pos"][0] == source["pos"][0]
    )
    workflow["nodes"].append(
        {
            "id": workflow["last_node_id"],
            "type": "LoadImage",
            "title": "Photo of the person",
            "pos": [source["pos"][0], below + 50],
            "size": [source["size"][0], 300],
            "flags": {},
            "order": 0,
            "mode": 0,
            "inputs": [
                {"name": "image", "type": "COMBO", "widget": {"name": "image"}, "link": None},
            ],
            "outputs": [
                {"name": "IMAGE", "type": "IMAGE", "links": [link[0]]},
                {"name": "MASK", "type": "MASK", "links": []},
            ],
            "properties": {"Node name for S&R": "LoadImage", "cnr_id": "comfy-core"},
            "widgets_values": [PHOTO_NAME, "image"],
        }
    )


def encode_photo(path: Path) -> str:
    """The photo as a small JPEG in a data URL."""
    with Image.open(path) as opened:
        photo = opened.convert("RGB")
    photo.thumbnail((MAX_PHOTO_PX, MAX_PHOTO_PX))
    content = io.BytesIO()
    photo.save(content, "JPEG", quality=90)
    return f"data:image/jpeg;base64,{base64.b64encode(content.getvalue()).decode()}"
