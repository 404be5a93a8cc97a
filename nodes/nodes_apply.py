"""The node that puts an identity on a model, and the masks by which one becomes another."""

from __future__ import annotations

from typing import Any

import torch
from comfy_api.latest import io

from ..lynx_core.formats.adapter import Adapter
from . import sockets
from .host.application import apply_identity
from .host.identity import FaceID, Reference
from .host.messages import raise_plainly, show_note
from .host.region import LATENT_DIMS, PIXELS_PER_LATENT_FRAME, Region
from .presets import (
    ALL_BLOCKS,
    CONSTANT,
    CURVES,
    CUSTOM,
    FORMER_PRESETS,
    MAX_STRENGTH,
    PRESETS,
    PartSettings,
    name_preset,
    read_settings,
)


def define_strength_input(part: str, tooltip: str) -> io.Input:
    """Define the slider of an adapter part's strength."""
    return io.Float.Input(
        f"{part}_strength",
        default=1.0,
        min=0.0,
        max=2.0,
        step=0.05,
        display_mode=io.NumberDisplay.slider,
        tooltip=tooltip,
    )


def define_applied_outputs() -> list[io.Output]:
    """Define what a node that puts a person on a model gives."""
    return [
        io.Model.Output(),
        io.Conditioning.Output(display_name="positive"),
        io.Conditioning.Output(display_name="negative"),
        io.Conditioning.Output(display_name="middle", tooltip="Negative prompt with the identity."),
    ]


def define_part_inputs(part: str, what: str) -> list[io.Input]:
    """Define the four inputs that say how one adapter part acts."""
    return [
        define_strength_input(
            part,
            f"How strongly {what} acts, 0 to 2; 1 as published, 0 leaves it out. A linked number may be anything from -10 "
            "to 10.",
        ),
        io.Float.Input(
            f"{part}_start",
            advanced=True,
            default=0.0,
            min=0.0,
            max=1.0,
            step=0.01,
            tooltip=f"When {what} sets in, as a share of sampling, 0 to 1.",
        ),
        io.Float.Input(
            f"{part}_end",
            advanced=True,
            default=1.0,
            min=0.0,
            max=1.0,
            step=0.01,
            tooltip=f"When {what} ends, as a share of sampling, 0 to 1.",
        ),
        io.String.Input(
            f"{part}_blocks",
            default=ALL_BLOCKS,
            advanced=True,
            tooltip=f"Blocks in which {what} acts: 'all', 'first half', 'second half', 'middle half', numbers and ranges, "
            "joined by commas, with a weight behind a colon where it is not 1, such as '0-20:1, 25:0.5' (Wan 14B has 0 to "
            "39). The last that names a block counts.",
        ),
    ]


def define_vace_input(what: str) -> io.Input:
    """Define the input that says how many latent frames at the start are no part of the video."""
    return io.Int.Input(
        "vace_reference_frames",
        default=0,
        min=0,
        max=64,
        optional=True,
        advanced=True,
        tooltip="Latent frames at the start that are VACE's own reference images, 0 to 64; connect trim_latent of "
        f"WanVaceToVideo. {what}",
    )


