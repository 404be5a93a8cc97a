"""Likeness of a video to a person, by every recogniser: three figures and the drift, beside anchors.

Leaving faceless frames out rewards hiding the face, so three figures always go together: the mean over frames with
the face, the share of such frames, and the mean with the others as 0. Likeness is to the person's photo, never to
the video's own first frame. Anchors are what other photos of the same person score (ceiling) and what strangers'
photos score (floor).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from ..faces.analyzer import FaceAnalyzer
from ..faces.combination import SAME_PERSON_COSINE
from ..faces.detection import FaceDetector, sort_faces
from ..faces.errors import NoFaceError
from ..faces.photo import load_photo
from ..spec import LynxError
from .errors import ConfigurationError
from .face_tracks import choose_track, find_faces, link_faces
from .seen_faces import CropNetwork, Recogniser, SeenFace

if TYPE_CHECKING:  # the nodes score faces, too, and have no package that reads tables or videos
    from .subjects import Subject
    from .video import Video


@dataclass(frozen=True)
class FaceSimilarity:
    """Likeness of some frames to one person."""

    scores: tuple[float | None, ...]
    """Cosine of each frame, -1 to 1; None where the person's face was not found."""

    @property
    def detection_rate(self) -> float:
        """Share of the frames in which the face was found."""
        return sum(score is not None for score in self.scores) / len(self.scores)

    @property
    def mean_detected(self) -> float:
        """Mean over the frames in which the face was found, 0 when there is none."""
        found = [score for score in self.scores if score is not None]
        return sum(found) / len(found) if found else 0.0

    @property
    def mean_all(self) -> float:
        """Mean over all frames, those without the face as 0."""
        return sum(score or 0.0 for score in self.scores) / len(self.scores)


@dataclass(frozen=True)
class FaceScore:
    """One recogniser's view of a video."""

    similarity: FaceSimilarity
    """Cosine of each frame's face with the person's photo."""
    num_people: int
    """Tracks in the video; the subject's is one of them."""
    faces: Mapping[int, SeenFace] = field(default_factory=dict)
    """The subject's, by frame number."""

    @property
    def drift(self) -> float:
        """Change of the likeness over the whole video, by a straight line through the frames that have the face."""
        seen = [(place, score) for place, score in enumerate(self.similarity.scores) if score is not None]
        if len(seen) < 2:
            return 0.0
        places, scores = np.array(seen, dtype=float).T
        return float(np.polyfit(places / (len(self.similarity.scores) - 1), scores, 1)[0])

    def list_figures(self) -> dict[str, float]:
        """By name: the three figures and the drift."""
        return {
            "mean_detected": self.similarity.mean_detected,
            "detection_rate": self.similarity.detection_rate,
            "mean_all": self.similarity.mean_all,
            "drift": self.drift,
        }


def score_faces(
    video: Video, person: Sequence[Tensor], detector: FaceDetector, recognisers: Sequence[Recogniser]
) -> list[FaceScore]:
    """Score a video against a person; as `score_frames`."""
    return score_frames(video.frames, person, detector, recognisers)


def score_frames(
    frames: np.ndarray, person: Sequence[Tensor], detector: FaceDetector, recognisers: Sequence[Recogniser]
) -> list[FaceScore]:
    """Score frames [T, H, W, 3] uint8 RGB against a person.

    The first recogniser tells which track is the person; all score that one.

    Args:
        person: the photo's embedding by each recogniser, [dim] each; of several photos the mean of theirs, which
            gives the mean of their scores.

    Raises:
        LynxError: when there is no frame.
        FaceError: when a face model fails.
    """
    if not len(frames):
        raise LynxError("likeness needs at least one frame, got none")
    found = find_faces(frames, detector)
    tracks = link_faces(found, recognisers[0])
    track = choose_track(tracks, person[0])
    places = sorted(track.faces)
    results = []
    for number, (recogniser, vector) in enumerate(zip(recognisers, person, strict=True)):
        scores: list[float | None] = [None] * len(frames)
        if places:
            if number == 0:
                vectors = torch.stack([track.vectors[place] for place in places])
            else:
                vectors = recogniser.embed([track.faces[place] for place in places])
            for place, cosine in zip(places, vectors @ vector, strict=True):
                scores[place] = float(cosine)
        results.append(FaceScore(FaceSimilarity(tuple(scores)), len(tracks), track.faces))
    return results


