"""Tiny adapters in every published layout, with the key names written out by hand."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from lynx_core.models.adapters import (
    IDAdapterConfig,
    IDAdapterLayer,
    RefAdapterConfig,
    RefAdapterLayer,
    Resampler,
    ResamplerConfig,
)

DIM, LITE_TOKEN_DIM, NUM_BLOCKS = 32, 24, 4
State = dict[str, Tensor]


@dataclass
class TinyAdapter:
    """Weights by part: the resampler's, and a list of (block, layer weights)."""

    resampler: State
    id: list[tuple[int, State]]
    ref: list[tuple[int, State]]

    def release_files(self) -> dict[str, State]:
        files = {"resampler": self.resampler, "ip_layers": {}, "ref_layers": {}}
        for name, layers in (("ip_layers", self.id), ("ref_layers", self.ref)):
            for entry, (_, state) in enumerate(layers):
                files[name] |= {f"{entry}.{leaf}": tensor for leaf, tensor in state.items()}
        return {name: state for name, state in files.items() if state}

    def kijai_files(self) -> dict[str, State]:
        id_layers = {
            f"blocks.{b}.cross_attn.ip_adapter.{leaf}": t for b, s in self.id for leaf, t in s.items()
        }
        ref_layers = {
            f"blocks.{b}.self_attn.ref_adapter.{leaf}": t for b, s in self.ref for leaf, t in s.items()
        }
        return {"a": self.resampler, "b": id_layers} | ({"c": ref_layers} if ref_layers else {})

    def wan2gp_module(self) -> State:
        id_layers = {f"blocks.{b}.cross_attn.{leaf}": t for b, s in self.id for leaf, t in s.items()}
        return id_layers | {f"blocks.{b}.self_attn.{leaf}": t for b, s in self.ref for leaf, t in s.items()}


def _state(module: torch.nn.Module, dtype: torch.dtype) -> State:
    return {name: tensor.detach().to(dtype) for name, tensor in module.state_dict().items()}


def make_tiny(
    *, lite: bool, with_ref: bool, dtype: torch.dtype = torch.float16, dim: int = DIM
) -> TinyAdapter:
    torch.manual_seed(7 + lite)
    token_dim = LITE_TOKEN_DIM if lite else dim
    resampler = Resampler(
        ResamplerConfig(
            dim=16, depth=2, num_heads=1, num_queries=4, embedding_dim=512, output_dim=token_dim, ff_dim=32
        )
    )
    blocks = tuple(range(0, NUM_BLOCKS, 2 if lite else 1))
    id_config = IDAdapterConfig(
        dim, token_dim, blocks, 0 if lite else 3, not lite, "weightless" if lite else "block"
    )
    ref_config = RefAdapterConfig(dim, tuple(range(NUM_BLOCKS)), has_bias=True)
    return TinyAdapter(
        _state(resampler, dtype),
        [(block, _state(IDAdapterLayer(id_config), dtype)) for block in blocks],
        [(block, _state(RefAdapterLayer(ref_config), dtype)) for block in range(NUM_BLOCKS)]
        if with_ref
        else [],
    )


@pytest.fixture
def full() -> TinyAdapter:
    """ID (biases, registers) and reference layers in blocks 0 to 3."""
    return make_tiny(lite=False, with_ref=True)


@pytest.fixture
def lite() -> TinyAdapter:
    """ID layers without biases or registers in blocks 0 and 2."""
    return make_tiny(lite=True, with_ref=False)


@pytest.fixture
def make_adapter() -> Callable[..., TinyAdapter]:
    return make_tiny


@pytest.fixture
def save(tmp_path: Path) -> Callable[..., Path]:
    """Save several safetensors files into a folder below tmp_path; gives the folder."""

    def save_files(folder: str, files: dict[str, State]) -> Path:
        target = tmp_path / folder
        target.mkdir(parents=True, exist_ok=True)
        for name, state in files.items():
            save_file(
                {key: tensor.contiguous() for key, tensor in state.items()}, target / f"{name}.safetensors"
            )
        return target

    return save_files
