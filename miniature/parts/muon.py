"""Muon: momentum whose matrices are made orthogonal, so that all their directions learn (Jordan et al., 2024)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
import torch.distributed
from torch import Tensor, nn

from .resumable import my_rank, num_ranks

_QUINTIC = (3.4445, -4.7750, 2.0315)


class Muon(torch.optim.Optimizer):
    """For matrices and convolutions, whose taps count as inputs. Processes that train together share the work.

    Args:
        rate: length of a step, in shares of an orthogonal matrix.
    """

    def __init__(self, weights: Iterable[Tensor], rate: float, momentum: float = 0.95) -> None:
        super().__init__(list(weights), {"lr": rate, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """One step; `closure` is not used."""
        (group,) = self.param_groups
        weights = [weight for weight in group["params"] if weight.grad is not None]
        updates = []
        for place, weight in enumerate(weights):
            state = self.state[weight]
            if not state:
                state["momentum"] = torch.zeros_like(weight)
            state["momentum"].lerp_(weight.grad, 1 - group["momentum"])
            if place % num_ranks() == my_rank():
                update = weight.grad.lerp(state["momentum"], group["momentum"]).flatten(1)
                updates.append(orthogonalise(update).flatten())
            else:
                updates.append(weight.new_zeros(weight.numel()))
        flat = torch.cat(updates)
        if num_ranks() > 1:
            torch.distributed.all_reduce(flat)  # exact: all but one add zeros
        for weight, update in zip(weights, flat.split([weight.numel() for weight in weights]), strict=True):
            scale = max(1.0, weight.shape[0] / weight[0].numel()) ** 0.5
            weight.add_(update.view_as(weight), alpha=-group["lr"] * scale)


def orthogonalise(matrix: Tensor, steps: int = 5) -> Tensor:
    """Bring all singular values of [rows, columns] near 1, by Newton-Schulz in bfloat16."""
    x = matrix.T if matrix.shape[0] > matrix.shape[1] else matrix
    x = (x / (x.norm() + 1e-7)).bfloat16()
    a, b, c = _QUINTIC
    for _ in range(steps):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return (x.T if matrix.shape[0] > matrix.shape[1] else x).float()


def split_weights(network: nn.Module) -> tuple[list[Tensor], list[Tensor]]:
    """What Muon trains, and the rest: vectors, embeddings and scales."""
    matrices: list[Tensor] = []
    rest: list[Tensor] = []
    for weight in network.parameters():
        is_matrix = weight.ndim >= 2 and weight[0].numel() > 8 and weight.shape[0] > 8
        (matrices if is_matrix else rest).append(weight)
    return matrices, rest
