"""Ref-adapter: what the person looks like (paper section 3.3).

What each block's self-attention sees in a pass of the frozen base over the face crop
becomes keys and values of an extra attention in the same block of the generating pass.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from ..spec import LynxError


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
        if not self.blocks or list(self.blocks) != sorted(set(self.blocks)) or self.blocks[0] < 0:
            raise LynxError(f"Ref-adapter blocks must be rising block numbers, got {self.blocks}")


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
