"""From what was read in the videos to the figures of the experiment."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from math import comb
from typing import Any

import numpy as np

from ..world.clip import NUM_FRAMES
from ..world.identity import CHOICES, GLASSES, MARK_COLOURS, MARK_PLACES, SHARES
from ..world.labels import POSE_MIDDLES, POSE_NAMES, POSE_SPREADS, pose_numbers
from ..world.pairs import Pair
from ..world.scene import ACTIONS, BACKGROUNDS
from .runs import Rows, swap_person
from .statistics import estimate_correlation, estimate_mean, estimate_r2

MEASURES = ("top1", "cosine", "mark", "background", "action", "motion")
"""Of every variant; each [seeds, cases]."""
FEW = 8
LONG_CAPTION_WORDS = 20
_MOTION_NAMES = ("yaw", "pitch", "scale", "smile")
_STAY_STILL = ACTIONS.index("stay still")


@dataclass(frozen=True)
class Truth:
    """What the cases ask for."""

    cases: Sequence[Pair]
    gallery: np.ndarray
    """[128, 128]: the mean embedding of each person in drawn pictures elsewhere, of length 1."""

    def factor(self, name: str, count: int) -> np.ndarray:
        """A factor of the people of the first cases; NaN where it cannot be seen."""
        people = [case.target.identity for case in self.cases[:count]]
        values = np.array([getattr(person, name) for person in people], dtype=float)
        if name == "glasses_colour":
            values[[GLASSES[person.glasses] == "none" for person in people]] = np.nan
        return values


class Measured:
    """The measures of one variant: [seeds, cases] arrays from the rows of each seed."""

    def __init__(self, truth: Truth, rows: Sequence[Rows]) -> None:
        self.truth, self.rows = truth, rows
        self.count = len(rows[0]["background"])
        self.cases = truth.cases[: self.count]

    def _stack(self, name: str) -> np.ndarray:
        return np.stack([rows[name] for rows in self.rows])

    def cosines(self) -> np.ndarray:
        """Likeness to everyone of the gallery, [seeds, cases, 128]."""
        return self._stack("embedding") @ self.truth.gallery.T

    def likeness(self, people: Sequence[int]) -> np.ndarray:
        """Cosine of each case with one person of the gallery."""
        return self.cosines()[:, np.arange(self.count), list(people)]

    def named(self, people: Sequence[int]) -> np.ndarray:
        """Whether that person is the nearest of all 128."""
        return self.cosines().argmax(2) == np.array(people)

    def named_of_few(self, people: Sequence[int]) -> np.ndarray:
        """The chance that the person is the nearest among `FEW`, when the others are drawn."""
        cosines = self.cosines()
        own = cosines[:, np.arange(self.count), list(people)]
        nearer = (cosines > own[..., None]).sum(2)
        others = cosines.shape[2] - 1
        return np.vectorize(lambda n: comb(others - n, FEW - 1) / comb(others, FEW - 1))(nearer)

    def hits(self, name: str) -> np.ndarray:
        """Whether a choice was read back; NaN where it cannot be seen."""
        true = self.truth.factor(name, self.count)
        return np.where(np.isnan(true), np.nan, self._stack(f"factor {name}") == true)

    def lead(self, name: str) -> np.ndarray:
        """How much more often a choice is read back than it is that of somebody else.

        0 where nothing is known of the person, whichever choice the videos show most often.
        """
        true, read = self.truth.factor(name, self.count), self._stack(f"factor {name}")
        among_all = (read[..., None] == true).sum(2)
        own = read == true
        return own - (among_all - own) / (self.count - 1)

    def arrays(self) -> dict[str, np.ndarray]:
        """The measures of `MEASURES` and some more."""
        people = range(self.count)
        asked = [case.target for case in self.cases]
        return {
            "top1": self.named(people),
            "cosine": self.likeness(people),
            "mark": self.hits("mark_colour"),
            "background": self._stack("background") == [shot.scene.background for shot in asked],
            "action": self._stack("action") == [shot.action for shot in asked],
            "motion": self.motion[0],
            "mark_lead": self.lead("mark_colour"),
            "mark_place": self.hits("mark_place"),
            "mark_colour_and_place": self.hits("mark_colour") * self.hits("mark_place"),
            "top1_of_8": self.named_of_few(people),
            "motion_amount": self.motion[1],
            "still_amount": self.motion[2],
            "reference_background": self._stack("background")
            == [c.reference.scene.background for c in self.cases],
        }

    @cached_property
    def motion(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Of the path of the read pose, from its first frame on, in spreads:

        its cosine with the path that the caption asks for; its length as a share of that path's; and its length
        where the caption asks to stay still. NaN where a case is of the other sort.
        """
        columns = [POSE_NAMES.index(name) for name in _MOTION_NAMES]
        poses = self._stack("poses")[..., columns]
        asked = np.stack([_asked_path(case)[:, columns] for case in self.cases])
        read = poses - poses[:, :, :1]
        asked = asked - asked[:, :1]
        length, wanted = np.sqrt((read**2).mean((2, 3))), np.sqrt((asked**2).mean((1, 2)))
        product = (read * asked).mean((2, 3))
        still = np.array([case.target.action == _STAY_STILL for case in self.cases])
        with np.errstate(divide="ignore", invalid="ignore"):
            cosine, share = product / (length * wanted), length / wanted
        return (
            np.where(still, np.nan, cosine),
            np.where(still, np.nan, share),
            np.where(still, length, np.nan),
        )

    def estimates(self) -> dict[str, dict[str, float]]:
        """All measures with their intervals; those without a case are left out."""
        arrays = {name: values.astype(float) for name, values in self.arrays().items()}
        return {
            name: estimate_mean(v).as_json() for name, v in arrays.items() if not np.isnan(v).any(0).all()
        }

    def factors(self) -> dict[str, dict[str, Any]]:
        """How well each factor of the person is read back: R2 of a share, accuracy of a choice."""
        found: dict[str, dict[str, Any]] = {}
        for name in SHARES:
            true = np.broadcast_to(self.truth.factor(name, self.count), (len(self.rows), self.count))
            found[name] = {"kind": "R2", **estimate_r2(self._stack(f"factor {name}"), true).as_json()}
        for name in CHOICES:
            hits = self.hits(name)
            if not np.isnan(hits).any(0).all():
                found[name] = {"kind": "accuracy", **estimate_mean(hits).as_json()}
        return found

    def copy_paste(self) -> dict[str, Any]:
        """Likeness by how far pose and light are from the photo's, and what of the photo is copied."""
        gaps = self.pose_gaps()
        likeness = self.frame_likeness()
        edges = np.quantile(gaps, [0, 1 / 3, 2 / 3, 1])
        bins = []
        for low, high in pairwise(edges):
            inside = (gaps >= low) & (gaps <= high)
            bins.append(
                {"from": round(float(low), 3), "to": round(float(high), 3)} | _mean_where(likeness, inside)
            )
        other_light = np.array([c.target.scene.light != c.reference.scene.light for c in self.cases])
        whole = self.likeness(range(self.count))
        first_yaw = self._stack("poses")[:, :, 0, POSE_NAMES.index("yaw")]
        photo_yaw = np.array([pose_numbers(case.reference.pose)[0] for case in self.cases])
        return {
            "likeness_by_pose_difference": bins,
            "likeness_in_the_same_light": _mean_where(whole[..., None], ~other_light[None, :, None]),
            "likeness_in_another_light": _mean_where(whole[..., None], other_light[None, :, None]),
            "reference_background": self.estimates()["reference_background"],
            "correlation_of_yaw_with_the_photo": estimate_correlation(
                first_yaw, np.broadcast_to(photo_yaw, first_yaw.shape)
            ).as_json(),
        }

    def by_caption(self) -> dict[str, dict[str, float]]:
        """Likeness where the caption is short, and where it is long; empty where there is one sort alone."""
        num_words = np.array([len(case.caption.split()) for case in self.cases])
        is_long = num_words >= LONG_CAPTION_WORDS
        if is_long.all() or not is_long.any():
            return {}
        likeness = self.likeness(range(self.count))
        return {
            name: estimate_mean(likeness[:, chosen]).as_json()
            for name, chosen in (("short", ~is_long), ("long", is_long))
        }

    def pose_gaps(self) -> np.ndarray:
        """Angle between the photo's pose and each frame's, yaw and pitch together, radians [seeds, cases, frames]."""
        poses = self._stack("poses")
        total = np.zeros(poses.shape[:3])
        for name in ("yaw", "pitch"):
            i = POSE_NAMES.index(name)
            read = poses[..., i] * POSE_SPREADS[i] + POSE_MIDDLES[i]
            photo = np.array([getattr(case.reference.pose, name) for case in self.cases])
            total += (read - photo[:, None]) ** 2
        return np.sqrt(total)

    def frame_likeness(self) -> np.ndarray:
        """[seeds, cases, frames]."""
        frames = self._stack("frame_embeddings").astype(np.float32)
        return np.einsum("scfd,cd->scf", frames, self.truth.gallery[: self.count])


