"""Random numbers that depend on what they are for and on nothing else.

Each sample's noise, timestep and dropout come from a generator seeded by a hash of (seed, purpose,
stage, epoch, sample id, repeat). So a resumed run needs no generator state, and packing, the
number of processes and the order of samples cannot change what a sample sees. Numbers are drawn
on the CPU: torch gives the same there on every machine, not on every GPU.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class RNGKey:
    """One showing of one sample."""

    seed: int
    stage: str
    epoch: int
    sample_id: str
    repeat: int = 0
    """How many times the sample was shown before in this epoch."""

    def generator(self, purpose: str) -> torch.Generator:
        """A new generator for this showing and purpose."""
        return make_generator(self.seed, purpose, self.stage, self.epoch, self.sample_id, self.repeat)


def make_generator(seed: int, *words: int | str) -> torch.Generator:
    """A CPU generator whose numbers depend on the arguments alone."""
    return torch.Generator().manual_seed(derive_seed(seed, *words))


def derive_seed(seed: int, *words: int | str) -> int:
    """A seed of 63 bits for one purpose, named by words."""
    # repr keeps 1 and "1" apart, and the length of each word is part of it.
    digest = hashlib.sha256(repr((seed, *words)).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1
