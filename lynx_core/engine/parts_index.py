"""Which inputs of a stage are done, and where their records lie: columns of numbers, about 40 bytes a row.

A key is a hash of 16 bytes; in files and in `RowRef` it stands as 32 hex digits. Here it is numpy's `S16`, whose
zeros at the end are padding and part of the key at once: equal keys stay equal, in the same order.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from .records import KEY_BYTES

KEY_TYPE = f"S{KEY_BYTES}"
_NO_KEY = b""


@dataclass(frozen=True, slots=True)
class RowRef:
    """Where a record lies."""

    key: str
    part: str
    """Path of the part."""
    row: int


def pack_keys(keys: Iterable[str | None]) -> np.ndarray:
    """Keys of 32 hex digits, None for no record, as [n] `S16`."""
    return np.array([bytes.fromhex(key) if key else _NO_KEY for key in keys], KEY_TYPE)


def unpack_key(key: bytes) -> str:
    """The 32 hex digits of one."""
    return key.ljust(KEY_BYTES, b"\0").hex()


class PartsIndex:
    """The rows of all parts of a folder, sorted by the input that they come of.

    Args:
        parts: paths.
        inputs: keys of the inputs, [n].
        keys: of the records, [n]; empty for a rejection.
        places: part and row, [n, 2] int32.
        retries: whether the input is to be tried again, [n].
    """

    def __init__(
        self,
        parts: Sequence[str],
        inputs: np.ndarray,
        keys: np.ndarray,
        places: np.ndarray,
        retries: np.ndarray,
    ) -> None:
        order = np.argsort(inputs, kind="stable")
        order = order[_choose_tries(inputs[order], places[order, 0], retries[order])]
        self.parts = list(parts)
        self.inputs, self.keys, self.places = inputs[order], keys[order], places[order]
        self._retries = retries[order]

    @classmethod
    def empty(cls) -> PartsIndex:
        """Nothing is done."""
        nothing = np.zeros(0, KEY_TYPE)
        return cls([], nothing, nothing, np.zeros((0, 2), np.int32), np.zeros(0, bool))

    def is_done(self, inputs: np.ndarray) -> np.ndarray:
        """Whether each input was seen and is not to be tried again, [n] bool."""
        if not len(self.inputs):
            return np.zeros(len(inputs), bool)
        at = np.minimum(np.searchsorted(self.inputs, inputs), len(self.inputs) - 1)
        return np.asarray((self.inputs[at] == inputs) & ~self._retries[at])

    def find_rows(self, inputs: np.ndarray) -> np.ndarray:
        """Numbers of the rows of inputs, in their order."""
        starts, ends = (np.searchsorted(self.inputs, inputs, side) for side in ("left", "right"))
        counts = ends - starts
        shifts = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        return np.asarray(np.repeat(starts, counts) + shifts)

    def has_record(self, rows: np.ndarray) -> np.ndarray:
        """Whether each row holds a record, and no rejection, [n] bool."""
        return np.asarray(self.keys[rows] != _NO_KEY)

    def find_records(self, inputs: np.ndarray) -> np.ndarray:
        """Numbers of the rows that hold a record, in the order of the inputs, each content once."""
        rows = self.find_rows(inputs)
        rows = rows[self.has_record(rows)]
        _, first = np.unique(self.keys[rows], return_index=True)
        return np.asarray(rows[np.sort(first)])

    def find_rejections(self, inputs: np.ndarray) -> np.ndarray:
        """Numbers of the rows that hold a rejection, in the order of the inputs."""
        rows = self.find_rows(inputs)
        return np.asarray(rows[~self.has_record(rows)])

    def refs(self, rows: np.ndarray) -> Iterator[RowRef]:
        """Places of rows."""
        for row in rows:
            part, place = self.places[row].tolist()
            yield RowRef(unpack_key(self.keys[row]), self.parts[part], place)


def _choose_tries(inputs: np.ndarray, parts: np.ndarray, retries: np.ndarray) -> np.ndarray:
    """Of sorted rows those that count, [n] bool.

    An input that was tried again has rows in several parts: the first part without `retry` counts, else the last.
    """
    counts = np.ones(len(inputs), bool)
    again = (inputs[1:] == inputs[:-1]) & (parts[1:] != parts[:-1])
    for key in np.unique(inputs[1:][again]):
        rows = slice(*(int(np.searchsorted(inputs, key, side)) for side in ("left", "right")))
        tried = list(dict.fromkeys(parts[rows].tolist()))
        good = [part for part in tried if not retries[rows][parts[rows] == part].any()]
        counts[rows] = parts[rows] == (good[0] if good else tried[-1])
    return counts
