"""The two adapters: who the person is, and what the person looks like (paper sections 3.2 and 3.3).

ID-adapter. A Perceiver Resampler, the network of InstantID and Lynx, makes a few identity tokens of one face
embedding. Its parameter names are those of the published files, so that these load strictly, and every width is
read off the weights: the full and the lite adapter, and InstantID's checkpoint, are configurations of one class.
Identity tokens become keys and values of an extra cross-attention in chosen blocks. The full variant has biases, 16
register tokens per block, and lets the block's own text `norm_k` norm its keys. The lite variant has neither, and
norms its keys without weights.

Ref-adapter. What each block's self-attention sees in a pass of the frozen base over the face crop becomes keys and
values of an extra attention in the same block of the generating pass.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, cast, get_args

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from ..spec import LynxError

KeyNorm = Literal["block", "weightless"]
"""`block`: the base model's own norm_k of that block; `weightless`: RMS norm without weights."""

_WEIGHTLESS_EPS = 1e-5


@dataclass(frozen=True)
class ResamplerConfig:
    """Widths of a resampler.

    Raises:
        LynxError: when a width is not a positive whole number.
    """

    dim: int
    depth: int
    num_heads: int
    num_queries: int
    embedding_dim: int
    output_dim: int
    ff_dim: int
    head_dim: int = 64

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not isinstance(value, int) or value < 1:
                raise LynxError(f"resampler {name} must be a positive whole number, got {value!r}")


def infer_resampler_config(shapes: Mapping[str, tuple[int, ...]]) -> ResamplerConfig:
    """Read the widths off the shapes of a resampler's tensors (canonical names).

    Raises:
        KeyError: when a tensor that tells a width is missing.
    """
    depth = 1 + max(int(name.split(".")[1]) for name in shapes if name.startswith("layers."))
    _, num_queries, dim = shapes["latents"]
    head_dim = 64
    return ResamplerConfig(
        dim=dim,
        depth=depth,
        num_heads=shapes["layers.0.0.to_q.weight"][0] // head_dim,
        num_queries=num_queries,
        embedding_dim=shapes["proj_in.weight"][1],
        output_dim=shapes["proj_out.weight"][0],
        ff_dim=shapes["layers.0.1.1.weight"][0],
        head_dim=head_dim,
    )


class PerceiverAttention(nn.Module):
    """Latents attend to the embedding and to themselves."""

    def __init__(self, config: ResamplerConfig) -> None:
        super().__init__()
        inner_dim = config.num_heads * config.head_dim
        self.num_heads = config.num_heads
        self.norm1 = nn.LayerNorm(config.dim)
        self.norm2 = nn.LayerNorm(config.dim)
        self.to_q = nn.Linear(config.dim, inner_dim, bias=False)
        self.to_kv = nn.Linear(config.dim, 2 * inner_dim, bias=False)
        self.to_out = nn.Linear(inner_dim, config.dim, bias=False)

    def forward(self, x: Tensor, latents: Tensor) -> Tensor:
        x, latents = self.norm1(x), self.norm2(latents)
        query = self.to_q(latents)
        key, value = self.to_kv(torch.cat((x, latents), dim=1)).chunk(2, dim=-1)
        query, key, value = (
            rearrange(t, "b n (h d) -> b h n d", h=self.num_heads) for t in (query, key, value)
        )
        # The published code scales query and key by the fourth root each.
        scale = 1 / math.sqrt(math.sqrt(query.shape[-1]))
        weights = ((query * scale) @ (key * scale).transpose(-1, -2)).float().softmax(-1)
        return self.to_out(rearrange(weights.to(value.dtype) @ value, "b h n d -> b n (h d)"))


class Resampler(nn.Module):
    """Maps ArcFace embeddings to identity tokens."""

    def __init__(self, config: ResamplerConfig) -> None:
        super().__init__()
        self.config = config
        self.latents = nn.Parameter(torch.randn(1, config.num_queries, config.dim) / config.dim**0.5)
        self.proj_in = nn.Linear(config.embedding_dim, config.dim)
        self.proj_out = nn.Linear(config.dim, config.output_dim)
        self.norm_out = nn.LayerNorm(config.output_dim)
        self.layers = nn.ModuleList(
            nn.ModuleList(
                (
                    PerceiverAttention(config),
                    nn.Sequential(
                        nn.LayerNorm(config.dim),
                        nn.Linear(config.dim, config.ff_dim, bias=False),
                        nn.GELU(),
                        nn.Linear(config.ff_dim, config.dim, bias=False),
                    ),
                )
            )
            for _ in range(config.depth)
        )

    def forward(self, embedding: Tensor) -> Tensor:
        """Compute the identity tokens.

        Args:
            embedding: [batch, embedding_dim], unit length; zeros give the null identity.

        Returns:
            [batch, num_queries, output_dim].
        """
        x = self.proj_in(embedding[:, None])
        latents = self.latents.expand(len(x), -1, -1)
        for layer in self.layers:
            attention, feed_forward = cast(nn.ModuleList, layer)
            latents = attention(x, latents) + latents
            latents = feed_forward(latents) + latents
        return self.norm_out(self.proj_out(latents))


