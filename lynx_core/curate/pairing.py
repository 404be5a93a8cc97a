"""Which reference stands beside which target.

For each target, references of the same person are tried in this order:

1. another scene: a multi-scene pair, the best there is;
2. the target's scene, but none of its frames, with the head turned otherwise or another expression:
   single-scene, and augmented where an augmenter takes its share of them;
3. the target's own frames: only through an augmenter.

`references.kinds` leaves kinds out; with `references.every_kind` a target has pairs of each kind that it can have,
as the paper weighs them in training, and not of the best alone.

A reference whose cosine to the target is below the threshold may be someone else; one above `too_alike`
teaches to copy. Among those left, the one used least so far comes first, then the better look.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from ..engine.records import hash_texts
from ..engine.stage import Rejected, TableStage
from .configuration import CurationConfig
from .quality import rate_sample
from .records import Candidate, JudgedTrack, Membership, SampleRef
from .target_crops import find_crop
from .windows import Window, count_people, find_windows

PAIRING_VERSION = 1


def make_pairing_stage(
    config: CurationConfig, threshold: float, memberships: Sequence[Membership]
) -> TableStage:
    """The stage: from all `JudgedTrack`, and who they are, to `Candidate`."""
    settings: dict[str, Any] = {
        "targets": asdict(config.targets),
        "references": asdict(config.references),
        "min_face_share": config.quality.min_face_share,
        "too_alike": config.identity.too_alike,
        "threshold": threshold,
        "augmenters": [[augmenter.name, augmenter.share] for augmenter in config.augmenters],
    }

    def function(tracks: Sequence[JudgedTrack]) -> list[Candidate | Rejected]:
        return make_pairs(tracks, memberships, config, threshold)

    return TableStage("pairs", PAIRING_VERSION, JudgedTrack, Candidate, settings=settings, function=function)


@dataclass(frozen=True, eq=False)
class _Option:
    """A look that may be a reference."""

    ref: SampleRef
    track: JudgedTrack
    scene: int
    embedding: np.ndarray
    rating: float


def make_pairs(
    tracks: Sequence[JudgedTrack],
    memberships: Sequence[Membership],
    config: CurationConfig,
    threshold: float,
) -> list[Candidate | Rejected]:
    """Pairs of all people; each target without one is rejected with its reason."""
    by_id = {track.id: track for track in tracks}
    by_shot: dict[tuple[str, int], list[JudgedTrack]] = defaultdict(list)
    for track in tracks:
        by_shot[track.path, track.shot].append(track)
    by_person: dict[str, list[Membership]] = defaultdict(list)
    for membership in memberships:
        by_person[membership.person].append(membership)
    made: list[Candidate | Rejected] = []
    for person in sorted(by_person):
        made += _PersonPairs(person, by_person[person], by_id, by_shot, config, threshold).make()
    return made


class _PersonPairs:
    """The pairs of one person."""

    def __init__(
        self,
        person: str,
        members: Sequence[Membership],
        by_id: dict[str, JudgedTrack],
        by_shot: dict[tuple[str, int], list[JudgedTrack]],
        config: CurationConfig,
        threshold: float,
    ) -> None:
        self.person, self.config, self.threshold = person, config, threshold
        self.members = sorted(members, key=lambda member: (by_id[member.track].path, member.track))
        self.by_id, self.by_shot = by_id, by_shot
        self.uses: Counter[SampleRef] = Counter()
        self.num_own_scene = 0
        self.options = [
            _Option(
                SampleRef(member.track, number), track, member.scene, track.samples[number].embedding, rate_sample(track.samples[number])
            )
            for member in self.members
            for track in (by_id[member.track],)
            for number in track.usable
        ]  # fmt: skip

    def make(self) -> list[Candidate | Rejected]:
        made: list[Candidate | Rejected] = []
        num_targets = 0
        for member in self.members:
            track = self.by_id[member.track]
            windows, fault = find_windows(track, self.config.targets, self.config.quality.min_face_share)
            made += [fault] if fault else []
            for window in windows:
                if num_targets >= self.config.targets.max_per_person:
                    detail = f"targets.max_per_person is {self.config.targets.max_per_person}"
                    made.append(
                        Rejected("enough targets of the person", detail, describe_target(track, window))
                    )
                    continue
                crop = self._find_crop(track, window)
                if isinstance(crop, Rejected):
                    made.append(crop)
                    continue
                num_targets += 1
                paired = self._pair(member, track, window)
                made += [replace(pair, crop=crop) if isinstance(pair, Candidate) else pair for pair in paired]
        return made

    def _find_crop(self, track: JudgedTrack, window: Window) -> tuple[int, ...] | Rejected:
        """The part of the file that shows the person alone; empty where that is all of it."""
        if count_people(track, window) <= self.config.targets.max_people:
            return ()
        shot = self.by_shot[track.path, track.shot]
        return find_crop(track, window, [other for other in shot if other is not track], self.config.targets)

    def _pair(self, member: Membership, track: JudgedTrack, window: Window) -> list[Candidate | Rejected]:
        target = self._embed_target(track, window)
        tiers: dict[str, list[_Option]] = {"multi-scene": [], "single-scene": [], "own": []}
        faults: Counter[str] = Counter()
        for option in self.options:
            tier = self._place(option, member, track, window)
            cosine = float(option.embedding @ target)
            if cosine < self.threshold:
                faults["reference too unlike the target"] += 1
            elif tier == "":
                faults["reference too near the target's frames"] += 1
            elif tier != "own" and cosine > self.config.identity.too_alike:
                faults["reference too alike the target"] += 1
            else:
                tiers[tier].append(option)
        if not self.config.augmenters or "augmented" not in self.config.references.kinds:
            faults["only the target's own frames show the person"] += len(tiers["own"])
            tiers["own"] = []
        if any(tiers.values()):
            faults["no reference of the wanted kinds"] = len(self.options)
        pairs: list[Candidate | Rejected] = [*self._choose(tiers, track, window, target)]
        if pairs:
            return pairs
        reason = next(
            (reason for reason, count in faults.most_common() if count), "no reference of the person"
        )
        detail = f"of {len(self.options)} looks at {self.person} none can stand beside it"
        hint = "; an augmenter makes a pair of the target's own frames" if not self.config.augmenters else ""
        return [Rejected(reason, detail + hint, describe_target(track, window))]

    def _embed_target(self, track: JudgedTrack, window: Window) -> np.ndarray:
        """The mean of the looks inside the window, or of the track where none was kept there."""
        inside = [track.samples[n].embedding for n in track.usable if window.holds(track.samples[n].frame)]
        if not inside:
            return track.embedding
        mean = np.mean(inside, axis=0)
        return mean / np.linalg.norm(mean)

    def _place(self, option: _Option, member: Membership, track: JudgedTrack, window: Window) -> str:
        """The tier of a look; "" for one in the target's scene that is too near to its frames."""
        if option.track.path != track.path or option.track.shot != track.shot:
            if option.scene != member.scene:
                return "multi-scene"
        elif window.holds(track.samples[option.ref.sample].frame) and option.track is track:
            return "own"
        needs = self.config.references
        sample = option.track.samples[option.ref.sample]
        own = [track.samples[n] for n in track.usable if window.holds(track.samples[n].frame)]
        for other in own or [track.samples[track.usable[0]]]:
            turn = float(np.hypot(sample.yaw_deg - other.yaw_deg, sample.pitch_deg - other.pitch_deg))
            difference = 1 - float(sample.shade @ other.shade) / len(sample.shade)
            if turn < needs.min_turn_deg and difference < needs.min_difference:
                return ""
        return "single-scene"

    def _choose(
        self, tiers: dict[str, list[_Option]], track: JudgedTrack, window: Window, target: np.ndarray
    ) -> list[Candidate]:
        made: list[Candidate] = []
        for kind, options in self._list_pools(tiers):
            options = sorted(
                options, key=lambda option: (self.uses[option.ref], -option.rating, option.ref.track)
            )
            count = (
                sum(pair.kind == kind for pair in made) if self.config.references.every_kind else len(made)
            )
            while options and count < self.config.references.pairs_per_target:
                edits = kind == "augmented" or (kind == "single-scene" and self._takes_share())
                size = 1 if edits else self.config.references.per_target
                chosen, options = options[:size], options[size:]
                self.uses.update(option.ref for option in chosen)
                made.append(
                    self._describe("augmented" if edits else kind, chosen, track, window, target, len(made))
                )
                count += 1
        return made

    def _list_pools(self, tiers: dict[str, list[_Option]]) -> list[tuple[str, list[_Option]]]:
        """Kinds with the looks that they are made of, the best first."""
        needs = self.config.references
        single, own = tiers["single-scene"], tiers["own"]
        kinds = [kind for kind in needs.kinds if kind != "augmented" or self.config.augmenters]
        edited = [*single, *own] if needs.every_kind or "single-scene" not in needs.kinds else own
        pools = [("multi-scene", tiers["multi-scene"]), ("single-scene", single), ("augmented", edited)]
        return [(kind, options) for kind, options in pools if kind in kinds]

    def _describe(
        self,
        kind: str,
        chosen: Sequence[_Option],
        track: JudgedTrack,
        window: Window,
        target: np.ndarray,
        number: int,
    ) -> Candidate:
        name = hash_texts([track.id, str(window), *(f"{o.ref.track}:{o.ref.sample}" for o in chosen)])[:16]
        several = "multi-scene " + ("images" if track.media == "photo" else "videos")
        single = "single image" if track.media == "photo" else "single video"
        return Candidate(
            id=f"{name}-{number}",
            person=self.person,
            track=track.id,
            target=track.path,
            first_frame=window.first_frame,
            end_frame=window.end_frame,
            crop=(),
            references=tuple(option.ref for option in chosen),
            raw_kind=several if kind == "multi-scene" else single,
            kind=kind,
            similarity=float(chosen[0].embedding @ target),
        )

    def _takes_share(self) -> bool:
        """Whether the next pair of one scene is edited: the share of each person's pairs, to within one, from a
        start that follows from the person, so that it is the same wherever the files lie."""
        needs = self.config.references
        if needs.every_kind or "augmented" not in needs.kinds:
            return False
        share = max((augmenter.share for augmenter in self.config.augmenters), default=0.0)
        before = self.num_own_scene * share + draw_share(self.person)
        self.num_own_scene += 1
        return int(before + share) > int(before)


def draw_share(name: str) -> float:
    """A number from 0 to below 1 that follows from a name."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:6], "big") / 2**48


def describe_target(track: JudgedTrack, window: Window) -> str:
    """What messages call a target."""
    place = f", frames {window.first_frame}-{window.end_frame - 1}" if window.end_frame else ""
    return f"{track.path}{place}"
