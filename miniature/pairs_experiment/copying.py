"""What of the photo, other than the person, a video shows: pose, expression, light, background."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..experiment.measures import Measured
from ..experiment.runs import Bench, Rows
from ..world.clip import FRAME_PX
from ..world.labels import POSE_NAMES, pose_numbers
from ..world.scene import LIGHTS

FAR_RAD = 0.35
"""Angle between the photo's head and the frame's from which on the pose differs."""
_EDGE_PX = 8
_WARMTH = {"cold": -1.0, "plain": 0.0, "warm": 1.0}
COPIED = ("yaw", "pitch", "smile", "warmth", "light_side", "background_colour")
HARD = "hard_likeness"
Floats = NDArray[np.float64]


class CopyBench(Bench):
    """Reads colours as well."""

    def read(self, clips: np.ndarray) -> Rows:
        return super().read(clips) | measure_colours(clips)


def measure_colours(clips: np.ndarray) -> Rows:
    """Of clips [K, T, 64, 64, 3] uint8 RGB: the edge's mean colour in the first frame, [K, 3]; warmth of all
    frames and how much brighter their left is, logarithms of ratios, [K]."""
    values = clips.astype(np.float32) + 1
    half = FRAME_PX // 2
    top = values[:, 0, :_EDGE_PX].mean((1, 2))
    sides = values[:, 0, :half, [*range(_EDGE_PX), *range(FRAME_PX - _EDGE_PX, FRAME_PX)]].mean((0, 2))
    mean = values.mean((1, 2, 3))
    left, right = values[..., :half, :].mean((1, 2, 3, 4)), values[..., half:, :].mean((1, 2, 3, 4))
    return {
        "edge": (top + sides) / 2,
        "warmth": np.log(mean[:, 0] / mean[:, 2]),
        "light_side": np.log(left / right),
    }


def measure_copying(measured: Measured, base: Measured) -> dict[str, Floats]:
    """The share of each case in the correlation of the video with the photo, [cases]: their mean is Pearson's.

    Pose and expression are those of the first frame. Light and colours are what differs from the base's video of
    the same caption and noise, so that the caption's own place and light do not count.
    """
    cases, rows, plain = measured.cases, measured.rows[0], base.rows[0]
    first = rows["poses"][:, 0]
    photo = np.stack([pose_numbers(case.reference.pose) for case in cases])
    found = {}
    for name in ("yaw", "pitch", "smile"):
        place = POSE_NAMES.index(name)
        found[name] = _correlate(first[:, place], photo[:, place])
    warm = np.array([_WARMTH[LIGHTS[case.reference.scene.light]] for case in cases])
    found["warmth"] = _correlate(rows["warmth"] - plain["warmth"], warm)
    side = np.array([-case.reference.scene.light_side for case in cases])
    found["light_side"] = _correlate(rows["light_side"] - plain["light_side"], side)
    edges = measure_colours(np.stack([case.reference.draw_frame(0)[None] for case in cases]))["edge"]
    moved = rows["edge"] - plain["edge"]
    found["background_colour"] = np.mean([_correlate(moved[:, c], edges[:, c]) for c in range(3)], 0)
    return found


def measure_hard_likeness(measured: Measured) -> Floats:
    """Likeness of each case in the frames whose pose is far from the photo's, where the caption asks for another
    light than the photo's; NaN elsewhere, [cases]."""
    cases = measured.cases
    other_light = np.array([case.target.scene.light != case.reference.scene.light for case in cases])
    far = (measured.pose_gaps()[0] >= FAR_RAD) & other_light[:, None]
    likeness = np.where(far, measured.frame_likeness()[0], 0).sum(1)
    with np.errstate(invalid="ignore"):
        return np.asarray(likeness / np.where(far.any(1), far.sum(1), np.nan))


def _correlate(a: np.ndarray, b: np.ndarray) -> Floats:
    spread = a.std() * b.std()
    if spread < 1e-12:
        return np.zeros(len(a))
    return np.asarray((a - a.mean()) * (b - b.mean()) / spread)
