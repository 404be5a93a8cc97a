"""The adapters' keys and values, computed once per identity, and the extra attention to them.

Nothing that enters `to_k_*` and `to_v_*` changes while sampling, so each layer is read
from its file, used once and dropped. What is cached is 32 + 256 keys and values in each of 40
blocks: 0.24 GB for an identity in bf16, against 8.4 GB of adapter weights.

Keys that pass the base model's own `norm_k` are kept as they are before it: the norm costs
a few hundred tokens per step, and so a LoRA or fine-tune of the base that is loaded later
still norms them as it should.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import cast

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from ..spec import LynxError
from .adapters import IDAdapterLayer, RefAdapterLayer, Resampler


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


def _make_block_kv(block: int, key: Tensor, value: Tensor, dtype: torch.dtype) -> BlockKV:
    """Keep a key and a value in `dtype`.

    Raises:
        LynxError: when they are not finite in it.
    """
    key, value = key.to(dtype), value.to(dtype)
    if not (key.isfinite().all() and value.isfinite().all()):
        raise LynxError(
            f"the keys or values of block {block} are not finite in {dtype}: the base model's or the adapter's numbers "
            "are too large for it, or damaged. Run the base model in bf16, or check its file."
        )
    return BlockKV(key, value)


@torch.no_grad()
def compute_id_kv(
    resampler: Resampler,
    blocks: Iterable[int],
    read_layer: Callable[[int], IDAdapterLayer],
    embedding: Tensor,
    device: torch.device,
    dtype: torch.dtype,
) -> KVCache:
    """Compute the ID-adapter's keys and values.

    Args:
        blocks: that have an ID layer.
        read_layer: reads the layer of one block; the one before is let go first.
        embedding: [embedding_dim], unit length; zeros give the null identity.
        device: where the projections run (in float32).
        dtype: what the keys and values are kept in, the base model's own.

    Raises:
        LynxError: when the result is not finite.
    """
    tokens = resampler.to(device)(embedding.to(device, torch.float32)[None])
    block_kvs = []
    norm_key = False
    for block in blocks:
        layer = read_layer(block).to(device)
        norm_key = layer.key_norm == "block"
        key, value = layer(tokens)
        block_kvs.append((block, _make_block_kv(block, key, value, dtype)))
        del layer
    return KVCache(block_kvs, norm_key)


class ReferenceKVBuilder:
    """Turns the features of a reference pass into keys and values, block by block.

    Args:
        blocks: that have a reference layer.
        read_layer: reads the layer of one block.
        dtype: what the keys and values are kept in, the base model's own.
    """

    def __init__(
        self, blocks: Iterable[int], read_layer: Callable[[int], RefAdapterLayer], dtype: torch.dtype
    ) -> None:
        self._missing = set(blocks)
        self._read_layer = read_layer
        self._dtype = dtype
        self._block_kvs: dict[int, BlockKV] = {}

    @torch.no_grad()
    def add_block(self, block: int, features: Tensor) -> None:
        """Project the input of block `block`'s self-attention, [1, num_tokens, dim]."""
        if block in self._missing:
            layer = self._read_layer(block).to(features.device)
            key, value = layer(features.float())
            self._block_kvs[block] = _make_block_kv(block, key, value, self._dtype)
            self._missing.remove(block)

    def finish(self) -> KVCache:
        """Give the keys and values.

        Raises:
            LynxError: when the pass did not reach every block of the adapter.
        """
        if self._missing:
            raise LynxError(f"the reference pass did not reach blocks {sorted(self._missing)}")
        return KVCache(sorted(self._block_kvs.items()), norm_key=True)


def join_kv(caches: Sequence[KVCache]) -> KVCache:
    """Put the tokens of several pictures of one person side by side: one attention to all of them.

    Raises:
        LynxError: when they are of different adapters.
    """
    first = caches[0]
    if any((c.list_blocks(), c.norm_key) != (first.list_blocks(), first.norm_key) for c in caches):
        raise LynxError(
            "keys and values of different adapters cannot stand side by side; encode all with one"
        )
    return KVCache(
        (
            (
                block,
                BlockKV(
                    *(
                        torch.cat([getattr(c.get_block(block), name) for c in caches], 1)
                        for name in ("key", "value")
                    )
                ),
            )
            for block in first.list_blocks()
        ),
        first.norm_key,
    )


def attend_extra(query: Tensor, key: Tensor, value: Tensor, num_heads: int) -> Tensor:
    """Attend from video tokens to identity or reference tokens.

    Plain SDPA: a few hundred keys leave nothing for the host's quantised kernels to win.

    Args:
        query: [batch, num_queries, dim], normed, without RoPE.
        key, value: [batch or 1, num_keys, dim], the key normed, without RoPE.

    Returns:
        [batch, num_queries, dim].
    """
    query = rearrange(query, "b n (h d) -> b h n d", h=num_heads)
    key, value = (
        rearrange(t, "b n (h d) -> b h n d", h=num_heads).expand(len(query), -1, -1, -1) for t in (key, value)
    )
    return rearrange(F.scaled_dot_product_attention(query, key, value), "b h n d -> b n (h d)")
