"""Likeness of frames: frames without a face count in one figure and not in the other."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from lynx_core.evaluation.face_similarity import measure_similarity
from lynx_core.faces.detection import Face
from lynx_core.faces.errors import FaceError

PERSON = torch.nn.functional.normalize(torch.arange(1.0, 513.0), dim=0)
LANDMARKS = np.array([[38, 52], [74, 52], [56, 72], [42, 92], [70, 92]], dtype=np.float32)


class StandinAnalyzer:
    """Finds a face in every frame that is not black; grey frames show the person, others a stranger."""

    def __init__(self) -> None:
        self.detector = self.recogniser = self

    def load(self) -> None: ...

    def detect(self, image: np.ndarray) -> list[Face]:
        box = np.array([20, 20, 92, 110], dtype=np.float32)
        return [Face(bbox=box, landmarks=LANDMARKS, score=0.9)] if image.any() else []

    def embed(self, crops: list[np.ndarray]) -> Tensor:
        return torch.stack([PERSON if np.ptp(crop[56, 56]) == 0 else -PERSON for crop in crops])


def test_three_figures() -> None:
    frames = [np.full((128, 128, 3), level, dtype=np.uint8) for level in (0, 128, 200)]
    frames.append(np.full((128, 128, 3), (255, 0, 0), dtype=np.uint8))
    analyzer: Any = StandinAnalyzer()
    found = measure_similarity(frames, PERSON, analyzer)
    assert found.scores[0] is None and found.scores[1:] == pytest.approx((1.0, 1.0, -1.0))
    assert found.detection_rate == 0.75
    assert found.mean_detected == pytest.approx(1 / 3)
    assert found.mean_all == pytest.approx(1 / 4)
    with pytest.raises(ValueError, match="at least one frame"):
        measure_similarity([], PERSON, analyzer)


@pytest.mark.parametrize("step", ["detect", "embed"])
def test_a_model_that_fails_is_not_counted_as_a_frame_without_a_face(
    step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise FaceError("the weights may be damaged")

    analyzer: Any = StandinAnalyzer()
    monkeypatch.setattr(analyzer, step, fail)
    with pytest.raises(FaceError, match="damaged"):
        measure_similarity([np.full((128, 128, 3), 128, dtype=np.uint8)], PERSON, analyzer)
