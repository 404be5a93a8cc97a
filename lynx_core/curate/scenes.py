"""Which tracks of a person show one scene: the same place in the same light.

Frames are compared as 16x16 colours where none of the two shows a person. Shots of one film that cut back
and forth, parts of one recording in several files and photos of one session are one scene so.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .records import TrackFacts

MAX_DIFFERENCE = 14.0
"""Mean difference of colours, 0 to 255: of frames of one shot mostly below 10, of other places above 25."""
_MIN_CELLS = 20


def number_scenes(tracks: Sequence[TrackFacts]) -> list[int]:
    """A number for each track; equal numbers are one scene. Chains join: a near b, b near c."""
    parents = list(range(len(tracks)))

    def find(number: int) -> int:
        while parents[number] != number:
            parents[number] = parents[parents[number]]
            number = parents[number]
        return number

    for one in range(len(tracks)):
        for other in range(one):
            if find(one) != find(other) and is_same_scene(tracks[one], tracks[other]):
                parents[find(one)] = find(other)
    numbers: dict[int, int] = {}
    return [numbers.setdefault(find(number), len(numbers)) for number in range(len(tracks))]


def is_same_scene(a: TrackFacts, b: TrackFacts) -> bool:
    """Whether two tracks show one place in one light; two of one shot always do."""
    if a.path == b.path and a.shot == b.shot:
        return True
    one, other = a.scene.reshape(-1, 3), b.scene.reshape(-1, 3)
    both = (one[:, 0] >= 0) & (other[:, 0] >= 0)
    if both.sum() < _MIN_CELLS:
        # Portraits that leave no background to compare: a file of its own is a scene of its own.
        return a.path == b.path
    return float(np.abs(one[both] - other[both]).mean()) <= MAX_DIFFERENCE
