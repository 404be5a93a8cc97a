"""Who is who: tracks of all files grouped into people.

The rule. Each track is a unit vector (the mean of its usable looks). A group is the mean of its tracks. Tracks
that are seen at the same time are different people, however alike (twins). Starting with each track alone,
the two groups whose means are most alike are joined, as long as their cosine is at or above the threshold and
no two of their tracks are seen together; this is centroid linkage with forbidden links, in `clustering.py`.

A person is called after their folder where there is one, else "person-" and 8 hex digits of the first track.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ..engine.stage import Rejected, TableStage
from ..hashing import hash_values
from .clustering import cluster_tracks
from .configuration import IdentityConfig, list_values
from .duplicates import drop_duplicates
from .forgotten import drop_forgotten, read_forgotten
from .records import JudgedTrack, Membership
from .scenes import number_scenes

PEOPLE_VERSION = 1


def make_people_stage(
    config: IdentityConfig, threshold: float, output: Path, unsafe: frozenset[str] = frozenset()
) -> TableStage:
    """The stage: from all `JudgedTrack` to `Membership`; tracks of `unsafe` ids are passed over."""
    forgotten = read_forgotten(output)
    settings = list_values(config)
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
        members = groups[name]
        total = np.sum([track.embedding for track in members], axis=0)
        cosines = np.stack([track.embedding for track in members]) @ means.T
        cosines[:, own] = -2
        for track, scene, row in zip(members, number_scenes(members), cosines, strict=True):
            others = total - track.embedding
            similarity = float(track.embedding @ others / np.linalg.norm(others)) if len(members) > 1 else 1.0
            next_best = int(row.argmax()) if len(names) > 1 else -1
            runner_up = float(row[next_best]) if next_best >= 0 else -1.0
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
