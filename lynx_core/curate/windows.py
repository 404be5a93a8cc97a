"""Stretches of footage that make targets: long enough, moving, the person in view and near one place."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np

from ..engine.stage import Rejected
from .configuration import TargetsConfig
from .records import TrackFacts


@dataclass(frozen=True)
class Window:
    """Frames of a target; both 0 for a photo."""

    first_frame: int
    end_frame: int
    """Frame after the last."""

    def holds(self, frame: int) -> bool:
        """Whether a frame is the target's own; that of a photo always is."""
        return self.end_frame == 0 or self.first_frame <= frame < self.end_frame


def find_windows(
    track: TrackFacts, config: TargetsConfig, min_face_share: float
) -> tuple[list[Window], Rejected | None]:
    """Windows of a track that do not overlap, in order, and why there is none."""
    if track.media == "photo":
        people = count_people(track, Window(0, 0))
        if not config.photos:
            return [], Rejected("photos are no targets", "targets.photos = false", track.subject)
        if people > config.max_people and not config.crop:
            detail = f"{people} faces, targets.max_people is {config.max_people}"
            return [], Rejected("several people in the target", detail, track.subject)
        return [Window(0, 0)], None
    longest = max(round(config.max_s * track.fps), 1)
    shortest = max(round(config.min_s * track.fps), 1)
    if track.shot_end - track.shot_start < shortest:
        seconds = (track.shot_end - track.shot_start) / track.fps
        return [], Rejected(
            "shot too short", f"{seconds:.1f} s, targets.min_s is {config.min_s}", track.subject
        )
    windows: list[Window] = []
    faults: Counter[str] = Counter()
    details: dict[str, str] = {}
    start = track.shot_start
    while start + shortest <= track.shot_end and len(windows) < config.max_per_shot:
        window = Window(start, min(start + longest, track.shot_end))
        fault = _find_fault(track, window, config, min_face_share)
        if fault is None:
            windows.append(window)
            start = window.end_frame
        else:
            faults[fault[0]] += 1
            details.setdefault(*fault)
            start += track.step
    if windows:
        return windows, None
    reason = faults.most_common(1)[0][0]
    return [], Rejected(reason, details[reason], track.subject)


def count_people(track: TrackFacts, window: Window) -> int:
    """How many faces are seen at once."""
    others = track.others.reshape(-1, 2)
    return int((others if window.end_frame == 0 else select_inside(others, window))[:, 1].max()) + 1


def _find_fault(
    track: TrackFacts, window: Window, config: TargetsConfig, min_face_share: float
) -> tuple[str, str] | None:
    looks = select_inside(track.looks.reshape(-1, 5), window)
    times = select_inside(track.motion.reshape(-1, 2), window)
    share = len(looks) / max(len(times), 1)
    if share < min_face_share:
        return (
            "face out of view",
            f"seen in {share:.0%} of the looks, quality.min_face_share is {min_face_share:.0%}",
        )
    people = count_people(track, window)
    if people > config.max_people and not config.crop:
        return (
            "several people in the target",
            f"{people} faces, targets.max_people is {config.max_people}",
        )
    motion = float(times[1:, 1].mean()) if len(times) > 1 else 0.0
    if motion < config.min_motion:
        return "no motion", f"mean flow {motion:.5f} of the width, targets.min_motion is {config.min_motion}"
    size = np.array([track.width_px, track.height_px])
    centres = (looks[:, 1:3] + looks[:, 3:5]) / 2 * size
    shift = float((centres.max(0) - centres.min(0)).max() / size.min())
    if shift > config.max_crop_shift:
        return (
            "face wanders",
            f"by {shift:.0%} of the shorter side, targets.max_crop_shift is {config.max_crop_shift:.0%}",
        )
    return None


def select_inside(rows: np.ndarray, window: Window) -> np.ndarray:
    """Rows whose first column is a frame of the window."""
    return rows[(rows[:, 0] >= window.first_frame) & (rows[:, 0] < window.end_frame)]
