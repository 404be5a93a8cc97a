"""Who is who in a video of several people: faces of successive frames linked into tracks.

A face joins the track that it looks like and lies near to; looks weigh more, so that two who change places and
somebody who was hidden for a while stay who they are. The subject's track is the one with the highest likeness summed over all
frames; whole tracks are compared, never the best face of each frame, which would flatter a crowd.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from torch import Tensor

from ..faces.crops import measure_face_px
from ..faces.detection import FaceDetector
from ..faces.errors import NoFaceError
from .seen_faces import Recogniser, SeenFace

MIN_OVERLAP = 0.3
"""Intersection over union from which boxes of neighbouring frames are one face."""
MAX_GAP = 3
"""Frames after which a box says nothing about where the face is now."""
NEAR_SHARE = 0.3
"""Share of the recogniser's bound for one person that a face in the same place must reach."""
NEAR_BONUS = 0.3
"""What full overlap is worth, in cosine: two people who change places are told by looks."""


@dataclass
class Track:
    """One person's faces."""

    faces: dict[int, SeenFace] = field(default_factory=dict)
    """By frame number."""
    vectors: dict[int, Tensor] = field(default_factory=dict)
    """Embeddings by the recogniser that links, [dim]."""

    @property
    def last(self) -> int:
        return max(self.faces)

    def add(self, frame: int, face: SeenFace, vector: Tensor) -> None:
        self.faces[frame], self.vectors[frame] = face, vector

    def likeness_to(self, vector: Tensor) -> float:
        """Mean cosine of the track's last faces with a vector."""
        recent = list(self.vectors.values())[-5:]
        return sum(float(each @ vector) for each in recent) / len(recent)


def find_faces(frames: np.ndarray, detector: FaceDetector) -> list[list[SeenFace]]:
    """All faces of each frame that can be aligned, frames [T, H, W, 3] uint8 RGB."""
    return [
        [SeenFace(frame, face) for face in detector.detect(frame) if has_size(face.landmarks)]
        for frame in frames
    ]


def has_size(landmarks: np.ndarray) -> bool:
    """Tell whether a face can be aligned: the landmarks of one that cannot fall together."""
    try:
        measure_face_px(landmarks)
    except NoFaceError:
        return False
    return True


def link_faces(found: list[list[SeenFace]], recogniser: Recogniser) -> list[Track]:
    """Link the faces of a video, given by frame, into tracks."""
    tracks: list[Track] = []
    for number, faces in enumerate(found):
        if not faces:
            continue
        vectors = recogniser.embed(faces)
        free_faces, free_tracks = set(range(len(faces))), set(range(len(tracks)))
        for _, place, index in sorted(_rate_links(tracks, number, faces, vectors, recogniser), reverse=True):
            if place in free_faces and index in free_tracks:
                free_faces.remove(place)
                free_tracks.remove(index)
                tracks[index].add(number, faces[place], vectors[place])
        tracks += [Track({number: faces[place]}, {number: vectors[place]}) for place in sorted(free_faces)]
    return tracks


def _rate_links(
    tracks: list[Track], number: int, faces: list[SeenFace], vectors: Tensor, recogniser: Recogniser
) -> list[tuple[float, int, int]]:
    """How well each face fits each track, by looks and by place; (score, face, track)."""
    rated = []
    for index, track in enumerate(tracks):
        for place, face in enumerate(faces):
            overlap = measure_overlap(track.faces[track.last].face.bbox, face.face.bbox)
            is_near = number - track.last <= MAX_GAP and overlap >= MIN_OVERLAP
            likeness = track.likeness_to(vectors[place])
            # A turned or blurred face is not much like itself, so one that stays in place needs less.
            least = recogniser.same_person * (NEAR_SHARE if is_near else 1)
            if likeness >= least:
                rated.append((likeness + (NEAR_BONUS * overlap if is_near else 0), place, index))
    return rated


def measure_overlap(a: np.ndarray, b: np.ndarray) -> float:
    """Intersection over union of two boxes (left, top, right, bottom), 0 to 1."""
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    shared = max(width, 0) * max(height, 0)
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (a, b)]
    return float(shared / (sum(areas) - shared)) if shared > 0 else 0.0


def choose_track(tracks: list[Track], person: Tensor) -> Track:
    """The track of a person [dim], by the recogniser that linked; an empty one when there is no face."""
    if not tracks:
        return Track()
    return max(tracks, key=lambda track: sum(float(vector @ person) for vector in track.vectors.values()))
