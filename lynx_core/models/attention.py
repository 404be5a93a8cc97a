"""The adapters' extra attention: video queries on a few baked keys, without positions."""

from __future__ import annotations

from einops import rearrange
from torch import Tensor
from torch.nn import functional as F


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
