"""Likeness of frames by a graph's face models: the person is followed, and frames without the person count as 0."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from lynx_core.evaluation.face_scores import measure_similarity
from lynx_core.faces.detection import Face
from lynx_core.faces.errors import FaceError

PERSON = torch.nn.functional.normalize(torch.arange(1.0, 513.0), dim=0)
LANDMARKS = np.array([[20, 52], [56, 52], [38, 72], [24, 92], [52, 92]], dtype=np.float32)
SMALL = 0.6
GREY, RED = (128, 128, 128), (255, 0, 0)


def draw(*halves: tuple[int, int, int]) -> np.ndarray:
    """A frame [128, 256, 3] whose halves show the person (grey), a stranger (red) or nobody (black)."""
    return np.concatenate([np.full((128, 128, 3), colour, dtype=np.uint8) for colour in halves], axis=1)


class StandinAnalyzer:
    """Finds a face in each half of a frame that is not black, the smaller one on the left."""

    name = "stand-in"

    def __init__(self) -> None:
        self.detector = self.recogniser = self

    def detect(self, image: np.ndarray) -> list[Face]:
        faces = []
        for left, scale in ((0, SMALL), (128, 1.0)):
            if image[:, left : left + 128].any():
                box = np.array([left, 0, left + 128 * scale, 128 * scale], dtype=np.float32)
                faces.append(Face(bbox=box, landmarks=LANDMARKS * scale + (left + 10, 0), score=0.9))
        return faces

    def embed(self, crops: list[np.ndarray]) -> Tensor:
        return torch.stack([PERSON if np.ptp(crop[56, 56]) == 0 else -PERSON for crop in crops])


def measure(*frames: np.ndarray) -> Any:
    analyzer: Any = StandinAnalyzer()
    return measure_similarity(np.stack(frames), PERSON, analyzer)


def test_three_figures() -> None:
    nobody = (0, 0, 0)
    found = measure(draw(nobody, nobody), draw(nobody, GREY), draw(nobody, GREY), draw(nobody, RED))
    assert found.scores[1:3] == pytest.approx((1.0, 1.0)) and found.scores[0] is found.scores[3] is None
    assert (found.detection_rate, found.mean_all) == pytest.approx((0.5, 0.5))
    assert found.mean_detected == pytest.approx(1)
    with pytest.raises(ValueError, match="at least one frame"):
        analyzer: Any = StandinAnalyzer()
        measure_similarity(np.zeros((0, 128, 256, 3), np.uint8), PERSON, analyzer)


def test_a_larger_face_beside_the_person_is_not_taken_for_them() -> None:
    assert measure(draw(GREY, RED), draw(GREY, RED)).scores == pytest.approx((1.0, 1.0))


def test_a_stranger_alone_is_scored() -> None:
    assert measure(draw(RED, (0, 0, 0))).scores == pytest.approx((-1.0,))


@pytest.mark.parametrize("step", ["detect", "embed"])
def test_a_model_that_fails_is_not_counted_as_a_frame_without_a_face(
    step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise FaceError("the weights may be damaged")

    analyzer: Any = StandinAnalyzer()
    monkeypatch.setattr(analyzer, step, fail)
    with pytest.raises(FaceError, match="damaged"):
        measure_similarity(draw(GREY, GREY)[None], PERSON, analyzer)