def _check_blocks(part: str, blocks: tuple[int, ...]) -> None:
    if not blocks or list(blocks) != sorted(set(blocks)) or blocks[0] < 0:
        raise LynxError(f"{part}-adapter blocks must be rising block numbers, got {blocks}")


@dataclass(frozen=True)
class IDAdapterConfig:
    """Shape of an ID-adapter: `dim` of the base model, `token_dim` of the resampler's output.

    Raises:
        LynxError: when a value makes no sense.
    """

    dim: int
    token_dim: int
    blocks: tuple[int, ...]
    num_registers: int
    has_bias: bool
    key_norm: KeyNorm

    @property
    def is_lite(self) -> bool:
        """Whether this is the published lite variant, which alone norms its keys without weights."""
        return self.key_norm == "weightless"

    def __post_init__(self) -> None:
        if self.dim < 1 or self.token_dim < 1:
            raise LynxError(
                f"ID-adapter widths must be positive, got dim {self.dim}, token_dim {self.token_dim}"
            )
        _check_blocks("ID", self.blocks)
        if self.num_registers < 0:
            raise LynxError(f"ID-adapter num_registers must not be negative, got {self.num_registers}")
        if self.key_norm not in get_args(KeyNorm):
            raise LynxError(f"ID-adapter key_norm must be one of {get_args(KeyNorm)}, got {self.key_norm!r}")


class IDAdapterLayer(nn.Module):
    """One block's projections of identity tokens to key and value."""

    registers: nn.Parameter | None

    def __init__(self, config: IDAdapterConfig) -> None:
        super().__init__()
        self.key_norm = config.key_norm
        self.to_k_ip = nn.Linear(config.token_dim, config.dim, bias=config.has_bias)
        self.to_v_ip = nn.Linear(config.token_dim, config.dim, bias=config.has_bias)
        if config.num_registers:
            self.registers = nn.Parameter(
                torch.randn(1, config.num_registers, config.token_dim) / config.dim**0.5
            )
        else:
            self.register_parameter("registers", None)

    def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Project identity tokens.

        Args:
            tokens: [batch, num_tokens, token_dim] from the resampler.

        Returns:
            Key and value, [batch, num_tokens + num_registers, dim]. With `key_norm` "block"
            the key still has to pass the block's own norm_k.
        """
        if self.registers is not None:
            tokens = torch.cat((tokens, self.registers.expand(len(tokens), -1, -1)), dim=1)
        key, value = self.to_k_ip(tokens), self.to_v_ip(tokens)
        if self.key_norm == "weightless":
            key = F.rms_norm(key, key.shape[-1:], eps=_WEIGHTLESS_EPS)
        return key, value


@dataclass(frozen=True)
class RefAdapterConfig:
    """Shape of a Ref-adapter; `dim` is the base model's.

    Raises:
        LynxError: when a value makes no sense.
    """

    dim: int
    blocks: tuple[int, ...]
    has_bias: bool

    def __post_init__(self) -> None:
        if self.dim < 1:
            raise LynxError(f"Ref-adapter dim must be positive, got {self.dim}")
        _check_blocks("Ref", self.blocks)


class RefAdapterLayer(nn.Module):
    """One block's projections of reference features to key and value."""

    def __init__(self, config: RefAdapterConfig) -> None:
        super().__init__()
        self.to_k_ref = nn.Linear(config.dim, config.dim, bias=config.has_bias)
        self.to_v_ref = nn.Linear(config.dim, config.dim, bias=config.has_bias)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Project reference features.

        Args:
            features: [batch, num_tokens, dim], the input of the block's self-attention
                (after norm1 and modulation) at timestep 0.

        Returns:
            Key and value, [batch, num_tokens, dim]; the key still has to pass the block's
            own self-attention norm_k. Neither gets a position (no RoPE).
        """
        return self.to_k_ref(features), self.to_v_ref(features)
