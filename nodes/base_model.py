"""Which base models an adapter fits, and how one is told from another."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import torch
from comfy.ldm.wan.model import WanModel

from ..lynx_core.formats.adapter import Adapter
from .identity import BaseModel


def describe_base(model: Any) -> BaseModel:
    """Describe a host MODEL by its content.

    Raises:
        ValueError: when it is no Wan model that a Lynx adapter can act on.
    """
    diffusion_model = model.get_model_object("diffusion_model")
    diffusion_model = getattr(diffusion_model, "_orig_mod", diffusion_model)
    kind = type(model.model).__name__
    if not isinstance(diffusion_model, WanModel):
        raise ValueError(
            f"Lynx works on Wan video models; this MODEL is a {kind} ({type(diffusion_model).__name__}). "
            "Load Wan 2.1 T2V 14B (or another Wan of that size) with Load Diffusion Model."
        )
    if diffusion_model.img_emb is not None:
        raise ValueError(
            f"This MODEL ({kind}, dim {diffusion_model.dim}) is a Wan 2.1 image-to-video model with image "
            "cross-attention, which Lynx was not made for. Use a text-to-video or VACE model, or Wan 2.2."
        )
    return BaseModel(
        name=name_base(model, kind),
        dim=diffusion_model.dim,
        num_blocks=len(diffusion_model.blocks),
        checksum=sum_norms(model, diffusion_model),
    )


def name_base(model: Any, kind: str) -> str:
    """Name a base by the file it came from, where the host remembers it."""
    init = getattr(model, "cached_patcher_init", None)
    path = init[1][0] if init and init[1] else None
    return f"{Path(path).name} ({kind})" if isinstance(path, str) else kind


def sum_norms(model: Any, diffusion_model: WanModel) -> str:
    """Hash the key norms of every block as they are without LoRAs: small, and different in every base."""
    digest = hashlib.sha256()
    for i, block in enumerate(diffusion_model.blocks):
        for part in ("self_attn", "cross_attn"):
            backup = model.backup.get(f"diffusion_model.blocks.{i}.{part}.norm_k.weight")
            weight = getattr(block, part).norm_k.weight if backup is None else backup.weight
            weight = weight.detach().cpu().as_subclass(torch.Tensor)
            # One checksum for a base stored in fp32, fp16 or bf16.
            digest.update(
                (weight.to(torch.bfloat16) if weight.is_floating_point() else weight)
                .view(torch.uint8)
                .numpy()
            )
    return digest.hexdigest()[:16]


def check_adapter_fits(adapter: Adapter, base: BaseModel) -> None:
    """Refuse an adapter made for another size of base model.

    Raises:
        ValueError: with both names and sizes.
    """
    for part, config in (("ID", adapter.id), ("reference", adapter.ref)):
        if config is None:
            continue
        if config.dim != base.dim:
            raise ValueError(
                f"The {part} layers of {adapter.name!r} were made for a base model of dim {config.dim}, but "
                f"{base.name} has dim {base.dim}. The published Lynx adapters fit Wan 14B (dim 5120, 40 blocks); "
                "load that base model, or an adapter trained for this one."
            )
        if config.blocks[-1] >= base.num_blocks:
            raise ValueError(
                f"The {part} layers of {adapter.name!r} reach block {config.blocks[-1]}, but {base.name} has only "
                f"{base.num_blocks} blocks. Load the base model the adapter was made for."
            )
