"""Likeness of a video to a person: the cosine of face embeddings, frame by frame.

Leaving frames without a face out of the mean rewards hiding the face, so three figures are given: the
mean over the frames in which a face was found, the share of such frames, and the mean with the
others as 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..faces.analyzer import FaceAnalyzer
from ..faces.crops import crop_face
from ..faces.errors import NoFaceError
from ..spec import LynxError


@dataclass(frozen=True)
class FaceSimilarity:
    """Likeness of some frames to one person."""

    scores: tuple[float | None, ...]
    """Cosine of each frame, -1 to 1; None where no face was found."""

    @property
    def detection_rate(self) -> float:
        """Share of the frames in which a face was found."""
        return sum(score is not None for score in self.scores) / len(self.scores)

    @property
    def mean_detected(self) -> float:
        """Mean over the frames in which a face was found, 0 when there is none."""
        found = [score for score in self.scores if score is not None]
        return sum(found) / len(found) if found else 0.0

    @property
    def mean_all(self) -> float:
        """Mean over all frames, those without a face as 0."""
        return sum(score or 0.0 for score in self.scores) / len(self.scores)


def measure_similarity(
    frames: Sequence[np.ndarray], embedding: Tensor, analyzer: FaceAnalyzer
) -> FaceSimilarity:
    """Compare the largest face of each frame with a person.

    Args:
        frames: [H, W, 3] uint8 RGB, at least one.
        embedding: [512] unit vector of the person, by the same recogniser.
        analyzer: detector and recogniser.

    Raises:
        LynxError: when there is no frame.
        FaceError: when the face models cannot be opened, or fail on a frame in another way than by seeing no face.
    """
    if not len(frames):
        raise LynxError("likeness needs at least one frame, got none")
    analyzer.detector.load()
    return FaceSimilarity(tuple(_score_frame(frame, embedding, analyzer) for frame in frames))


def _score_frame(frame: np.ndarray, embedding: Tensor, analyzer: FaceAnalyzer) -> float | None:
    try:
        crop, _ = crop_face(frame, analyzer.detector, "largest", 0)
    except NoFaceError:
        return None
    return float(torch.dot(analyzer.recogniser.embed([crop.id_crop])[0], embedding.float()))
