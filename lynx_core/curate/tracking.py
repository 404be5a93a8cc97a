"""Faces followed from look to look through one shot, by how their boxes overlap.

A face that is lost comes back as the same track within a second; who it is is not asked here. The recogniser
looks at a track's samples afterwards, so a track that slipped from one person to another shows there.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from ..faces.detection import Face

_MIN_OVERLAP = 0.2
"""Intersection over union: at four looks a second, a face that turns or leans keeps more than this."""


@dataclass(eq=False)
class FaceTrack:
    """One face so far."""

    number: int
    frames: list[int] = field(default_factory=list)
    boxes: list[np.ndarray] = field(default_factory=list)


class FaceTracker:
    """Follows the faces of a shot.

    Args:
        max_gap: frames for which a face may be lost.
    """

    def __init__(self, max_gap: int) -> None:
        self.max_gap = max_gap
        self.tracks: list[FaceTrack] = []

    def add(self, frame: int, faces: list[Face]) -> list[FaceTrack]:
        """Take the faces of the next look; gives the track of each."""
        alive = [track for track in self.tracks if frame - track.frames[-1] <= self.max_gap]
        overlaps = [
            (measure_overlap(track.boxes[-1], face.bbox), track.number, number)
            for track in alive
            for number, face in enumerate(faces)
        ]
        chosen: dict[int, FaceTrack] = {}
        taken: set[int] = set()
        for overlap, track_number, face_number in sorted(overlaps, key=lambda o: (-o[0], o[1], o[2])):
            if overlap >= _MIN_OVERLAP and face_number not in chosen and track_number not in taken:
                chosen[face_number] = self.tracks[track_number]
                taken.add(track_number)
        found = []
        for number, face in enumerate(faces):
            track = chosen.get(number)
            if track is None:
                track = FaceTrack(len(self.tracks))
                self.tracks.append(track)
            track.frames.append(frame)
            track.boxes.append(np.asarray(face.bbox, np.float32))
            found.append(track)
        return found


def measure_overlap(a: np.ndarray, b: np.ndarray) -> float:
    """Intersection over union of two boxes (left, top, right, bottom)."""
    wide = min(a[2], b[2]) - max(a[0], b[0])
    high = min(a[3], b[3]) - max(a[1], b[1])
    if wide <= 0 or high <= 0:
        return 0.0
    both = float(wide * high)
    areas = float((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]))
    return both / (areas - both)
