"""Nodes that compare strengths: a list of them, and the videos side by side."""

from __future__ import annotations

import numpy as np
import torch
from comfy_api.latest import io

from ..lynx_core.evaluation.video_grid import draw_grid
from ..lynx_core.faces.photo import convert_image, convert_photos
from . import sockets
from .host.messages import raise_plainly, show_note

MAX_VIDEOS = 64


class LynxSweep(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LynxSweep",
            display_name="Lynx Sweep",
            category=sockets.CATEGORY,
            description="Gives every pair of two lists of strengths: what is behind it runs once for each, with the same "
            "seed. Lynx Sweep Grid lays the videos side by side.",
            search_aliases=["xy plot", "compare", "grid", "strength sweep", "parameter sweep"],
            inputs=[
                io.String.Input(
                    "id_strengths",
                    default="0, 0.5, 1",
                    tooltip="Numbers of 0 to 2 with commas between; one column each.",
                ),
                io.String.Input(
                    "ref_strengths",
                    default="0, 0.5, 1",
                    tooltip="Numbers of 0 to 2 with commas between; one row each.",
                ),
            ],
            outputs=[
                io.Float.Output(
                    display_name="id_strength", is_output_list=True, tooltip="For Lynx Person or Lynx Apply."
                ),
                io.Float.Output(
                    display_name="ref_strength", is_output_list=True, tooltip="For Lynx Person or Lynx Apply."
                ),
                io.String.Output(display_name="label", is_output_list=True, tooltip="For Lynx Sweep Grid."),
                io.Int.Output(display_name="columns", tooltip="For Lynx Sweep Grid."),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    @raise_plainly
    def execute(cls, id_strengths: str, ref_strengths: str) -> io.NodeOutput:
        columns = read_strengths("id_strengths", id_strengths)
        rows = read_strengths("ref_strengths", ref_strengths)
        pairs = [(column, row) for row in rows for column in columns]
        if len(pairs) > MAX_VIDEOS:
            raise ValueError(
                f"{len(columns)} by {len(rows)} strengths are {len(pairs)} videos; at most {MAX_VIDEOS} are made at once."
            )
        show_note(cls, f"{len(pairs)} videos, {len(columns)} in a row")
        labels = [f"ID {column:g}   reference {row:g}" for column, row in pairs]
        return io.NodeOutput([pair[0] for pair in pairs], [pair[1] for pair in pairs], labels, len(columns))


class LynxSweepGrid(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LynxSweepGrid",
            display_name="Lynx Sweep Grid",
            category=sockets.CATEGORY,
            description="Lays a list of videos side by side, with a label above each.",
            search_aliases=["xy plot", "compare", "grid", "side by side", "contact sheet"],
            inputs=[
                io.Image.Input("images", tooltip="Frames of each video, from VAE Decode."),
                io.String.Input("label", force_input=True, tooltip="From Lynx Sweep."),
                io.Int.Input(
                    "columns", default=3, min=1, max=MAX_VIDEOS, tooltip="Videos in a row, 1 to 64."
                ),
            ],
            outputs=[io.Image.Output()],
            hidden=[io.Hidden.unique_id],
            is_input_list=True,
        )

    @classmethod
    @raise_plainly
    def execute(cls, images: list[torch.Tensor], label: list[str], columns: list[int]) -> io.NodeOutput:
        videos = [np.stack(convert_image(video)) for video in images]
        return io.NodeOutput(convert_photos(list(draw_grid(videos, label, columns[0]))))


def read_strengths(name: str, text: str) -> list[float]:
    """Read numbers with commas between.

    Raises:
        ValueError: when one is no number from 0 to 2, or there is none.
    """
    parts = [part.strip() for part in text.split(",") if part.strip()]
    numbers = []
    for part in parts:
        try:
            numbers.append(float(part))
        except ValueError as error:
            raise ValueError(
                f"{name} {text!r}: {part!r} is no number; write for example '0, 0.5, 1'"
            ) from error
    if not numbers or not all(0 <= number <= 2 for number in numbers):
        raise ValueError(f"{name} {text!r}: write numbers of 0 to 2, for example '0, 0.5, 1'")
    return numbers
