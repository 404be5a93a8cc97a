"""Segments: which tokens of a packed sequence belong to which sample."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate

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


@lru_cache(maxsize=32)
def _offsets_on(offsets: tuple[int, ...], device: torch.device) -> Tensor:
    # Kept, since each block of each step asks, and a copy to the GPU would wait for it.
    return torch.tensor(offsets, dtype=torch.int32, device=device)
