"""Who is held out. Nobody is in two splits, and nor are people who are seen in one file."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

from .configuration import SplitsConfig

TRAIN, HELDOUT = "train", "heldout"


def split_people(people_of_files: Iterable[tuple[str, str]], config: SplitsConfig) -> dict[str, str]:
    """The split of each person.

    A group is held out when the hash of its first name falls below the share, so that new people move nobody
    from one split to the other, except where a new file joins two groups.

    Args:
        people_of_files: (path, person) of each track.
    """
    parents: dict[str, str] = {}

    def find(name: str) -> str:
        while parents[name] != name:
            parents[name] = parents[parents[name]]
            name = parents[name]
        return name

    first_in: dict[str, str] = {}
    for path, person in people_of_files:
        parents.setdefault(person, person)
        one, other = find(first_in.setdefault(path, person)), find(person)
        parents[max(one, other)] = min(one, other)
    groups = {person: find(person) for person in sorted(parents)}
    roots = sorted(set(groups.values()), key=lambda root: _draw(root, config.seed))
    held = {root for root in roots if _draw(root, config.seed) < config.heldout_share}
    if not held and config.heldout_share > 0 and len(roots) > 1:
        held = {roots[0]}
    if len(held) == len(roots) and roots:
        held.discard(roots[-1])
    return {person: HELDOUT if root in held else TRAIN for person, root in groups.items()}


def _draw(name: str, seed: int) -> float:
    return int.from_bytes(hashlib.sha256(f"{seed}\0{name}".encode()).digest()[:6], "big") / 2**48
