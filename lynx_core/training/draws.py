"""Which samples an epoch draws, and how often each.

With weighted kinds of pairs, each kind is a stream of its own: one shuffled pass over its samples after
another. An epoch takes as many from each stream as the weights say and continues where the epoch before it
ended, so every sample of a kind is drawn once before any is drawn again, across epochs as well.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ..data.errors import DataError
from ..rng import ORDER_OF_KIND, shuffled

PART_SAMPLES = 1 << 20
"""The most samples that are planned at a time, about; fewer would change no fill that can be seen."""


@dataclass(frozen=True, eq=False)
class Kinds:
    """The kind of each sample."""

    names: tuple[str, ...]
    codes: np.ndarray
    """Places in `names`."""

    @classmethod
    def of(cls, kinds: Sequence[str] | np.ndarray | Kinds) -> Kinds:
        """Of a name for each sample."""
        if isinstance(kinds, Kinds):
            return kinds
        names, codes = np.unique(np.asarray(kinds), return_inverse=True)
        return cls(tuple(names.tolist()), codes)

    def present(self, samples: np.ndarray | slice = slice(None)) -> list[str]:
        """Names that some sample has, in order."""
        counts = np.bincount(self.codes[samples], minlength=len(self.names))
        return sorted(name for name, count in zip(self.names, counts, strict=True) if count)

    def find(self, name: str, samples: np.ndarray) -> np.ndarray:
        """Those of `samples` that are of a kind."""
        return samples[self.codes[samples] == self.names.index(name)]


@dataclass(frozen=True, eq=False)
class Draws:
    """The samples of one epoch, in no order that means anything."""

    items: np.ndarray | None
    """Index of each sample; None where all are drawn once."""
    repeats: np.ndarray | None
    """How often each was drawn before in this epoch; None where all are drawn once."""
    count: int

    def __len__(self) -> int:
        return self.count

    @property
    def num_parts(self) -> int:
        return -(-self.count // PART_SAMPLES)

    def sample(self, place: int) -> int:
        return place if self.items is None else int(self.items[place])

    def repeat(self, place: int) -> int:
        return 0 if self.repeats is None else int(self.repeats[place])


def count_repeats(samples: np.ndarray) -> np.ndarray:
    """For each entry, how many entries before it are equal; int64."""
    order = np.argsort(samples, kind="stable")
    ordered = samples[order]
    is_first = np.concatenate([[True], ordered[1:] != ordered[:-1]])
    starts = np.flatnonzero(is_first)
    repeats = np.empty(len(samples), dtype=np.int64)
    repeats[order] = np.arange(len(samples)) - starts[np.cumsum(is_first) - 1]
    return repeats


def plan_epoch_items(
    kinds: Sequence[str] | np.ndarray | Kinds,
    weights: Mapping[str, float] | None,
    *,
    seed: int,
    epoch: int,
    num_items: int | None = None,
    eligible: np.ndarray | None = None,
) -> np.ndarray:
    """Indices of the samples of one epoch, int64; their order means nothing, packing shuffles them.

    Args:
        kinds: of every sample.
        weights: kind -> share of the epoch, any positive scale; 0 leaves a kind out. None takes every
            eligible sample once.
        seed, epoch: 0 or more.
        num_items: how many; by default as many as there are eligible samples of the kinds with weight.
        eligible: [samples] bool, which samples a stage uses; all when None.

    Raises:
        DataError: for kinds without a weight, weights without a kind, negative or all-zero weights,
            and when nothing is eligible.
    """
    table = Kinds.of(kinds)
    usable = np.arange(len(table.codes)) if eligible is None else np.flatnonzero(eligible)
    if not len(usable):
        raise DataError(f"none of the {len(table.codes)} samples is eligible for this stage")
    present = table.present(usable)
    if weights is None:
        if num_items is None:
            return usable
        streams, shares = [usable], [1.0]
    else:
        _check_weights(weights, present, table.present())
        present = [kind for kind in present if weights[kind] > 0]
        streams = [table.find(kind, usable) for kind in present]
        total = sum(weights[kind] for kind in present)
        shares = [weights[kind] / total for kind in present]
    count = sum(len(stream) for stream in streams) if num_items is None else num_items
    taken = []
    for variant, (stream, share) in enumerate(zip(streams, shares, strict=True)):
        # Rounding the running totals keeps the long-run shares exact.
        first, end = (math.floor(number * count * share + 0.5) for number in (epoch, epoch + 1))
        taken.append(stream[_read_stream(len(stream), first, end, seed, variant)])
    return np.concatenate(taken)


def _read_stream(length: int, first: int, end: int, seed: int, variant: int) -> np.ndarray:
    """Places `first` to `end` of an endless run of shuffled passes over `length` samples."""
    passes = range(first // length, -(-end // length))
    orders = [shuffled(length, seed, ORDER_OF_KIND, number, variant) for number in passes]
    if not orders:
        return np.empty(0, dtype=np.int64)
    offset = passes[0] * length
    return np.concatenate(orders)[first - offset : end - offset]


def _check_weights(weights: Mapping[str, float], present: list[str], known: list[str]) -> None:
    for kind, weight in weights.items():
        if kind not in known:
            close = difflib.get_close_matches(kind, known, n=1, cutoff=0.3)
            hint = f"; did you mean '{close[0]}'?" if close else ""
            raise DataError(
                f"there is a weight for '{kind}', but the samples are of {', '.join(known)}{hint}"
            )
        if not (math.isfinite(weight) and weight >= 0):
            raise DataError(f"the weight of '{kind}' is 0 or more, got {weight}")
    missing = [kind for kind in present if kind not in weights]
    if missing:
        raise DataError(f"no weight for {', '.join(missing)}; give 0 to leave a kind out")
    if not sum(weights[kind] for kind in present):
        raise DataError(f"all weights of {', '.join(present)} are 0; nothing is left to train on")
