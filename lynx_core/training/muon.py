"""Muon for the matrices and AdamW for the rest, as one optimiser.

Muon (Jordan et al. 2024, torch.optim.Muon) makes each matrix's step orthogonal, so that rare directions move as
far as common ones: small models from random weights learn several times faster. Its steps are scaled as long as
AdamW's, so that one learning rate serves both.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn


class MuonWithAdamW(torch.optim.Optimizer):
    """Steps both; state, groups and numbers are those of one optimiser over all weights.

    Args:
        weights: all that is trained.
        options: of AdamW.
    """

    def __init__(self, weights: list[nn.Parameter], options: Mapping[str, Any]) -> None:
        super().__init__(weights, {"lr": options["lr"]})
        matrices = [weight for weight in weights if weight.ndim == 2]
        rest = [weight for weight in weights if weight.ndim != 2]
        rate, decay = options["lr"], options["weight_decay"]
        self.inner: list[torch.optim.Optimizer] = []
        if matrices:
            muon = torch.optim.Muon(matrices, lr=rate, weight_decay=decay, adjust_lr_fn="match_rms_adamw")
            self.inner.append(muon)
        if rest:
            self.inner.append(torch.optim.AdamW(rest, **options))
        for optimizer in self.inner:
            optimizer.state = self.state

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """One step of both; `closure` is not used."""
        (own,) = self.param_groups
        for optimizer in self.inner:
            for group in optimizer.param_groups:
                group["lr"] = own["lr"]
            optimizer.step()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up a state, and let both step on it."""
        super().load_state_dict(state_dict)
        for optimizer in self.inner:
            optimizer.state = self.state


def has_muon() -> bool:
    """Whether this PyTorch is new enough, 2.9."""
    return hasattr(torch.optim, "Muon")
