"""Random numbers that depend on what they are for and on nothing else.

No generator's state is ever stored: seed, purpose and numbers are the state, so a resumed run draws
what an unbroken one draws, and packing, the number of processes and the order of samples change
nothing. Three generators, each kept for the numbers it has always given:

* `random_bits` and `shuffled`: Philox, a counter-based generator. numpy promises its raw stream across
  versions (NEP 19), which it does not for `Generator.permutation`.
* `torch_generator` and `RNGKey`: torch's generator on the CPU, where it gives the same numbers on every
  machine, not on every GPU.
* `numpy_generator`: numpy's PCG64, for the drawn world of the miniature.
"""

from __future__ import annotations

import hashlib
import zlib
from dataclasses import dataclass

import numpy as np
import torch

from .spec import LynxError

ORDER_OF_SAMPLES, ORDER_OF_STEPS, ORDER_OF_RANKS, ORDER_OF_KIND = range(4)
"""What an order is for; keeps the streams of one seed apart."""

_BLOCK = 1 << 20


def random_bits(count: int, seed: int, purpose: int, round_number: int, variant: int = 0) -> np.ndarray:
    """Draw `count` random uint64, a pure function of the other arguments.

    Args:
        count: how many.
        seed: 0 or more.
        purpose: one of the `ORDER_OF_*`.
        round_number: epoch or cycle, 0 or more.
        variant: tells apart several streams of one purpose.
    """
    return _make_philox(seed, purpose, round_number, variant).random_raw(count)


def _make_philox(seed: int, purpose: int, round_number: int, variant: int) -> np.random.Philox:
    if seed < 0 or round_number < 0:
        raise LynxError(f"seed and epoch are 0 or more, got {seed} and {round_number}")
    key = np.array([seed, purpose], dtype=np.uint64)
    # Philox counts up in the first word; the others place each round in a stream of its own.
    counter = np.array([0, 0, round_number, variant], dtype=np.uint64)
    return np.random.Philox(key=key, counter=counter)


def shuffled(count: int, seed: int, purpose: int, round_number: int, variant: int = 0) -> np.ndarray:
    """Shuffle the numbers 0 to `count` - 1, int64; arguments as `random_bits`."""
    return np.argsort(random_bits(count, seed, purpose, round_number, variant), kind="stable")


def shuffled_part(
    count: int, part: int, num_parts: int, seed: int, purpose: int, round_number: int, variant: int = 0
) -> np.ndarray:
    """One of `num_parts` pieces of about equal size of what `shuffled` gives, in the memory that it takes.

    The bits of a number are its place in the order, so those of a part are all within one range. 50 M
    numbers in 48 parts take 0.4 s a part and 40 MB; sorted at once, 12 s and 1.2 GB.
    """
    if num_parts == 1:
        return shuffled(count, seed, purpose, round_number, variant)
    bounds = [(2**64 * number // num_parts) for number in (part, part + 1)]
    low, high = np.uint64(bounds[0]), np.uint64(bounds[1] - 1)
    generator = _make_philox(seed, purpose, round_number, variant)
    numbers, keys = [], []
    for start in range(0, count, _BLOCK):
        bits = generator.random_raw(min(_BLOCK, count - start))
        inside = np.flatnonzero((bits >= low) & (bits <= high))
        numbers.append(inside + start)
        keys.append(bits[inside])
    order = np.argsort(np.concatenate(keys), kind="stable")
    return np.concatenate(numbers)[order]


@dataclass(frozen=True)
class RNGKey:
    """Names one draw of one sample: its noise, timestep and dropout."""

    seed: int
    stage: str
    epoch: int
    sample_id: str
    repeat: int = 0
    """How many times the sample was drawn before in this epoch."""

    def generator(self, purpose: str) -> torch.Generator:
        """Make a new generator for this draw and purpose."""
        return torch_generator(self.seed, purpose, self.stage, self.epoch, self.sample_id, self.repeat)


def torch_generator(seed: int, *words: int | str) -> torch.Generator:
    """Make a CPU generator whose numbers depend on the arguments alone."""
    return torch.Generator().manual_seed(derive_seed(seed, *words))


def derive_seed(seed: int, *words: int | str) -> int:
    """Derive a seed of 63 bits for one purpose, named by words."""
    # repr keeps 1 and "1" apart, and the length of each word is part of it.
    digest = hashlib.sha256(repr((seed, *words)).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def numpy_generator(purpose: str, *numbers: int) -> np.random.Generator:
    """Make a generator for one purpose; equal arguments give equal draws on every machine."""
    return np.random.Generator(np.random.PCG64([zlib.crc32(purpose.encode()), *numbers]))
