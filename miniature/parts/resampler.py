"""What the adapters' resampler starts from, as the paper's starts from InstantID's, which saw images first.

From random weights it soon gives all people the same tokens, and never recovers. Here it learns to carry the
embedding: a fixed projection of the tokens must give it back, with half of their power.
"""

from __future__ import annotations

import math
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F

from lynx_core.models.resampler import Resampler, ResamplerConfig

from ..world.seeds import make_generator
from .muon import Muon, split_weights
from .resumable import run_steps, set_cosine_rate, take_step, write_beside

WEIGHTS_NAME = "resampler.safetensors"
STEPS, BATCH = 500, 128
MUON_RATE, ADAM_RATE = 0.02, 1e-3
SHARE = 0.5
"""Of the tokens' power that depends on the person."""


def train_resampler(
    folder: Path, config: ResamplerConfig, embeddings: Tensor, stop_at: float | None = None
) -> bool:
    """Train it on embeddings [N, 512] of length 1 and mixtures of two; whether all is done."""
    torch.manual_seed(5)
    resampler = Resampler(config)
    size = config.num_queries * config.output_dim
    projection = torch.linalg.qr(torch.randn(size, config.embedding_dim)).Q
    matrices, rest = split_weights(resampler)
    muon, adam = Muon(matrices, MUON_RATE), torch.optim.Adam(rest, lr=ADAM_RATE)

    def step(number: int) -> float:
        set_cosine_rate(muon, number, STEPS, MUON_RATE)
        set_cosine_rate(adam, number, STEPS, ADAM_RATE)
        rng = make_generator("resampler", number)
        first, second = (
            embeddings[torch.from_numpy(rng.integers(len(embeddings), size=BATCH))] for _ in "ab"
        )
        shares = torch.from_numpy(rng.uniform(size=(BATCH, 1))).float().round(decimals=1)
        wanted = F.normalize(first.lerp(second, shares), dim=-1)
        found = resampler(wanted).flatten(1) @ projection / math.sqrt(SHARE * size)
        loss = (found - wanted).square().sum(1).mean()
        return take_step(loss, resampler.parameters(), muon, adam)

    parts = {"resampler": resampler, "muon": muon, "adam": adam}
    if not run_steps(folder / "resampler.pt", parts, STEPS, step, stop_at=stop_at):
        return False
    state = {name: weight.detach().contiguous() for name, weight in resampler.state_dict().items()}
    write_beside(folder / WEIGHTS_NAME, lambda beside: save_file(state, beside))
    return True
