"""What the adapters' resampler starts from, as the paper's starts from InstantID's, which saw images first.

From random weights it soon gives all people the same tokens, and never recovers. Here it learns to carry the
embedding: a fixed projection of the tokens must give it back, with half of their power.
"""

from __future__ import annotations

import math
from functools import partial

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from lynx_core.formats.adapter_weights import save_single_file
from lynx_core.formats.layouts import canonical_name
from lynx_core.models.adapters import Resampler, ResamplerConfig
from lynx_core.rng import numpy_generator

from ..making import Making
from .muon import Muon, split_weights
from .recogniser import RECOGNISER
from .resumable import run_steps, set_cosine_rate, take_step

WEIGHTS_NAME = "resampler.safetensors"
STEPS, BATCH = 500, 128
MUON_RATE, ADAM_RATE = 0.02, 1e-3
SHARE = 0.5
"""Of the tokens' power that depends on the person."""


def train_resampler(making: Making, config: ResamplerConfig, embeddings: Tensor) -> bool:
    """Train it on embeddings [N, 512] of length 1 and mixtures of two; whether all is done."""
    torch.manual_seed(5)
    resampler = Resampler(config)
    size = config.num_queries * config.output_dim
    projection = torch.linalg.qr(torch.randn(size, config.embedding_dim)).Q.to(making.device)
    resampler.to(making.device)
    matrices, rest = split_weights(resampler)
    muon, adam = Muon(matrices, MUON_RATE), torch.optim.Adam(rest, lr=ADAM_RATE)
    num_steps = making.count(STEPS)

    def step(number: int, wanted: Tensor) -> Tensor:
        set_cosine_rate(muon, number, num_steps, MUON_RATE)
        set_cosine_rate(adam, number, num_steps, ADAM_RATE)
        found = resampler(wanted).flatten(1) @ projection / math.sqrt(SHARE * size)
        loss = (found - wanted).square().sum(1).mean()
        return take_step(loss, resampler.parameters(), muon, adam)

    parts = {"resampler": resampler, "muon": muon, "adam": adam}
    if not run_steps(making, "resampler", parts, num_steps, step, partial(mix_embeddings, embeddings)):
        return False
    tensors = {
        canonical_name("resampler", None, leaf): weight for leaf, weight in resampler.named_parameters()
    }
    save_single_file(making.folder / WEIGHTS_NAME, tensors, {"resampler": config}, RECOGNISER, overwrite=True)
    return True


def mix_embeddings(embeddings: Tensor, number: int) -> np.ndarray:
    """What one step must give back, [BATCH, 512], each of length 1."""
    rng = numpy_generator("resampler", number)
    first, second = (embeddings[torch.from_numpy(rng.integers(len(embeddings), size=BATCH))] for _ in "ab")
    shares = torch.from_numpy(rng.uniform(size=(BATCH, 1))).float().round(decimals=1)
    return F.normalize(first.lerp(second, shares), dim=-1).numpy()
