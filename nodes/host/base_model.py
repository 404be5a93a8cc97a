"""Which base models an adapter fits, and how one is told from another."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from comfy.model_base import ModelType
from torch import Tensor, nn

from ...lynx_core.formats.adapter import Adapter
from ...lynx_core.models.adapter_configs import describe_base_misfit

WAN_MODULES = "comfy.ldm.wan."
"""Where the host keeps its Wan models."""

SUPPORTED_CLASSES = ("WanModel", "VaceWanModel")
"""The host's classes that run plain Wan blocks on the video's own latent."""

FAMILY_PARTS = {
    "img_emb": "a Wan 2.1 image-to-video model with image cross-attention",
    "control_adapter": "a Wan camera-control model",
    "casual_audio_encoder": "a Wan 2.2 S2V (speech-to-video) model",
    "audio_proj": "a HuMo model",
    "face_adapter": "a Wan 2.2 Animate model",
    "patch_embedding_pose": "a SCAIL model",
    "patch_embedding_global": "a WanDancer model",
}
"""Parts that tell a family of its own from the plain model: each changes what the blocks see."""

ATTENTION_PARTS = ("q", "k", "v", "o", "norm_q", "norm_k")

USE_INSTEAD = (
    "Use a text-to-video or VACE model of Wan 2.1, or a text-to-video or image-to-video model of Wan 2.2."
)

SAMPLED_WEIGHTS = (
    *(f"{part}.{name}" for part in ("self_attn", "cross_attn") for name in ("q", "k", "v", "o", "norm_k")),
    "ffn.0",
    "ffn.2",
)
"""Of every block: a LoRA of any of them, merged into the file, makes another base."""

RUNS, RUN_LENGTH = 4, 16
"""A weight is sampled at this many places, this many numbers each: a page of the file a place."""


@dataclass(frozen=True)
class BaseModel:
    """A Wan model, told by its content: what precomputed keys and values depend on."""

    name: str
    dim: int
    num_blocks: int
    checksum: str


def describe_base(model: Any) -> BaseModel:
    """Describe a host MODEL by its content.

    Raises:
        ValueError: when it is no Wan model that a Lynx adapter can act on.
    """
    diffusion_model = model.get_model_object("diffusion_model")
    diffusion_model = getattr(diffusion_model, "_orig_mod", diffusion_model)
    name = name_base(model)
    if not has_wan_blocks(diffusion_model):
        raise ValueError(
            f"Lynx works on Wan video models; this MODEL is {name} ({type(diffusion_model).__name__}). "
            "Load Wan 2.1 T2V 14B (or another Wan of that size) with Load Diffusion Model."
        )
    family = find_family(model, diffusion_model)
    if family is not None:
        raise ValueError(
            f"This MODEL, {name} (dim {diffusion_model.dim}), is {family}, which Lynx was not made for. {USE_INSTEAD}"
        )
    return BaseModel(
        name=name,
        dim=diffusion_model.dim,
        num_blocks=len(diffusion_model.blocks),
        checksum=sum_weights(model, diffusion_model),
    )


def has_wan_blocks(diffusion_model: nn.Module) -> bool:
    """Tell a Wan model by its structure: other packs exchange the class of the model and of its blocks."""
    blocks = getattr(diffusion_model, "blocks", None)
    return (
        isinstance(blocks, nn.ModuleList)
        and len(blocks) > 0
        and all(
            hasattr(diffusion_model, name) for name in ("dim", "patch_size", "text_dim", "patch_embedding")
        )
        and all(
            hasattr(getattr(block, attention, None), part)
            for block in blocks
            for attention in ("self_attn", "cross_attn")
            for part in ATTENTION_PARTS
        )
    )


def find_family(model: Any, diffusion_model: nn.Module) -> str | None:
    """Name the family of a Wan model that Lynx does not act on; None where it does."""
    for part, family in FAMILY_PARTS.items():
        if getattr(diffusion_model, part, None) is not None:
            return family
    # Another pack may have exchanged the class, for this MODEL or for the one that was sampled last.
    kind = model.object_patches_backup.get("diffusion_model.__class__", type(diffusion_model))
    for base in kind.__mro__:
        if base.__module__.startswith(WAN_MODULES) and base.__name__ not in SUPPORTED_CLASSES:
            return f"of the host's family {base.__name__}"
    if model.model.model_type is not ModelType.FLOW:
        return f"one that does not make a video from noise ({type(model.model).__name__})"
    return None


def name_base(model: Any) -> str:
    """Name a base by the file it came from where the host remembers it, else by its kind."""
    kind = type(model.model).__name__
    init = getattr(model, "cached_patcher_init", None)
    path = init[1][0] if init and init[1] else None
    if isinstance(path, str):
        return f"{Path(path).name} ({kind})"
    loader = "GGUF base model" if "GGUF" in type(model).__name__ else "base model"
    return f"the {loader} of kind {kind}"


def sum_weights(model: Any, diffusion_model: Any) -> str:
    """Hash samples of every block's weights, as they are without the LoRAs of the graph.

    The same numbers give the same sum, stored in fp32, bf16, fp16 or plain fp8. Quantised blocks (GGUF,
    scaled fp8) are taken as stored: the sum of a GGUF file is not that of the file it was made from.
    A bf16 and an fp16 file made of one fp32 file hold other numbers, and have other sums.
    """
    digest = hashlib.sha256()
    for i, block in enumerate(diffusion_model.blocks):
        block = getattr(block, "_orig_mod", block)
        samples = []
        for name in SAMPLED_WEIGHTS:
            backup = model.backup.get(f"diffusion_model.blocks.{i}.{name}.weight")
            weight = block.get_submodule(name).weight if backup is None else backup.weight
            samples.extend(sample(tensor) for tensor in list_stored(weight))
        digest.update(torch.cat(samples).cpu().numpy().tobytes())
    return digest.hexdigest()[:16]


def list_stored(weight: Tensor) -> Iterator[Tensor]:
    """List the plain tensors that a weight is stored in: one, or quantised numbers with their scales."""
    quantised = getattr(weight, "_qdata", None)
    if quantised is None:
        yield weight.detach().as_subclass(Tensor)
        return
    yield quantised
    scales = vars(weight._params)
    yield from (scales[name] for name in sorted(scales) if isinstance(scales[name], Tensor))


def sample(weight: Tensor) -> Tensor:
    """Take a few numbers of a weight, spread over it, as bytes on the weight's device."""
    flat = weight.reshape(-1)
    length = min(RUN_LENGTH, len(flat))
    starts = [run * (len(flat) - length) // (RUNS - 1) for run in range(RUNS)]
    runs = [flat[start : start + length] for start in starts]
    if weight.is_floating_point():
        # Rounded twice, so that neither a load in fp16 nor one in bf16 changes the outcome.
        runs = [run.to(torch.float16).to(torch.bfloat16) for run in runs]
    return torch.cat([run.view(torch.uint8) for run in runs])


def check_adapter_fits(adapter: Adapter, base: BaseModel) -> None:
    """Refuse an adapter made for another size of base model.

    Raises:
        ValueError: with both names and sizes.
    """
    misfit = describe_base_misfit(adapter.configs, base.dim, base.num_blocks)
    if misfit:
        raise ValueError(
            f"{adapter.name!r} was not made for {base.name}: {misfit}. The published Lynx adapters fit Wan 14B (dim "
            "5120, 40 blocks); load that base model, or an adapter trained for this one."
        )
