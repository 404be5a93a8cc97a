"""Who is who: tracks of all files grouped into people.

The rule. Each track is a unit vector (the mean of its usable looks). A group is the mean of its tracks. Tracks
that are seen at the same time are different people, however alike (twins). Starting with each track alone,
the two groups whose means are most alike are joined, as long as their cosine is at or above the threshold and
no two of their tracks are seen together; this is centroid linkage with forbidden links. Among more than
`MAX_EXACT` tracks, each joins the most alike group in the order of quality instead, and groups are joined
afterwards: the same rule, first come first served.

A person is called after their folder where there is one, else "person-" and 8 hex digits of the first track.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np

from ..engine.stage import Rejected, TableStage
from ..hashing import hash_values
from .configuration import IdentityConfig
from .duplicates import drop_duplicates
from .forgotten import drop_forgotten, read_forgotten
from .records import JudgedTrack, Membership
from .scenes import number_scenes

PEOPLE_VERSION = 1
MAX_EXACT = 4000
"""Tracks of which all pairs are compared: 64 MB of cosines."""


def make_people_stage(
    config: IdentityConfig, threshold: float, output: Path, unsafe: frozenset[str] = frozenset()
) -> TableStage:
    """The stage: from all `JudgedTrack` to `Membership`; tracks of `unsafe` ids are passed over."""
    forgotten = read_forgotten(output)
    settings = {name: str(value) for name, value in asdict(config).items()}
    settings |= {"threshold": str(threshold), "forgotten": hash_values(forgotten)}
    settings["unsafe"] = hash_values(sorted(unsafe))

    def function(tracks: Sequence[JudgedTrack]) -> list[Membership | Rejected]:
        known, gone = drop_forgotten([track for track in tracks if track.id not in unsafe], forgotten)
        return [*find_people(known, config, threshold), *gone]

    return TableStage("people", PEOPLE_VERSION, JudgedTrack, Membership, settings=settings, function=function)


def find_people(
    tracks: Sequence[JudgedTrack], config: IdentityConfig, threshold: float
) -> list[Membership | Rejected]:
    """Whose each track is; duplicates, strangers in a person's folder and rare people are rejected."""
    distinct, rejected = drop_duplicates(sorted(tracks, key=lambda track: (track.path, track.id)))
    named = [track for track in distinct if track.folder_name]
    unnamed = [track for track in distinct if not track.folder_name]
    groups, strangers = _group_by_folder(named, threshold)
    groups |= {name_person(members): members for members in cluster_tracks(unnamed, threshold)}
    rejected += strangers
    for name, members in list(groups.items()):
        if len(members) < config.min_tracks:
            detail = f"{name} is seen in {len(members)} tracks, identity.min_tracks is {config.min_tracks}"
            rejected += [Rejected("a person seen too rarely", detail, track.subject) for track in members]
            del groups[name]
    return [*_describe_members(groups, threshold, config.margin), *rejected]


def name_person(members: Sequence[JudgedTrack]) -> str:
    """The same name again, as long as the person's first track stays."""
    return f"person-{min(track.id for track in members)[:8]}"


def cluster_tracks(tracks: Sequence[JudgedTrack], threshold: float) -> list[list[JudgedTrack]]:
    """Tracks as people, by the rule above."""
    if not tracks:
        return []
    vectors = np.stack([track.embedding for track in tracks]).astype(np.float64)
    together = list_seen_together(tracks)
    groups = [[number] for number in range(len(tracks))]
    if len(tracks) > MAX_EXACT:
        groups = _join_in_order(tracks, vectors, together, threshold)
    groups = _join_most_alike(groups, vectors, together, threshold)
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


def _join_in_order(
    tracks: Sequence[JudgedTrack], vectors: np.ndarray, together: dict[int, set[int]], threshold: float
) -> list[list[int]]:
    groups: list[list[int]] = []
    sums = np.zeros((0, vectors.shape[1]))
    for number in sorted(range(len(tracks)), key=lambda n: (-len(tracks[n].usable), tracks[n].id)):
        cosines = (sums @ vectors[number]) / np.linalg.norm(sums, axis=1) if groups else np.zeros(0)
        alike = (int(group) for group in np.argsort(-cosines) if cosines[group] >= threshold)
        joined = next((group for group in alike if not together[number].intersection(groups[group])), None)
        if joined is None:
            groups.append([number])
            sums = np.vstack([sums, vectors[number]])
        else:
            groups[joined].append(number)
            sums[joined] += vectors[number]
    return groups


def _join_most_alike(
    groups: list[list[int]], vectors: np.ndarray, together: dict[int, set[int]], threshold: float
) -> list[list[int]]:
    members: list[list[int] | None] = [list(group) for group in groups]
    sums = np.stack([vectors[group].sum(0) for group in groups])
    unit = sums / np.linalg.norm(sums, axis=1, keepdims=True)
    cosines = unit @ unit.T
    np.fill_diagonal(cosines, -2)
    forbidden = [set().union(*(together[number] for number in group)) for group in groups]
    for one, group in enumerate(groups):
        for other in range(one):
            if forbidden[other] & set(group):
                cosines[one, other] = cosines[other, one] = -2
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


def _group_by_folder(
    tracks: Sequence[JudgedTrack], threshold: float
) -> tuple[dict[str, list[JudgedTrack]], list[Rejected]]:
    """In each named folder, the largest group of alike tracks is the person; the others are strangers there."""
    by_name: dict[str, list[JudgedTrack]] = defaultdict(list)
    for track in tracks:
        by_name[track.folder_name].append(track)
    groups: dict[str, list[JudgedTrack]] = {}
    strangers: list[Rejected] = []
    for name, members in by_name.items():
        clusters = cluster_tracks(members, threshold)
        groups[name] = max(clusters, key=lambda group: (len({track.path for track in group}), len(group)))
        mean = mean_of(groups[name])
        for group in clusters:
            if group is not groups[name]:
                strangers += [
                    Rejected(
                        "not the person of the folder",
                        f"cosine {float(track.embedding @ mean):.2f} to {name}, the threshold is {threshold:.3f}",
                        track.subject,
                    )
                    for track in group
                ]
    return groups, strangers


def mean_of(tracks: Sequence[JudgedTrack]) -> np.ndarray:
    """The unit vector of a person."""
    total = np.sum([track.embedding for track in tracks], axis=0)
    return total / np.linalg.norm(total)


def _describe_members(
    groups: dict[str, list[JudgedTrack]], threshold: float, margin: float
) -> list[Membership]:
    names = sorted(groups)
    means = np.stack([mean_of(groups[name]) for name in names]) if names else np.zeros((0, 1))
    described = []
    for own, name in enumerate(names):
        scenes = number_scenes(groups[name])
        for track, scene in zip(groups[name], scenes, strict=True):
            others = [other for other in groups[name] if other is not track]
            similarity = float(track.embedding @ mean_of(others)) if others else 1.0
            cosines = means @ track.embedding
            cosines[own] = -2
            next_best = int(cosines.argmax()) if len(names) > 1 else -1
            runner_up = float(cosines[next_best]) if next_best >= 0 else -1.0
            described.append(
                Membership(
                    track=track.id,
                    person=name,
                    similarity=similarity,
                    runner_up=names[next_best] if next_best >= 0 else "",
                    runner_up_similarity=runner_up,
                    look_alike=runner_up >= threshold - margin,
                    scene=scene,
                )
            )
    return described


def count_people(memberships: Sequence[Membership]) -> Counter[str]:
    """Tracks of each person."""
    return Counter(membership.person for membership in memberships)
