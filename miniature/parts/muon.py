"""Muon: momentum whose matrices are made orthogonal, so that all their directions learn (Jordan et al., 2024)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

_QUINTIC = (3.4445, -4.7750, 2.0315)


class Muon(torch.optim.Optimizer):
    """For matrices and convolutions, whose taps count as inputs.

    Args:
        rate: length of a step, in shares of an orthogonal matrix.
    """

    def __init__(self, weights: Iterable[Tensor], rate: float, momentum: float = 0.95) -> None:
        super().__init__(list(weights), {"lr": rate, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        """One step; `closure` is not used."""
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is None:
                    continue
                state = self.state[weight]
                if not state:
                    state["momentum"] = torch.zeros_like(weight)
                state["momentum"].lerp_(weight.grad, 1 - group["momentum"])
                update = weight.grad.lerp(state["momentum"], group["momentum"]).flatten(1)
                scale = max(1.0, update.shape[0] / update.shape[1]) ** 0.5
                weight.add_(orthogonalise(update).view_as(weight), alpha=-group["lr"] * scale)


def orthogonalise(matrix: Tensor, steps: int = 5) -> Tensor:
    """Bring all singular values of [rows, columns] near 1, by Newton-Schulz."""
    x = matrix.T if matrix.shape[0] > matrix.shape[1] else matrix
    x = x / (x.norm() + 1e-7)
    a, b, c = _QUINTIC
    for _ in range(steps):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.T if matrix.shape[0] > matrix.shape[1] else x


def split_weights(network: nn.Module) -> tuple[list[Tensor], list[Tensor]]:
    """What Muon trains, and the rest: vectors, embeddings and scales."""
    matrices, rest = [], []
    for weight in network.parameters():
        is_matrix = weight.ndim >= 2 and weight[0].numel() > 8 and weight.shape[0] > 8
        (matrices if is_matrix else rest).append(weight)
    return matrices, rest
