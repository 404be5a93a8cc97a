"""ComfyUI's own face landmarker as a detector: the real one, with random weights."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from wan_bench import WanBench

ENCODER = "recognition_arcface_ir_se50.pth"
EYES_NOSE_MOUTH = [468, 473, 1, 61, 291]
NUM_POINTS = 478
ABSENT = "buffalo_m"


@pytest.fixture(scope="module")
def model(bench: WanBench) -> Any:
    from comfy_extras.nodes_mediapipe import _CONTOUR_PARTS, FaceLandmarkerModel

    torch.manual_seed(0)
    edges = {
        f"topology.{part}": torch.zeros(1, 2, dtype=torch.int32)
        for part in (*_CONTOUR_PARTS, "irises", "nose")
    }
    canonical = {
        "canonical_vertices": torch.zeros(468, 3),
        "procrustes_indices": torch.arange(4),
        "procrustes_weights": torch.ones(4),
    }
    made = FaceLandmarkerModel(edges | canonical)
    for landmarker in made.models.values():
        for parameter in landmarker.mesh.parameters():
            if len(parameter) == 3 * NUM_POINTS:
                torch.nn.init.normal_(parameter, std=2e4)  # as made, all points fall together
    return made


@pytest.fixture
def picture() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 255, (96, 128, 3), dtype=np.uint8)


def find_threshold(model: Any, picture: np.ndarray) -> float:
    """A confidence that two faces reach: random weights see dozens."""
    with torch.inference_mode():
        *_, (found,) = model.models["short"].run_detector_batch([picture], score_thresh=0.01)
    second, third = sorted(found[:, 16])[-2], sorted(found[:, 16])[-3]
    return float(second + third) / 2


def load(bench: WanBench, **inputs: Any) -> Any:
    chosen = {"detector_pack": ABSENT, "encoder": ENCODER, **inputs}
    return bench.comfy.run("LynxLoadFaceAnalyzer", **chosen)[0]


def test_it_takes_the_place_of_a_pack_that_is_not_there(
    bench: WanBench, model: Any, picture: np.ndarray, notes: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    node = bench.comfy.node_classes["LynxLoadFaceAnalyzer"]
    chosen = {"detector_pack": ABSENT, "encoder": ENCODER}
    assert ABSENT in node.validate_inputs(**chosen)
    assert node.validate_inputs(**chosen, face_detection_model=None) is True
    own = {"detector_pack": ABSENT, "encoder": "the detector pack's own"}
    assert ABSENT in node.validate_inputs(**own, face_detection_model=None), "its recogniser is needed"

    threshold = find_threshold(model, picture)
    monkeypatch.setattr(bench.comfy.pack_module("nodes.host.landmarker"), "MIN_SCORE", threshold)
    analyzer = load(bench, face_detection_model=model)
    assert "face_detection_model, in the place of" in notes[-1] and "Apache-2.0" in notes[-1]
    with torch.inference_mode():
        found = analyzer.detector.detect(picture)
        (wanted,) = model.detect_batch([picture], num_faces=0, score_thresh=threshold, variant="short")
    wanted.sort(key=lambda face: -face["score"])
    assert len(found) == len(wanted) == 2
    for mine, theirs in zip(found, wanted, strict=True):
        points = theirs["landmarks_xy"][EYES_NOSE_MOUTH]
        assert np.ptp(points, axis=0).min() > 1
        assert np.sort(mine.landmarks, axis=0) == pytest.approx(np.sort(points, axis=0), abs=1e-3)
        assert mine.landmarks[2] == pytest.approx(points[2], abs=1e-3)
        assert mine.landmarks[0, 0] <= mine.landmarks[1, 0] and mine.landmarks[3, 0] <= mine.landmarks[4, 0]
        assert mine.bbox == pytest.approx(theirs["bbox_xyxy"], abs=1e-3)


def test_what_is_no_landmarker_is_refused(bench: WanBench) -> None:
    with pytest.raises(ValueError, match=r"face_detection_model is no face landmarker \(int\)"):
        load(bench, face_detection_model=3)
