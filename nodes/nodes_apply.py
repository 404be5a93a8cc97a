"""The node that puts an identity on a model."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ..lynx_core.formats.adapter import Adapter
from . import sockets
from .host.application import apply_identity
from .host.identity import FaceID, Reference
from .host.messages import raise_plainly, show_note
from .presets import ALL_BLOCKS, CUSTOM, PRESETS, PartSettings, read_settings


def define_part_inputs(part: str, what: str) -> list[io.Input]:
    """Define the four inputs that say how one adapter part acts."""
    return [
        io.Float.Input(
            f"{part}_strength",
            default=1.0,
            min=-10.0,
            max=10.0,
            step=0.05,
            tooltip=f"How strongly {what} acts, -10 to 10; 1 as published, 0 leaves it out.",
        ),
        io.Float.Input(
            f"{part}_start",
            default=0.0,
            min=0.0,
            max=1.0,
            step=0.01,
            tooltip=f"When {what} sets in, as a share of sampling, 0 to 1.",
        ),
        io.Float.Input(
            f"{part}_end",
            default=1.0,
            min=0.0,
            max=1.0,
            step=0.01,
            tooltip=f"When {what} ends, as a share of sampling, 0 to 1.",
        ),
        io.String.Input(
            f"{part}_blocks",
            default=ALL_BLOCKS,
            tooltip=f"Blocks in which {what} acts: 'all', or numbers and ranges such as '0-9, 20, 30-39' "
            "(Wan 14B has 0 to 39).",
        ),
    ]


class LynxApply(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LynxApply",
            display_name="Lynx Apply",
            category=sockets.CATEGORY,
            description="Puts a person on a Wan model: who it is (ID), what it looks like (reference), or both. Use "
            "MODEL and conditionings of this node together. 'middle' is for the triple guidance of Lynx Guider and "
            "Lynx Sampler; any other sampler takes positive and negative alone.",
            search_aliases=["identity", "ip adapter", "personalise", "same person", "consistent face"],
            inputs=[
                io.Model.Input("model", tooltip="Wan 2.1 T2V 14B, VACE 14B or Wan 2.2 14B, in any format."),
                io.Conditioning.Input("positive", tooltip="The prompt."),
                io.Conditioning.Input("negative", tooltip="The negative prompt; it gets the null identity."),
                sockets.Adapter.Input("adapter", tooltip="From Lynx Load Adapter."),
                sockets.FaceID.Input(
                    "id", optional=True, tooltip="From Lynx Encode ID; left out, only the reference acts."
                ),
                sockets.Reference.Input(
                    "reference",
                    optional=True,
                    tooltip="From Lynx Encode Reference; left out, only the ID acts.",
                ),
                io.Combo.Input(
                    "preset",
                    options=[CUSTOM, *PRESETS],
                    default=CUSTOM,
                    # web/lynx_presets.js shows a preset's values in the widgets below.
                    extra_dict={
                        "lynx_presets": {name: settings.list_widgets() for name, settings in PRESETS.items()}
                    },
                    tooltip="Fills the values below; they, and what is linked to them, are what counts. "
                    "'reference overpowers': stiff, front-facing headshots. 'distilled LoRA at cfg 1': few steps.",
                ),
                *define_part_inputs("id", "the ID"),
                *define_part_inputs("ref", "the reference"),
                io.Int.Input(
                    "vace_reference_frames",
                    default=0,
                    min=0,
                    max=64,
                    optional=True,
                    tooltip="Latent frames at the start that are VACE's own reference images, 0 to 64; connect "
                    "trim_latent of WanVaceToVideo. The reference stays out of them.",
                ),
            ],
            outputs=[
                io.Model.Output(),
                io.Conditioning.Output(display_name="positive"),
                io.Conditioning.Output(display_name="negative"),
                io.Conditioning.Output(display_name="middle", tooltip="Negative prompt with the identity."),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    @raise_plainly
    def execute(
        cls,
        model: Any,
        positive: Any,
        negative: Any,
        adapter: Adapter,
        preset: str,
        id_strength: float,
        id_start: float,
        id_end: float,
        id_blocks: str,
        ref_strength: float,
        ref_start: float,
        ref_end: float,
        ref_blocks: str,
        id: FaceID | None = None,
        reference: Reference | None = None,
        vace_reference_frames: int = 0,
    ) -> io.NodeOutput:
        values = {
            "id_strength": id_strength,
            "id_start": id_start,
            "id_end": id_end,
            "id_blocks": id_blocks,
            "ref_strength": ref_strength,
            "ref_start": ref_start,
            "ref_end": ref_end,
            "ref_blocks": ref_blocks,
        }
        settings, remarks = read_settings(preset, values)
        applied = apply_identity(
            model, positive, negative, adapter, id, reference, settings, vace_reference_frames
        )
        if vace_reference_frames and reference is None:
            remarks.append("vace_reference_frames does nothing without a reference.")
        lines = [describe_part("ID", settings.id, id), describe_part("reference", settings.ref, reference)]
        show_note(cls, *lines, warnings=remarks)
        return io.NodeOutput(applied.model, applied.positive, applied.negative, applied.middle)


def describe_part(name: str, part: PartSettings, given: FaceID | Reference | None) -> str:
    """Say in one line how a part acts, or why it does not."""
    if given is None:
        return f"{name}: nothing is connected, its values do nothing"
    if not part.strength:
        return f"{name}: left out, its strength is 0"
    return f"{name} {part.strength:g} from {part.start_percent:.0%} to {part.end_percent:.0%}, blocks {part.blocks}"