def _asked_path(case: Pair) -> np.ndarray:
    return np.stack([pose_numbers(case.target.pose_at(frame)) for frame in range(NUM_FRAMES)])


def _mean_where(values: np.ndarray, inside: np.ndarray) -> dict[str, float]:
    """Mean over the frames inside of each case, then over cases."""
    inside = np.broadcast_to(inside, values.shape)
    kept = np.where(inside, values, np.nan)
    with np.errstate(invalid="ignore"):
        each = np.nansum(kept, 2) / inside.sum(2)
    # A case counts when one of its seeds has such frames.
    per_case = np.nanmean(each, 0, keepdims=True) if len(each) > 1 else each
    if np.isnan(per_case).all():
        return {"n": 0}
    return estimate_mean(per_case).as_json()


def compare(variant: Measured, base: Measured, names: Sequence[str]) -> dict[str, dict[str, float]]:
    """How much more than the base, case by case, in the cases that both have."""
    ours, theirs = variant.arrays(), base.arrays()
    seeds = min(len(variant.rows), len(base.rows))
    count = min(variant.count, base.count)
    found = {}
    for name in names:
        difference = ours[name][:seeds, :count].astype(float) - theirs[name][:seeds, :count].astype(float)
        found[name] = estimate_mean(difference).as_json()
    return found