def make_judge(analyzer: FaceAnalyzer) -> Recogniser:
    """Make an analyzer's recogniser one that tells the people of a video apart.

    Raises:
        FaceError: when it does not open.
    """
    return Recogniser(analyzer.recogniser.name, "", SAME_PERSON_COSINE, CropNetwork(analyzer.recogniser))


def measure_similarity(frames: np.ndarray, embedding: Tensor, analyzer: FaceAnalyzer) -> FaceSimilarity:
    """Score frames [T, H, W, 3] uint8 RGB against a person [dim]; as `score_frames`, by an analyzer alone."""
    (score,) = score_frames(frames, [embedding.float()], analyzer.detector, [make_judge(analyzer)])
    return score.similarity


class Gallery:
    """Embeddings of all photos of all people, computed once."""

    def __init__(
        self, subjects: Sequence[Subject], detector: FaceDetector, recognisers: Sequence[Recogniser]
    ) -> None:
        self.subjects, self.recognisers, self.detector = subjects, recognisers, detector
        self._faces: dict[str, list[Tensor]] = {}

    def embed_photo(self, path: Path, sha256: str) -> list[Tensor]:
        """The largest face of a photo by each recogniser, [dim] each.

        Raises:
            ConfigurationError: when it has no face.
            FaceError: when it cannot be read.
        """
        if sha256 not in self._faces:
            face = find_largest_face(path, self.detector)
            self._faces[sha256] = [recogniser.embed([face])[0] for recogniser in self.recognisers]
        return self._faces[sha256]

    def embed_reference(self, subject: Subject) -> list[Tensor]:
        return self.embed_photo(subject.reference, subject.reference_hash)

    def refuse_same_people(self) -> None:
        """Refuse two subjects whose reference photos show one person.

        Raises:
            ConfigurationError: naming both and the cosine.
        """
        for number, subject in enumerate(self.subjects):
            for other in self.subjects[:number]:
                if other.id in subject.lookalikes or subject.id in other.lookalikes:
                    continue
                pairs = zip(
                    self.recognisers, self.embed_reference(subject), self.embed_reference(other), strict=True
                )
                alike = [
                    (each.name, float(a @ b)) for each, a, b in pairs if float(a @ b) >= each.same_person
                ]
                if alike and len(alike) * 2 > len(self.recognisers):
                    name, cosine = alike[0]
                    raise ConfigurationError(
                        f"subjects {other.id!r} and {subject.id!r} seem to be one person: cosine {cosine:.2f} by {name}. Take "
                        f"one out; if they are twins, put 'lookalikes': [\"{other.id}\"] into the line of {subject.id!r}"
                    )

    def list_anchors(self) -> list[Anchor]:
        """What the people's other photos score, by each recogniser."""
        anchors = []
        for subject in self.subjects:
            strangers = [other for other in self.subjects if other is not subject]
            for photo, sha256 in list(zip(subject.photos, subject.photo_hashes, strict=True))[1:]:
                for place, vector in enumerate(self.embed_photo(photo, sha256)):
                    own = float(vector @ self.embed_reference(subject)[place])
                    others = [float(vector @ self.embed_reference(other)[place]) for other in strangers]
                    mean = sum(others) / len(others) if others else None
                    anchors.append(Anchor(place, sha256, subject.reference_hash, own, mean))
        return anchors


@dataclass(frozen=True)
class Anchor:
    """What one more photo of a person scores."""

    recogniser: int
    """Its place in the list."""
    photo_sha256: str
    reference_sha256: str
    same_person: float
    """Cosine with the person's reference photo."""
    stranger: float | None
    """Mean cosine with the reference photos of all others."""


def find_largest_face(path: Path, detector: FaceDetector) -> SeenFace:
    """The largest face of a photo.

    Raises:
        NoFaceError: when there is none.
        FaceError: when it cannot be read.
    """
    pixels = load_photo(path)
    faces = detector.detect(pixels)
    if not faces:
        raise NoFaceError(f"no face found in the photo {path}; use one with the whole head, upright")
    return SeenFace(pixels, sort_faces(faces, "largest", pixels.shape[:2])[0])
