"""The node that bakes a reference face through the base model."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ..lynx_core.faces.crops import FaceCrop
from ..lynx_core.faces.photo import convert_photos
from ..lynx_core.formats.adapter import Adapter
from . import sockets
from .errors import raise_plainly
from .notes import show_note
from .reference_pass import encode_reference


class LynxEncodeReference(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LynxEncodeReference",
            display_name="Lynx Encode Reference",
            category=sockets.CATEGORY,
            description="Lets the base model look at the 256 px face once, and keeps the Ref-adapter's keys and values "
            "of it. Load LoRAs before this node: the features are the model's own. Each expert of Wan 2.2 needs its "
            "own.",
            search_aliases=["reference features", "ref adapter", "face reference"],
            inputs=[
                sockets.Adapter.Input("adapter", tooltip="An adapter with reference layers (lynx_full)."),
                sockets.Face.Input("face", tooltip="From Lynx Crop Face."),
                io.Model.Input("model", tooltip="The model that will be sampled, with its LoRAs on."),
                io.Clip.Input(
                    "clip", tooltip="umt5_xxl, type wan; it encodes the fixed text 'image of a face'."
                ),
                io.Vae.Input("vae", tooltip="wan_2.1_vae"),
                io.Int.Input(
                    "photo_number",
                    default=1,
                    min=1,
                    max=64,
                    tooltip="Which photo of a batch is the reference, 1 to 64; an adapter takes only one.",
                ),
            ],
            outputs=[sockets.Reference.Output(display_name="reference")],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    @raise_plainly
    def execute(
        cls, adapter: Adapter, face: list[FaceCrop], model: Any, clip: Any, vae: Any, photo_number: int
    ) -> io.NodeOutput:
        if not 1 <= photo_number <= len(face):
            count = (
                "is only 1 photo; its number is 1"
                if len(face) == 1
                else f"are {len(face)} photos; choose 1 to {len(face)}"
            )
            raise ValueError(
                f"photo_number is {photo_number}, but in what is connected to face there {count}."
            )
        crop = convert_photos([face[photo_number - 1].reference_crop])[0]
        reference = encode_reference(model, adapter, clip, vae, crop)
        kept_mb = 2 * reference.face.kv_cache.count_bytes() / 1e6
        show_note(cls, f"Baked through {reference.base.name}: {kept_mb:.1f} MB with its null.")
        return io.NodeOutput(reference)
