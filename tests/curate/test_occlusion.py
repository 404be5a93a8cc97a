"""Covered faces: masks are seen by their colour, bare faces are not taken for covered ones."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from drawn import draw

from lynx_core.curate.occlusion import measure_occlusion
from lynx_core.faces.crops import crop_for_id

MASK = np.array([[18, 70], [56, 64], [94, 70], [90, 111], [22, 111]])
COLOURS = {"surgical": (110, 160, 215), "black": (20, 20, 20), "red scarf": (200, 50, 60)}


def cover(crop: np.ndarray, colour: tuple[int, int, int]) -> np.ndarray:
    return cv2.fillPoly(crop.copy(), [MASK], colour)


def crop_real_faces() -> list[np.ndarray]:
    """Of a picture of six people: pale, tanned, turned, half in shadow."""
    images = Path(pytest.importorskip("insightface").__file__).parent / "data" / "images"
    detector = pytest.importorskip("facenet_pytorch").MTCNN(keep_all=True, post_process=False)
    pixels = np.ascontiguousarray(cv2.imread(str(images / "t1.jpg"))[..., ::-1])
    _, scores, landmarks = detector.detect(pixels, landmarks=True)
    faces = [points for points, score in zip(landmarks, scores, strict=True) if score > 0.95]
    assert len(faces) == 6
    return [crop_for_id(pixels, points.astype(np.float32)) for points in faces]


def test_masks_on_real_faces_are_seen_and_bare_faces_pass() -> None:
    for crop in crop_real_faces():
        assert measure_occlusion(crop) < 0.5
        for name, colour in COLOURS.items():
            assert measure_occlusion(cover(crop, colour)) > 0.6, name


def test_painted_marks_and_glasses_of_drawn_people_are_no_masks() -> None:
    for person in range(20):
        shot = draw(person, 1, 0)
        crop = crop_for_id(shot.draw_frame(0, 160), shot.find_landmarks(0, 160))
        assert measure_occlusion(crop) < 0.6
        assert measure_occlusion(cover(crop, COLOURS["surgical"])) > 0.6
