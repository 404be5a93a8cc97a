"""Low-rank updates (LoRA, arXiv 2106.09685) of the adapter's own projections."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class LowRankLinear(nn.Linear):
    """A frozen linear layer with a trainable update of low rank: W + alpha / rank * up @ down.

    Starts as the layer it is made of, whose weights it shares.

    Raises:
        ValueError: when the rank is below 1, or the layer has a low-rank update already.
    """

    def __init__(self, linear: nn.Linear, rank: int, alpha: float) -> None:
        if rank < 1:
            raise ValueError(f"low rank must be at least 1, got {rank}")
        if isinstance(linear, LowRankLinear):
            raise ValueError(
                "this layer has a low-rank update already; merge it into a file and start from that"
            )
        super().__init__(linear.in_features, linear.out_features, linear.bias is not None, device="meta")
        self.weight, self.bias = linear.weight, linear.bias
        self.requires_grad_(False)
        self.scale = alpha / rank
        down = torch.randn(rank, linear.in_features) / linear.in_features**0.5
        self.lora_down = nn.Parameter(down.to(linear.weight))
        self.lora_up = nn.Parameter(torch.zeros(linear.out_features, rank).to(linear.weight))

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + self.scale * F.linear(F.linear(x, self.lora_down), self.lora_up)

    def merge_weight(self) -> Tensor:
        """Give the weight with the update in it, [out, in]."""
        return self.weight + self.scale * self.lora_up @ self.lora_down
