"""Files that are the same picture again: copies, other sizes and encodings, and bursts of one moment."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import pairwise

import numpy as np

from ..engine.stage import Rejected
from .records import JudgedTrack

MAX_HASH_BITS = 6
"""Of 64 bits of the perceptual hash; strangers' pictures differ in some 20 to 40."""
MAX_SHADE_DIFFERENCE = 0.05
"""1 - correlation of the aligned faces: of one photo encoded twice below 0.01, of another moment above 0.1."""


def drop_duplicates(tracks: Sequence[JudgedTrack]) -> tuple[list[JudgedTrack], list[Rejected]]:
    """Tracks of distinct files, and those of files that another one shows already.

    Of equal files the one with more pixels stays, then the one whose path comes first. A file counts as a
    near-duplicate when its first picture has nearly the same perceptual hash, it is as long, and the faces in
    both are the same shade for shade.
    """
    by_file: dict[str, list[JudgedTrack]] = {}
    for track in tracks:
        by_file.setdefault(track.path, []).append(track)
    order = sorted(by_file, key=lambda path: (-by_file[path][0].width_px * by_file[path][0].height_px, path))
    kept = _HashIndex()
    rejected: list[Rejected] = []
    for path in order:
        first = by_file[path][0]
        value = int(first.picture_hash, 16)
        twin = next((near for near in kept.find(value) if _is_same(by_file[near], by_file[path])), None)
        if twin is None:
            kept.add(value, path)
            continue
        is_copy = by_file[twin][0].file_hash == first.file_hash
        reason = "a copy of another file" if is_copy else "nearly the same as another file"
        rejected += [Rejected(reason, f"as {twin}", track.subject) for track in by_file[path]]
    stays = set(kept.paths)
    return [track for track in tracks if track.path in stays], rejected


class _HashIndex:
    """Files by their perceptual hash.

    Two hashes that differ in at most `MAX_HASH_BITS` bits agree in one of `MAX_HASH_BITS + 1` stretches of bits, so
    only files that share a stretch are compared.
    """

    def __init__(self) -> None:
        self.paths: list[str] = []
        self._values: list[int] = []
        self._by_stretch: dict[tuple[int, int], list[int]] = defaultdict(list)

    def _stretches(self, value: int) -> Iterator[tuple[int, int]]:
        count = MAX_HASH_BITS + 1
        ends = [64 * number // count for number in range(count + 1)]
        return ((low, value >> low & (1 << high - low) - 1) for low, high in pairwise(ends))

    def add(self, value: int, path: str) -> None:
        """Take a file."""
        for stretch in self._stretches(value):
            self._by_stretch[stretch].append(len(self.paths))
        self._values.append(value)
        self.paths.append(path)

    def find(self, value: int) -> list[str]:
        """Files with nearly this hash, in the order in which they were taken."""
        some = {number for stretch in self._stretches(value) for number in self._by_stretch.get(stretch, ())}
        near = (
            number for number in sorted(some) if (self._values[number] ^ value).bit_count() <= MAX_HASH_BITS
        )
        return [self.paths[number] for number in near]


def _is_same(a: Sequence[JudgedTrack], b: Sequence[JudgedTrack]) -> bool:
    if a[0].file_hash == b[0].file_hash:
        return True
    if a[0].media != b[0].media or abs(a[0].num_frames - b[0].num_frames) > 0.1 * a[0].num_frames:
        return False
    return min(measure_difference(one, other) for one in a for other in b) <= MAX_SHADE_DIFFERENCE


def measure_difference(a: JudgedTrack, b: JudgedTrack) -> float:
    """1 - correlation of the most alike of their aligned faces."""
    one = np.stack([sample.shade for sample in a.samples])
    other = np.stack([sample.shade for sample in b.samples])
    return float(1 - (one @ other.T / one.shape[1]).max())
