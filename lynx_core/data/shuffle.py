"""Seeded orders that depend on their numbers alone.

The bits come from Philox, a counter-based generator: a seed and a place in its stream give the same
bits on every machine, and numpy promises the raw stream across versions (NEP 19), which it does not
for `Generator.permutation`. Nothing has to be stored to continue: the numbers are the state.
"""

from __future__ import annotations

import numpy as np

ORDER_OF_SAMPLES, ORDER_OF_STEPS, ORDER_OF_RANKS, ORDER_OF_KIND = range(4)
"""What an order is for; keeps the streams of one seed apart."""


def random_bits(count: int, seed: int, purpose: int, round_number: int, variant: int = 0) -> np.ndarray:
    """`count` random uint64, a pure function of the other arguments.

    Args:
        count: how many.
        seed: 0 or more.
        purpose: one of the `ORDER_OF_*`.
        round_number: epoch or cycle, 0 or more.
        variant: tells apart several streams of one purpose.
    """
    if seed < 0 or round_number < 0:
        raise ValueError(f"seed and epoch are 0 or more, got {seed} and {round_number}")
    key = np.array([seed, purpose], dtype=np.uint64)
    # Philox counts up in the first word; the others place each round in a stream of its own.
    counter = np.array([0, 0, round_number, variant], dtype=np.uint64)
    return np.random.Philox(key=key, counter=counter).random_raw(count)


def shuffled(count: int, seed: int, purpose: int, round_number: int, variant: int = 0) -> np.ndarray:
    """The numbers 0 to `count` - 1 in a random order, int64; arguments as `random_bits`."""
    return np.argsort(random_bits(count, seed, purpose, round_number, variant), kind="stable")
