"""Segments: which tokens of a packed sequence belong to which sample."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate, groupby

import torch
from torch import Tensor


@dataclass(frozen=True)
class Segments:
    """Token counts of the samples of a pack, in the order of the pack.

    Raises:
        ValueError: when a count is negative or there is no sample.
    """

    lengths: tuple[int, ...]

    def __post_init__(self) -> None:
        if not self.lengths or min(self.lengths) < 0:
            raise ValueError(f"segments need at least one length, none negative, got {self.lengths}")

    def __len__(self) -> int:
        return len(self.lengths)

    @property
    def total(self) -> int:
        """Number of tokens in the pack."""
        return sum(self.lengths)

    @property
    def max_length(self) -> int:
        """Number of tokens of the longest sample."""
        return max(self.lengths)

    @property
    def offsets(self) -> tuple[int, ...]:
        """First token of each sample, and the total: one more than there are samples."""
        return (0, *accumulate(self.lengths))

    def cu_seqlens(self, device: torch.device) -> Tensor:
        """Give the offsets as the variable-length kernels want them.

        Returns:
            [samples + 1], int32, on `device`.
        """
        return _offsets_on(self.offsets, device)

    def split(self, packed: Tensor) -> tuple[Tensor, ...]:
        """Split [total, ...] into one view for each sample.

        Raises:
            ValueError: when `packed` has another number of tokens.
        """
        if len(packed) != self.total:
            raise ValueError(f"segments of {self.total} tokens do not fit a sequence of {len(packed)}")
        return packed.split(self.lengths)

    def split_runs(self, packed: Tensor, runs: tuple[int, ...]) -> list[Tensor]:
        """Split [total, ...] into views [samples, length, ...], one for each run of `find_runs`.

        Raises:
            ValueError: when `packed` has another number of tokens.
        """
        lengths = [self.lengths[start] for start in accumulate(runs[:-1], initial=0)]
        shapes = list(zip(runs, lengths, strict=True))
        pieces = Segments(tuple(run * length for run, length in shapes)).split(packed)
        return [piece.unflatten(0, shape) for piece, shape in zip(pieces, shapes, strict=True)]


@lru_cache(maxsize=32)
def find_runs(*packs: Segments) -> tuple[int, ...]:
    """Count the neighbours that have equal lengths, in each of several packs of the same samples.

    A run of equal samples is a plain batch: one kernel instead of one for each.
    """
    lengths = zip(*(pack.lengths for pack in packs), strict=True)
    return tuple(len(list(run)) for _, run in groupby(lengths))


@lru_cache(maxsize=32)
def _offsets_on(offsets: tuple[int, ...], device: torch.device) -> Tensor:
    # Kept, since each block of each step asks, and a copy to the GPU would wait for it.
    return torch.tensor(offsets, dtype=torch.int32, device=device)