def define_curve_input(part: str, what: str) -> io.Input:
    """Define the input that says how one adapter part changes over sampling."""
    return io.String.Input(
        f"{part}_curve",
        default=CONSTANT,
        optional=True,
        advanced=True,
        tooltip=f"How {what} changes over sampling: {', '.join(CURVES)}, or points 'share of sampling : factor' such "
        "as '0:1, 0.5:0.3, 1:1', 0 to 1 and -10 to 10. The factor goes on the strength.",
    )


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
            search_aliases=["identity", "ip adapter", "personalise", "same person", *sockets.SEARCH_WORDS],
            inputs=[
                io.Model.Input("model", tooltip="Wan 2.1 T2V 14B, VACE 14B or Wan 2.2 14B, in any format."),
                io.Conditioning.Input("positive", tooltip="The prompt."),
                io.Conditioning.Input("negative", tooltip="The negative prompt; it gets the null identity."),
                sockets.Adapter.Input(
                    "adapter",
                    optional=True,
                    tooltip="From Lynx Load Adapter; not needed for an identity that was saved with keep_kv.",
                ),
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
                        "lynx_presets": {name: settings.list_widgets() for name, settings in PRESETS.items()},
                        "lynx_former_presets": FORMER_PRESETS,
                    },
                    tooltip="Fills the values below; they, and what is linked to them, are what counts. 'softer reference': "
                    "against stiff, front-facing headshots. 'distilled LoRA at cfg 1': few steps. 'lite ID + full "
                    "reference': a mix of files, for 6 steps with a distilled LoRA.",
                ),
                *define_part_inputs("id", "the ID"),
                *define_part_inputs("ref", "the reference"),
                define_vace_input("The reference stays out of them."),
                # Behind the others: saved graphs keep the values of widgets by their order.
                define_curve_input("id", "the ID"),
                define_curve_input("ref", "the reference"),
                io.Mask.Input(
                    "mask",
                    optional=True,
                    tooltip="Where this person is, white on black: one image, or one for each frame of the video. With "
                    "several Lynx Apply in a row each person stays in the own mask. Left open, everywhere.",
                ),
            ],
            outputs=define_applied_outputs(),
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def validate_inputs(
        cls, preset: str | None = None, id_strength: float | None = None, ref_strength: float | None = None
    ) -> bool | str:
        """Take what graphs of earlier versions hold, too: a preset's former name, strengths beyond the sliders."""
        faults = []
        for name, strength in (("id_strength", id_strength), ("ref_strength", ref_strength)):
            try:  # the host hands on what the API format holds, before it makes a number of it
                fits = strength is None or -MAX_STRENGTH <= float(strength) <= MAX_STRENGTH
            except (TypeError, ValueError):
                fits = False
            if not fits:
                faults.append(
                    f"{name} must be a number from -{MAX_STRENGTH:g} to {MAX_STRENGTH:g}, got {strength!r}."
                )
        try:
            if preset is not None:
                name_preset(preset)
        except ValueError as error:
            faults.append(f"{error}.")
        return " ".join(faults) or True

    @classmethod
    @raise_plainly
    def execute(
        cls,
        model: Any,
        positive: Any,
        negative: Any,
        preset: str,
        id_strength: float,
        id_start: float,
        id_end: float,
        id_blocks: str,
        ref_strength: float,
        ref_start: float,
        ref_end: float,
        ref_blocks: str,
        adapter: Adapter | None = None,
        id: FaceID | None = None,
        reference: Reference | None = None,
        vace_reference_frames: int = 0,
        id_curve: str = CONSTANT,
        ref_curve: str = CONSTANT,
        mask: torch.Tensor | None = None,
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
            "id_curve": id_curve,
            "ref_curve": ref_curve,
        }
        settings, remarks = read_settings(preset, values)
        region = None if mask is None else Region(mask, vace_reference_frames)
        applied = apply_identity(
            model,
            positive,
            negative,
            adapter,
            id,
            reference,
            settings,
            vace_reference_frames,
            region,
        )
        remarks += applied.remarks
        if vace_reference_frames and reference is None and mask is None:
            remarks.append("vace_reference_frames does nothing without a reference or a mask.")
        lines = [describe_part("ID", settings.id, id), describe_part("reference", settings.ref, reference)]
        if region is not None:
            lines.append(region.describe())
            remarks += region.list_remarks()
        show_note(cls, *lines, warnings=remarks)
        return io.NodeOutput(applied.model, applied.positive, applied.negative, applied.middle)


