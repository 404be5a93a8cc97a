"""Groups of unit vectors by centroid linkage with forbidden links: the two most alike groups are joined, again and again.

Up to `MAX_EXACT` tracks, all pairs of groups are compared in one matrix. Beyond, only groups of which two tracks are
neighbours: each track has at most `_NEIGHBOURS` others that are nearly at the threshold or above, found by products of
blocks, so that memory grows with the tracks and not with their square.
"""

from __future__ import annotations

import heapq
from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from .records import JudgedTrack

MAX_EXACT = 4000
"""Tracks of which all pairs are compared: 64 MB of cosines."""
_NEIGHBOURS = 128
_BLOCK = 1024


def cluster_tracks(tracks: Sequence[JudgedTrack], threshold: float) -> list[list[JudgedTrack]]:
    """Tracks as people, by the rule of `people.py`."""
    if not tracks:
        return []
    vectors = np.stack([track.embedding for track in tracks]).astype(np.float64)
    together = list_seen_together(tracks)
    join = _join_all if len(tracks) <= MAX_EXACT else _join_neighbours
    groups = join(vectors, together, threshold)
    return [[tracks[number] for number in sorted(members)] for members in groups]


def list_seen_together(tracks: Sequence[JudgedTrack]) -> dict[int, set[int]]:
    """For each track the numbers of those that share a look with it."""
    by_shot: dict[tuple[str, int], list[int]] = defaultdict(list)
    for number, track in enumerate(tracks):
        by_shot[track.path, track.shot].append(number)
    together: dict[int, set[int]] = defaultdict(set)
    for members in by_shot.values():
        frames = [set(tracks[number].looks.reshape(-1, 5)[:, 0].tolist()) for number in members]
        for i, one in enumerate(members):
            for j, other in enumerate(members[:i]):
                if frames[i] & frames[j]:
                    together[one].add(other)
                    together[other].add(one)
    return together


def _join_all(vectors: np.ndarray, together: dict[int, set[int]], threshold: float) -> list[list[int]]:
    members: list[list[int] | None] = [[number] for number in range(len(vectors))]
    sums, unit = vectors.copy(), vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    cosines = unit @ unit.T
    np.fill_diagonal(cosines, -2)
    for one, others in together.items():
        cosines[one, list(others)] = -2
    while True:
        one, other = divmod(int(cosines.argmax()), len(cosines))
        if cosines[one, other] < threshold or one == other:
            return [group for group in members if group is not None]
        joined, taken = members[one], members[other]
        assert joined is not None and taken is not None
        banned = (cosines[one] <= -2) | (cosines[other] <= -2)
        members[one], members[other] = joined + taken, None
        sums[one] += sums[other]
        unit[one] = sums[one] / np.linalg.norm(sums[one])
        row = np.where(banned, -2.0, unit @ unit[one])
        row[one] = -2
        cosines[one], cosines[:, one] = row, row
        cosines[other], cosines[:, other] = -2, -2


def _join_neighbours(vectors: np.ndarray, together: dict[int, set[int]], threshold: float) -> list[list[int]]:
    near = find_neighbours(vectors, threshold - (1 - threshold) / 4)
    members: dict[int, list[int]] = {number: [number] for number in range(len(vectors))}
    sums, versions = vectors.copy(), [0] * len(vectors)
    waiting: list[tuple[float, int, int, int, int]] = []

    def note(one: int, others: list[int]) -> None:
        """Put pairs at or above the threshold among those that may be joined."""
        if not others:
            return
        cosines = sums[others] @ sums[one] / np.linalg.norm(sums[others], axis=1) / np.linalg.norm(sums[one])
        for place in np.flatnonzero(cosines >= threshold):
            low, high = sorted((one, others[place]))
            heapq.heappush(waiting, (-float(cosines[place]), low, high, versions[low], versions[high]))

    for one in members:
        note(one, [other for other in near[one] if other > one and other not in together[one]])
    while waiting:
        _, one, other, *seen = heapq.heappop(waiting)
        if other not in members or seen != [versions[one], versions[other]]:
            continue
        members[one] += members.pop(other)
        sums[one] += sums[other]
        versions[one] += 1
        versions[other] += 1
        for links in (near, together):
            for third in links.pop(other, set()):
                links[third].discard(other)
                if third != one:
                    links[third].add(one)
                    links[one].add(third)
        note(one, sorted(near[one] - together[one]))
    return list(members.values())


def find_neighbours(vectors: np.ndarray, least: float) -> dict[int, set[int]]:
    """For each unit vector [n, d] the others at or above a cosine, at most `_NEIGHBOURS` of them, in both directions."""
    near: dict[int, set[int]] = defaultdict(set)
    single = vectors.astype(np.float32)
    for start in range(0, len(single), _BLOCK):
        cosines = single[start : start + _BLOCK] @ single.T
        for place, row in enumerate(cosines):
            one = start + place
            row[one] = -2
            found = np.flatnonzero(row >= least)
            if len(found) > _NEIGHBOURS:
                found = found[np.argpartition(-row[found], _NEIGHBOURS)[:_NEIGHBOURS]]
            for other in found.tolist():
                near[one].add(other)
                near[other].add(one)
    return near
