"""Baking: the adapters' keys and values, computed once per identity.

Nothing that enters `to_k_*` and `to_v_*` changes while sampling, so each layer is read
from its file, used once and dropped. What stays is 32 + 256 keys and values in each of 40
blocks: 0.24 GB for an identity in bf16, against 8.4 GB of adapter weights.

Keys that pass the base model's own `norm_k` are kept as they are before it: the norm costs
a few hundred tokens per step, and so a LoRA or fine-tune of the base that is put on later
still norms them as it should.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Protocol, cast

import torch
from torch import Tensor, nn

from .id_adapter import IDAdapterConfig, IDAdapterLayer
from .ref_adapter import RefAdapterConfig, RefAdapterLayer
from .resampler import Resampler


class LayerSource(Protocol):
    """What baking needs of an opened adapter."""

    @property
    def name(self) -> str: ...
    @property
    def id(self) -> IDAdapterConfig | None: ...
    @property
    def ref(self) -> RefAdapterConfig | None: ...
    def load_resampler(self) -> Resampler: ...
    def read_id_layer(self, block: int) -> IDAdapterLayer: ...
    def read_ref_layer(self, block: int) -> RefAdapterLayer: ...


class BlockKV(nn.Module):
    """Key and value of one block, [1, num_tokens, dim] each."""

    def __init__(self, key: Tensor, value: Tensor) -> None:
        super().__init__()
        self.key = nn.Parameter(key, requires_grad=False)
        self.value = nn.Parameter(value, requires_grad=False)


class KVCache(nn.Module):
    """Keys and values of one adapter for one identity, by block number.

    A module, so that a host that moves and counts modules takes it as it is.
    """

    def __init__(self, blocks: Iterable[tuple[int, BlockKV]], norm_key: bool) -> None:
        super().__init__()
        self.norm_key = norm_key
        self.blocks = nn.ModuleDict({str(block): block_kv for block, block_kv in blocks})

    def get_block(self, block: int) -> BlockKV:
        """Give block `block`'s key and value.

        Raises:
            KeyError: when the adapter has no layer in that block.
        """
        return cast(BlockKV, self.blocks[str(block)])

    def list_blocks(self) -> tuple[int, ...]:
        """List the blocks that have a key and a value, rising."""
        return tuple(sorted(int(block) for block in self.blocks))

    def count_bytes(self) -> int:
        """Count the bytes that the keys and values take."""
        return sum(p.numel() * p.element_size() for p in self.parameters())


def make_block_kv(block: int, key: Tensor, value: Tensor, dtype: torch.dtype) -> BlockKV:
    """Keep a key and a value in `dtype`.

    Raises:
        ValueError: when they are not finite in it.
    """
    key, value = key.to(dtype), value.to(dtype)
    if not (key.isfinite().all() and value.isfinite().all()):
        raise ValueError(
            f"the keys or values of block {block} are not finite in {dtype}: the base model's or the adapter's numbers "
            "are too large for it, or damaged. Run the base model in bf16, or check its file."
        )
    return BlockKV(key, value)


@torch.no_grad()
def compute_id_kv(
    adapter: LayerSource,
    embedding: Tensor,
    device: torch.device,
    dtype: torch.dtype,
    on_block: Callable[[int], None] = lambda block: None,
) -> KVCache:
    """Compute the ID-adapter's keys and values.

    Args:
        embedding: [embedding_dim], unit length; zeros give the null identity.
        device: where the projections run (in float32).
        dtype: what the keys and values are kept in, the base model's own.
        on_block: called with each block number before its layer is read.

    Raises:
        ValueError: when the adapter has no ID part, or the result is not finite.
    """
    config = adapter.id
    if config is None:
        raise ValueError(f"adapter {adapter.name!r} has no ID part: give it ID layers and their resampler")
    tokens = adapter.load_resampler().to(device)(embedding.to(device, torch.float32)[None])

    def bake(block: int) -> BlockKV:
        on_block(block)
        key, value = adapter.read_id_layer(block).to(device)(tokens)
        return make_block_kv(block, key, value, dtype)

    return KVCache(((block, bake(block)) for block in config.blocks), norm_key=config.key_norm == "block")


class ReferenceKVBuilder:
    """Turns the features of a reference pass into keys and values, block by block."""

    def __init__(self, adapter: LayerSource, dtype: torch.dtype) -> None:
        if adapter.ref is None:
            raise ValueError(f"adapter {adapter.name!r} has no reference part: give it ref layers")
        self.adapter = adapter
        self.config = adapter.ref
        self.dtype = dtype
        self.baked: dict[int, BlockKV] = {}

    @torch.no_grad()
    def add_block(self, block: int, features: Tensor) -> None:
        """Take what block `block`'s self-attention sees, [1, num_tokens, dim]."""
        if block in self.config.blocks:
            layer = self.adapter.read_ref_layer(block).to(features.device)
            key, value = layer(features.float())
            self.baked[block] = make_block_kv(block, key, value, self.dtype)

    def finish(self) -> KVCache:
        """Give the keys and values.

        Raises:
            RuntimeError: when the pass did not reach every block of the adapter.
        """
        missing = sorted(set(self.config.blocks) - set(self.baked))
        if missing:
            raise RuntimeError(f"the reference pass did not reach blocks {missing}")
        return KVCache(((block, self.baked[block]) for block in self.config.blocks), norm_key=True)
