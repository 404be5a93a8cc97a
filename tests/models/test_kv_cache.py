"""Layers of both adapters, and their cached keys and values: what is kept, in which precision, and what is in memory meanwhile."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any, TypeVar

import pytest
import torch
from torch import Tensor

from lynx_core.models.adapters import (
    IDAdapterConfig,
    IDAdapterLayer,
    RefAdapterConfig,
    RefAdapterLayer,
    Resampler,
    ResamplerConfig,
)
from lynx_core.models.kv_cache import KVCache, ReferenceKVBuilder, attend_extra, compute_id_kv
from lynx_core.spec import LynxError

DIM, TOKEN_DIM = 32, 24
CPU = torch.device("cpu")
Layer = TypeVar("Layer", IDAdapterLayer, RefAdapterLayer)


class MemorySource:
    """An adapter whose weights come from seeds; counts the layers that are alive when one is read."""

    def __init__(self, key_norm: Any = "block", num_registers: int = 3) -> None:
        self.id = IDAdapterConfig(DIM, TOKEN_DIM, (0, 2, 5), num_registers, key_norm == "block", key_norm)
        self.ref = RefAdapterConfig(DIM, (1, 2), True)
        self.given: list[weakref.ref[Any]] = []
        self.alive: list[int] = []

    def load_resampler(self) -> Resampler:
        torch.manual_seed(1)
        return Resampler(ResamplerConfig(16, 1, 1, 4, 8, TOKEN_DIM, 32)).eval()

    def hand_out(self, layer: Layer) -> Layer:
        self.alive.append(sum(reference() is not None for reference in self.given))
        self.given.append(weakref.ref(layer))
        return layer

    def read_id_layer(self, block: int) -> IDAdapterLayer:
        torch.manual_seed(block)
        return self.hand_out(IDAdapterLayer(self.id))

    def read_ref_layer(self, block: int) -> RefAdapterLayer:
        torch.manual_seed(100 + block)
        return self.hand_out(RefAdapterLayer(self.ref))


def precompute(
    source: MemorySource,
    embedding: Tensor,
    dtype: torch.dtype,
    on_block: Callable[[int], None] = lambda block: None,
) -> KVCache:
    def read_layer(block: int) -> IDAdapterLayer:
        on_block(block)
        return source.read_id_layer(block)

    return compute_id_kv(source.load_resampler(), source.id.blocks, read_layer, embedding, CPU, dtype)


def make_builder(source: MemorySource, dtype: torch.dtype) -> ReferenceKVBuilder:
    return ReferenceKVBuilder(source.ref.blocks, source.read_ref_layer, dtype)


def test_id_layer_puts_registers_after_the_tokens() -> None:
    source = MemorySource()
    layer = source.read_id_layer(2)
    tokens = torch.randn(2, 4, TOKEN_DIM)
    key, value = layer(tokens)
    assert key.shape == value.shape == (2, 4 + 3, DIM)
    assert layer.registers is not None
    for got, linear in ((key, layer.to_k_ip), (value, layer.to_v_ip)):
        for row in range(2):
            expected = torch.cat([tokens[row], layer.registers[0]]) @ linear.weight.T + linear.bias
            assert torch.allclose(got[row], expected, atol=1e-5)


def test_lite_id_layer_norms_its_keys_without_weights() -> None:
    layer = MemorySource("weightless", 0).read_id_layer(0)
    layer.requires_grad_(False)
    layer.to_k_ip.weight.mul_(1e-2)  # keys so small that the epsilon shows
    tokens = torch.randn(1, 4, TOKEN_DIM)
    key, value = layer(tokens)
    raw = tokens @ layer.to_k_ip.weight.T
    assert layer.to_k_ip.bias is None
    assert layer.registers is None
    assert torch.allclose(key, raw / (raw.square().mean(-1, keepdim=True) + 1e-5).sqrt(), atol=1e-6)
    assert torch.allclose(value, tokens @ layer.to_v_ip.weight.T, atol=1e-6)


@pytest.mark.parametrize("batch", [1, 3])
def test_extra_attention_equals_softmax_by_hand(batch: int) -> None:
    query, key, value = (torch.randn(n, length, DIM) for n, length in ((3, 6), (batch, 4), (batch, 4)))
    out = attend_extra(query, key, value, num_heads=2)
    for row in range(3):
        for head in (slice(0, 16), slice(16, 32)):
            q, k, v = query[row, :, head], key[row % batch, :, head], value[row % batch, :, head]
            assert torch.allclose(out[row, :, head], (q @ k.T / 4).softmax(-1) @ v, atol=1e-5)


@torch.no_grad()
def test_cached_identity_is_what_the_layers_give() -> None:
    source = MemorySource()
    embedding = torch.randn(8)
    seen: list[int] = []
    cache = precompute(source, embedding, torch.float32, seen.append)
    tokens = source.load_resampler()(embedding[None])
    assert seen == [0, 2, 5]
    assert cache.list_blocks() == (0, 2, 5)
    assert cache.norm_key
    for block in seen:
        key, value = source.read_id_layer(block)(tokens)
        assert torch.equal(cache.get_block(block).key, key)
        assert torch.equal(cache.get_block(block).value, value)
    assert not any(p.requires_grad for p in cache.parameters())
    with pytest.raises(KeyError):
        cache.get_block(1)


def test_weightless_keys_are_not_normed_again() -> None:
    assert not precompute(MemorySource("weightless", 0), torch.zeros(8), torch.float32).norm_key


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_bytes_are_those_of_keys_and_values(dtype: torch.dtype) -> None:
    cache = precompute(MemorySource(), torch.zeros(8), dtype)
    assert {p.dtype for p in cache.parameters()} == {dtype}
    assert cache.count_bytes() == 3 * (4 + 3) * DIM * 2 * dtype.itemsize
    kept = sum(p.untyped_storage().nbytes() for p in cache.parameters())
    assert kept == cache.count_bytes(), "no larger tensor hides behind a slice"


def test_one_layer_at_a_time_is_in_memory() -> None:
    source = MemorySource()
    precompute(source, torch.zeros(8), torch.bfloat16)
    builder = make_builder(source, torch.bfloat16)
    for block in range(4):
        builder.add_block(block, torch.randn(1, 7, DIM))
    assert source.alive == [0] * 5, "each earlier layer is gone when the next is read"
    assert not any(reference() for reference in source.given)


@torch.no_grad()
def test_cached_reference_is_what_the_layers_give() -> None:
    source = MemorySource()
    builder = make_builder(source, torch.float32)
    features: dict[int, Tensor] = {block: torch.randn(1, 7, DIM) for block in range(4)}
    for block, seen in features.items():
        builder.add_block(block, seen.bfloat16())
    cache = builder.finish()
    assert cache.list_blocks() == (1, 2)
    assert cache.norm_key
    for block in (1, 2):
        key, value = source.read_ref_layer(block)(features[block].bfloat16().float())
        assert torch.equal(cache.get_block(block).key, key)
        assert torch.equal(cache.get_block(block).value, value)


def test_a_pass_that_ends_early_is_refused() -> None:
    builder = make_builder(MemorySource(), torch.float32)
    builder.add_block(1, torch.randn(1, 7, DIM))
    with pytest.raises(LynxError, match=r"did not reach blocks \[2\]"):
        builder.finish()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"blocks": ()}, r"rising block numbers, got \(\)"),
        ({"blocks": (2, 1)}, r"rising block numbers, got \(2, 1\)"),
        ({"blocks": (-1, 1)}, "rising block numbers"),
        ({"dim": 0}, r"positive.*\b0\b"),
        ({"num_registers": -1}, "-1"),
        ({"key_norm": "layer"}, "'layer'"),
    ],
)
def test_impossible_configurations_are_refused(change: dict[str, Any], message: str) -> None:
    good = {
        "dim": DIM,
        "token_dim": TOKEN_DIM,
        "blocks": (0, 1),
        "num_registers": 0,
        "has_bias": False,
        "key_norm": "block",
    }
    IDAdapterConfig(**good)
    with pytest.raises(ValueError, match=message):
        IDAdapterConfig(**{**good, **change})
    if set(change) <= {"dim", "blocks"}:
        with pytest.raises(ValueError, match=message):
            RefAdapterConfig(**{"dim": DIM, "blocks": (0,), "has_bias": True, **change})
