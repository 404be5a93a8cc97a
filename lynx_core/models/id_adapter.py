"""ID-adapter: who the person is (paper section 3.2).

Identity tokens become keys and values of an extra cross-attention in chosen blocks. The
full variant has biases, 16 register tokens per block, and lets the block's own text
`norm_k` norm its keys. The lite variant has neither, and norms its keys without weights.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..spec import LynxError

KeyNorm = Literal["block", "weightless"]
"""`block`: the base model's own norm_k of that block; `weightless`: RMS norm without weights."""

_WEIGHTLESS_EPS = 1e-5


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
        if not self.blocks or list(self.blocks) != sorted(set(self.blocks)) or self.blocks[0] < 0:
            raise LynxError(f"ID-adapter blocks must be rising block numbers, got {self.blocks}")
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
