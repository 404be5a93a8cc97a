"""Nodes for triple guidance: a guider for any core sampler, and an all-in-one sampler."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import comfy.samplers
import torch
from comfy_api.latest import io
from comfy_extras.nodes_custom_sampler import Noise_RandomNoise, SamplerCustomAdvanced

from . import sockets
from .host.guidance_schedule import GuidanceSchedule, GuidanceWindow
from .host.messages import show_note
from .host.region import LATENT_DIMS, count_frames
from .host.triple_guidance import TripleGuider, choose_guidance


def define_guidance_inputs() -> list[io.Input]:
    """Define what both nodes take: a model with its three conditionings, and how strongly each guides."""
    return [
        io.Model.Input("model", tooltip="MODEL of Lynx Apply."),
        io.Conditioning.Input("positive", tooltip="positive of Lynx Apply: prompt with identity."),
        io.Conditioning.Input(
            "negative", tooltip="negative of Lynx Apply: negative prompt with the null identity."
        ),
        io.Conditioning.Input(
            "middle",
            optional=True,
            tooltip="middle of Lynx Apply: negative prompt with identity. Left open, it is made of negative's text and "
            "positive's identity.",
        ),
        io.Float.Input(
            "cfg",
            default=5.0,
            min=0.0,
            max=100.0,
            step=0.1,
            tooltip="How strongly the prompt guides, 0 to 100; 5 as published, 1 with distilled LoRAs.",
        ),
        io.Float.Input(
            "identity_cfg",
            default=2.0,
            min=0.0,
            max=100.0,
            step=0.1,
            tooltip="How strongly the identity guides, 0 to 100; 2 as published. 1 saves the prediction without "
            "identity; the same value as cfg saves the middle one.",
        ),
    ]


def define_schedule_inputs() -> list[io.Input]:
    """Define what both nodes take last, for saved graphs keep the values of widgets by their order: when which guidance acts."""
    windows = [
        io.Float.Input(
            f"{scale}_{end}",
            default=default,
            min=0.0,
            max=1.0,
            step=0.01,
            optional=True,
            advanced=True,
            tooltip=f"When {what} {verb} guiding, as a share of sampling, 0 to 1. Outside of its window a guidance counts as "
            "1, and predictions that nothing needs are not made.",
        )
        for scale, what in (("cfg", "the prompt"), ("identity_cfg", "the identity"))
        for end, verb, default in (("start", "starts", 0.0), ("end", "ends", 1.0))
    ]
    every = io.Int.Input(
        "identity_cfg_every",
        default=1,
        min=1,
        max=100,
        optional=True,
        advanced=True,
        tooltip="Predict without identity every so many steps, 1 to 100, and keep what the identity changes in between; "
        "1 as published. On Mini Lynx no likeness is lost with 10, at 70 % of the predictions.",
    )
    return [*windows, every]


def read_schedule(
    cfg: float,
    identity_cfg: float,
    cfg_start: float,
    cfg_end: float,
    identity_cfg_start: float,
    identity_cfg_end: float,
    identity_cfg_every: int,
) -> GuidanceSchedule:
    """Read scales and windows from the widgets.

    Raises:
        ValueError: naming the guidance whose window cannot be.
    """
    windows = []
    for name, start, end in (
        ("cfg", cfg_start, cfg_end),
        ("identity_cfg", identity_cfg_start, identity_cfg_end),
    ):
        try:
            windows.append(GuidanceWindow(start, end))
        except ValueError as error:
            raise ValueError(f"{name}: {error}; set {name}_start and {name}_end") from error
    return GuidanceSchedule(cfg, identity_cfg, *windows, identity_cfg_every)


def make_guider(
    node: type[io.ComfyNode],
    model: Any,
    positive: Any,
    negative: Any,
    middle: Any,
    schedule: GuidanceSchedule,
    sigmas: torch.Tensor | None = None,
    size: str = "",
) -> TripleGuider:
    """Make the guider that the conditionings call for, and say at the node which one that is.

    Args:
        sigmas: of the steps, where they are known.
        size: of the video, where it is known.
    """
    steps = None if sigmas is None else sigmas.tolist()
    guidance = choose_guidance(model, positive, negative, middle, schedule, steps)
    show_note(node, *guidance.lines, *([size] if size else []))
    guider = TripleGuider(model)
    guider.set_conds(positive, negative, guidance.middle)
    guider.set_schedule(schedule)
    return guider


class LynxGuider(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LynxGuider",
            display_name="Lynx Guider",
            category=sockets.CATEGORY,
            description="Triple guidance for Sampler Custom Advanced: prompt and identity guide separately.",
            search_aliases=["cfg guider", "triple guidance", "identity guidance"],
            inputs=[*define_guidance_inputs(), *define_schedule_inputs()],
            outputs=[io.Guider.Output()],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(
        cls,
        model: Any,
        positive: Any,
        negative: Any,
        cfg: float,
        identity_cfg: float,
        middle: Any = None,
        cfg_start: float = 0.0,
        cfg_end: float = 1.0,
        identity_cfg_start: float = 0.0,
        identity_cfg_end: float = 1.0,
        identity_cfg_every: int = 1,
    ) -> io.NodeOutput:
        schedule = read_schedule(
            cfg,
            identity_cfg,
            cfg_start,
            cfg_end,
            identity_cfg_start,
            identity_cfg_end,
            identity_cfg_every,
        )
        return io.NodeOutput(make_guider(cls, model, positive, negative, middle, schedule))


class LynxSampler(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LynxSampler",
            display_name="Lynx Sampler",
            category=sockets.CATEGORY,
            description="KSampler with triple guidance: prompt and identity guide separately.",
            search_aliases=[
                "ksampler",
                "triple guidance",
                "identity guidance",
                "photo to video",
                "character",
            ],
            inputs=[
                *define_guidance_inputs(),
                io.Latent.Input("latent_image", tooltip="From EmptyHunyuanLatentVideo or WanVaceToVideo."),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=0xFFFFFFFFFFFFFFFF,
                    control_after_generate=True,
                    tooltip="Seed of the noise, 0 to 2^64 - 1.",
                ),
                io.Int.Input(
                    "steps",
                    default=50,
                    min=1,
                    max=10000,
                    tooltip="Number of steps, 1 to 10000; 50 as published.",
                ),
                io.Combo.Input(
                    "sampler_name",
                    options=comfy.samplers.SAMPLER_NAMES,
                    default="uni_pc",
                    tooltip="uni_pc as published.",
                ),
                io.Combo.Input(
                    "scheduler",
                    options=comfy.samplers.SCHEDULER_NAMES,
                    default="simple",
                    tooltip="How the noise falls; 'simple' with ModelSamplingSD3 shift 5 is as published.",
                ),
                io.Float.Input(
                    "denoise",
                    default=1.0,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="How much of the latent is made anew, 0 to 1; 1 for text to video.",
                ),
                *define_schedule_inputs(),
            ],
            outputs=[io.Latent.Output()],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(
        cls,
        model: Any,
        positive: Any,
        negative: Any,
        cfg: float,
        identity_cfg: float,
        latent_image: dict[str, Any],
        seed: int,
        steps: int,
        sampler_name: str,
        scheduler: str,
        denoise: float,
        middle: Any = None,
        cfg_start: float = 0.0,
        cfg_end: float = 1.0,
        identity_cfg_start: float = 0.0,
        identity_cfg_end: float = 1.0,
        identity_cfg_every: int = 1,
    ) -> io.NodeOutput:
        schedule = read_schedule(
            cfg,
            identity_cfg,
            cfg_start,
            cfg_end,
            identity_cfg_start,
            identity_cfg_end,
            identity_cfg_every,
        )
        sampling = comfy.samplers.KSampler(
            model, steps, model.load_device, sampler_name, scheduler, denoise, model.model_options
        )
        size = describe_size(latent_image["samples"].shape)
        guider = make_guider(cls, model, positive, negative, middle, schedule, sampling.sigmas, size)
        sampled = SamplerCustomAdvanced.execute(
            Noise_RandomNoise(seed),
            guider,
            comfy.samplers.sampler_object(sampler_name),
            sampling.sigmas,
            latent_image,
        )
        return io.NodeOutput(sampled.args[0])


def describe_size(shape: Sequence[int]) -> str:
    """Say which video a latent [batch, channels, frames, height, width] becomes: lengths are rounded on the way to it."""
    if len(shape) != LATENT_DIMS:
        return ""
    frames, height, width = shape[2:]
    return f"{8 * width} x {8 * height} px, {count_frames(frames)} frames (a length is 4 n + 1)"