def measure_swap(measured: Measured) -> dict[str, dict[str, float]]:
    """With another person's photo: whose likeness it is."""
    others = [swap_person(number) for number in range(measured.count)]
    own = range(measured.count)
    parts: dict[str, np.ndarray] = {
        "cosine_with_the_photo": measured.likeness(others),
        "cosine_with_the_first_person": measured.likeness(own),
        "top1_the_photo": measured.named(others),
        "top1_the_first_person": measured.named(own),
    }
    return {name: estimate_mean(values).as_json() for name, values in parts.items()}


def chances(base: Measured | None) -> dict[str, float]:
    """What guessing gives."""
    found = {
        "top1": 1 / 128,
        "top1_of_8": 1 / FEW,
        "mark": 1 / len(MARK_COLOURS),
        "mark_lead": 0.0,
        "mark_place": 1 / len(MARK_PLACES),
        "mark_colour_and_place": 1 / len(MARK_COLOURS) / len(MARK_PLACES),
        "background": 1 / len(BACKGROUNDS),
        "action": 1 / len(ACTIONS),
        "motion": 0.0,
    }
    if base is not None:
        cosines = base.cosines()
        others = ~np.eye(base.count, cosines.shape[2], dtype=bool)
        found["cosine"] = float(cosines[:, others].mean())
    return {name: round(value, 4) for name, value in found.items()}