class LynxFade(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LynxFade",
            display_name="Lynx Fade",
            category=sockets.CATEGORY,
            description="Lets one person become another over the course of the video: two masks, one for each of two "
            "Lynx Apply in a row.",
            search_aliases=[
                "morph",
                "blend over time",
                "transition",
                "age",
                "fade mask",
                *sockets.SEARCH_WORDS,
            ],
            inputs=[
                io.Latent.Input("latent", tooltip="The empty latent of the video: its length counts."),
                io.Float.Input(
                    "start",
                    default=0.25,
                    min=0.0,
                    max=1.0,
                    step=0.05,
                    tooltip="Where the first person begins to fade, as a share of the video, 0 to 1.",
                ),
                io.Float.Input(
                    "end",
                    default=0.75,
                    min=0.0,
                    max=1.0,
                    step=0.05,
                    tooltip="From where on the second person is alone, as a share of the video, 0 to 1; the same as "
                    "start makes a cut.",
                ),
                define_vace_input("They are no part of the fade."),
            ],
            outputs=[
                io.Mask.Output(
                    display_name="first", tooltip="For the mask of the first person's Lynx Apply."
                ),
                io.Mask.Output(
                    display_name="second", tooltip="For the mask of the second person's Lynx Apply."
                ),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    @raise_plainly
    def execute(
        cls, latent: dict[str, torch.Tensor], start: float, end: float, vace_reference_frames: int = 0
    ) -> io.NodeOutput:
        num_latent_frames = count_latent_frames(latent, vace_reference_frames)
        second = fade_in(num_latent_frames, start, end)
        first = 1 - second
        show_note(
            cls,
            f"{len(second)} frames: the first person alone for {int((first == 1).sum())}, the second for "
            f"{int((second == 1).sum())}",
        )
        return io.NodeOutput(first, second)


def count_latent_frames(latent: dict[str, torch.Tensor], vace_reference_frames: int) -> int:
    """Count the frames of a video's latent, without VACE's reference frames.

    Raises:
        ValueError: when it is not that of a video, or has one frame alone.
    """
    shape = latent["samples"].shape
    if len(shape) != LATENT_DIMS:
        raise ValueError(
            f"The latent is {list(shape)}, which is no video's: that is [batch, channels, frames, height, width], such as "
            "the one from EmptyHunyuanLatentVideo."
        )
    num_frames = shape[2] - vace_reference_frames
    if num_frames < 2:
        without = (
            f" without the {vace_reference_frames} of vace_reference_frames" if vace_reference_frames else ""
        )
        raise ValueError(
            f"The latent has {num_frames} frames{without}, and nobody can become another in less than 2: "
            "a video of 5 frames or more."
        )
    return num_frames


def fade_in(num_latent_frames: int, start: float, end: float) -> torch.Tensor:
    """Make a mask that is one grey all over each frame and rises from 0 to 1, slowly at both ends, [frames, 1, 1].

    It changes from latent frame to latent frame: within one, Lynx Apply takes the mean of the mask.

    Args:
        start: share of the video from which on it rises.
        end: share of the video from which on it is 1.

    Raises:
        ValueError: when it would end before it starts, or one of the two people would never be seen.
    """
    if not start <= end:
        raise ValueError(f"The fade ends at {end:g}, before it starts at {start:g}; make end the larger one.")
    share = torch.linspace(0, 1, num_latent_frames, dtype=torch.float64)
    if end == start:
        second = (share >= start - 1e-9).double()
    else:
        rise = ((share - start) / (end - start)).clamp(0, 1)
        second = rise * rise * (3 - 2 * rise)
    for person, weights in (("first", 1 - second), ("second", second)):
        if not weights.any():
            raise ValueError(
                f"With a fade from {start:g} to {end:g} the {person} person is never seen; start is below 1 and end above 0."
            )
    counts = torch.full((num_latent_frames,), PIXELS_PER_LATENT_FRAME)
    counts[0] = 1
    return second.float().repeat_interleave(counts)[:, None, None]


def describe_part(name: str, part: PartSettings, given: FaceID | Reference | None) -> str:
    """Say in one line how a part acts, or why it does not."""
    if given is None:
        return f"{name}: nothing is connected, its values do nothing"
    return describe_settings(name, part)


def describe_settings(name: str, part: PartSettings) -> str:
    """Say in one line how a part acts."""
    if not part.strength:
        return f"{name}: left out, its strength is 0"
    curve = "" if part.curve == CONSTANT else f", curve {part.curve}"
    window = f"from {part.start_percent:.0%} to {part.end_percent:.0%}"
    return f"{name} {part.strength:g}{curve} {window}, blocks {part.blocks}"
