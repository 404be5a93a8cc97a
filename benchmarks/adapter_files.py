"""Writes a full Lynx adapter of random bf16 weights, in the release's layout, at any width.

At the 14B's width that is 8.6 GB: what a user has on the disk, but for the values.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

import torch
from torch import Tensor, nn

from lynx_core.formats.safetensors_writer import tensor_info, write_safetensors
from lynx_core.models.adapters import (
    IDAdapterConfig,
    IDAdapterLayer,
    RefAdapterConfig,
    RefAdapterLayer,
    Resampler,
    ResamplerConfig,
)
from lynx_core.spec import EMBEDDING_DIM

Shapes = dict[str, tuple[int, ...]]


@cache
def random_values(shape: tuple[int, ...]) -> Tensor:
    """Random weights of a sane size, the same for every tensor of that shape."""
    return torch.empty(shape, dtype=torch.bfloat16).normal_(0, shape[-1] ** -0.5)


def write_adapter(folder: Path, dim: int, num_blocks: int) -> Path:
    """Write resampler, ID layers and reference layers into `folder`, unless they are there.

    Returns:
        The folder, for `open_adapter`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    blocks = tuple(range(num_blocks))
    with torch.device("meta"):
        resampler = Resampler(ResamplerConfig(1280, 4, 20, 16, EMBEDDING_DIM, output_dim=dim, ff_dim=5120))
    _write(folder / "resampler.safetensors", _shapes_of(resampler))
    _write(
        folder / "ip_layers.safetensors",
        _number(lambda: IDAdapterLayer(IDAdapterConfig(dim, dim, blocks, 16, True, "block")), num_blocks),
    )
    _write(
        folder / "ref_layers.safetensors",
        _number(lambda: RefAdapterLayer(RefAdapterConfig(dim, blocks, True)), num_blocks),
    )
    random_values.cache_clear()
    return folder


def _shapes_of(module: nn.Module) -> Shapes:
    return {name: tuple(weight.shape) for name, weight in module.state_dict().items()}


def _number(make_layer: Callable[[], nn.Module], num_blocks: int) -> Shapes:
    with torch.device("meta"):
        shapes = _shapes_of(make_layer())
    return {f"{block}.{leaf}": shape for block in range(num_blocks) for leaf, shape in shapes.items()}


def _write(path: Path, shapes: Shapes) -> None:
    if path.exists():
        return
    infos = {name: tensor_info(shape, torch.bfloat16) for name, shape in shapes.items()}
    with path.open("wb") as file:
        write_safetensors(file, infos, lambda name: random_values(shapes[name]), {})
