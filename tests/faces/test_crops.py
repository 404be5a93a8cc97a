"""From a photo to a person's crops, and what is said about poor photos."""

from __future__ import annotations

import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from standin_faces import (
    SIX_LANDMARKS,
    face_from_landmarks,
    photo_with_six_faces,
    six_faces,
    write_detector_pack,
)

from lynx_core.faces.crops import crop_aligned, crop_face, crop_for_id, crop_for_reference
from lynx_core.faces.detection import FaceDetector
from lynx_core.faces.errors import FaceError


def detector_for(root: Path, faces: list, photo: np.ndarray) -> FaceDetector:
    write_detector_pack(root, "p", faces, photo.shape[:2])
    return FaceDetector(root, "p")


def test_a_person_is_chosen_and_cropped(tmp_path: Path) -> None:
    photo, landmarks = photo_with_six_faces()
    detector = detector_for(tmp_path, six_faces(), photo)
    crop, annotated = crop_face(photo, detector, "left to right", 2)
    assert np.array_equal(crop.id_crop, crop_for_id(photo, landmarks[2]))
    assert np.array_equal(crop.reference_crop, crop_for_reference(photo, landmarks[2]))
    assert crop.face_px == pytest.approx(158.6, abs=0.1) and crop.score == pytest.approx(0.86, abs=1e-5)
    assert crop.warnings == ()
    green = (annotated == (40, 220, 90)).all(-1)
    left, _, right, _ = six_faces()[2].bbox
    assert left - 10 < np.nonzero(green)[1].mean() < right + 10


def test_all_six_sharp_faces_pass_without_a_warning(tmp_path: Path) -> None:
    photo, _ = photo_with_six_faces()
    detector = detector_for(tmp_path, six_faces(), photo)
    for number in range(6):
        crop, _ = crop_face(photo, detector, "left to right", number)
        assert crop.warnings == () and crop.sharpness > 90


def test_no_face_names_the_photo_its_size_and_the_ways_out(tmp_path: Path) -> None:
    photo = np.zeros((480, 640, 3), np.uint8)
    with pytest.raises(FaceError) as error:
        crop_face(photo, detector_for(tmp_path, [], photo), "largest", 0, "photo 2 of 3")
    for words in ("no face found in photo 2 of 3", "640x480 px", "try a photo", "already_aligned"):
        assert words in str(error.value)


def test_an_index_too_high_names_the_photo_and_the_count(tmp_path: Path) -> None:
    photo, _ = photo_with_six_faces()
    with pytest.raises(FaceError, match=r"photo 1 of 1: face 10 .* 6 faces"):
        crop_face(photo, detector_for(tmp_path, six_faces(), photo), "largest", 9, "photo 1 of 1")


@pytest.mark.parametrize(("scale", "face_px"), [(0.5, 71), (0.775, 110), (0.81, 115)])
def test_a_face_that_must_be_enlarged_is_a_warning_with_its_size(
    tmp_path: Path, scale: float, face_px: int
) -> None:
    photo, landmarks = photo_with_six_faces()
    small = cv2.resize(photo, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    detector = detector_for(tmp_path, [face_from_landmarks(landmarks[0] * scale)], small)
    crop, _ = crop_face(small, detector, "largest", 0, "photo 1 of 2")
    assert round(crop.face_px) == face_px
    expected = [f"photo 1 of 2 measures {face_px} px, under 112 px"] if face_px < 112 else []
    assert len(crop.warnings) == len(expected)
    assert all(text in warning for text, warning in zip(expected, crop.warnings, strict=True))


@pytest.mark.parametrize("number", range(6))
def test_a_blurred_face_is_a_warning_with_its_sharpness(tmp_path: Path, number: int) -> None:
    photo, landmarks = photo_with_six_faces()
    blurred = cv2.GaussianBlur(photo, (0, 0), 3)
    detector = detector_for(tmp_path, [face_from_landmarks(landmarks[number])], photo)
    crop, _ = crop_face(blurred, detector, "largest", 0)
    assert len(crop.warnings) == 1 and f"blurred: sharpness {crop.sharpness:.0f}" in crop.warnings[0]


def test_jpeg_of_low_quality_is_not_called_blurred(tmp_path: Path) -> None:
    photo, _ = photo_with_six_faces()
    detector = detector_for(tmp_path, six_faces(), photo)
    rough = cv2.imdecode(cv2.imencode(".jpg", photo, [cv2.IMWRITE_JPEG_QUALITY, 30])[1], cv2.IMREAD_COLOR)
    assert all(crop_face(rough, detector, "largest", number)[0].warnings == () for number in range(6))


def test_the_reference_crop_given_back_is_taken_as_it_is() -> None:
    photo, landmarks = photo_with_six_faces()
    reference = crop_for_reference(photo, landmarks[2])
    crop = crop_aligned(reference)
    assert np.array_equal(crop.reference_crop, reference)
    same_face = np.abs(crop.id_crop.astype(float) - crop_for_id(photo, landmarks[2])).mean()
    shifted = np.abs(crop.id_crop.astype(float) - crop_for_id(photo, landmarks[2] + 3)).mean()
    assert same_face < 4 < shifted
    assert crop.face_px == pytest.approx(179.2, abs=0.1) and crop.warnings == ()


def test_a_larger_reference_crop_is_shrunk() -> None:
    photo, landmarks = photo_with_six_faces()
    crop = crop_aligned(crop_for_reference(photo, landmarks[2], face_px=512))
    assert np.abs(crop.reference_crop.astype(float) - crop_for_reference(photo, landmarks[2])).mean() < 3
    assert crop.face_px == pytest.approx(358.4, abs=0.1)


def test_an_arcface_crop_given_back_is_taken_as_it_is_and_framed_for_the_reference() -> None:
    photo, landmarks = photo_with_six_faces()
    id_crop = crop_for_id(photo, landmarks[2])
    crop = crop_aligned(id_crop, "photo 1 of 1")
    assert np.array_equal(crop.id_crop, id_crop)
    reference = crop_for_reference(photo, landmarks[2]).astype(float)
    inside = np.abs(crop.reference_crop - reference)[45:210, 45:210].mean()
    assert inside < 6 and (crop.reference_crop[:36] == 0).all() and (crop.reference_crop[:, 220:] == 0).all()
    assert "photo 1 of 1 is a 112 px ArcFace crop" in crop.warnings[0]


def test_an_aligned_crop_must_be_square() -> None:
    with pytest.raises(FaceError, match=r"square, but photo 3 of 4 has 1280x886 px.*already_aligned"):
        crop_aligned(photo_with_six_faces()[0], "photo 3 of 4")


def test_aligned_crops_need_no_insightface(monkeypatch: pytest.MonkeyPatch) -> None:
    photo, landmarks = photo_with_six_faces()
    reference = crop_for_reference(photo, landmarks[0])
    for module in [
        name for name in sys.modules if name.split(".")[0] in ("insightface", "onnxruntime", "skimage")
    ]:
        monkeypatch.delitem(sys.modules, module)
    for package in ("insightface", "onnxruntime", "skimage"):
        monkeypatch.setitem(sys.modules, package, None)
    assert crop_aligned(reference).warnings == ()


def test_a_tight_portrait_is_cropped_from_the_photo_not_from_its_margin(tmp_path: Path) -> None:
    photo, landmarks = photo_with_six_faces()
    tight = np.ascontiguousarray(photo[250:410, 50:190])
    inside = landmarks[0] - np.float32([50, 250])
    write_detector_pack(
        tmp_path, "p", [face_from_landmarks(inside + np.float32([70, 80]))], (320, 280), only_with_margin=True
    )
    crop, annotated = crop_face(tight, FaceDetector(tmp_path, "p"), "largest", 0)
    assert np.abs(crop.id_crop.astype(int) - crop_for_id(tight, inside)).max() <= 1
    assert annotated.shape[0] % tight.shape[0] == 0


def test_landmarks_are_those_measured() -> None:
    """Guards the stand-in itself: each face's eyes lie above its nose, the nose above its mouth."""
    assert SIX_LANDMARKS.shape == (6, 5, 2)
    for points in SIX_LANDMARKS:
        assert points[:2, 1].mean() < points[2, 1] < points[3:, 1].mean()
        assert points[0, 0] < points[1, 0] and points[3, 0] < points[4, 0]


def test_flipped_views_and_single_pixels_are_taken(tmp_path: Path) -> None:
    """OpenCV refuses arrays of negative stride, as a BGR to RGB flip gives."""
    photo, landmarks = photo_with_six_faces()
    view = np.ascontiguousarray(photo[..., ::-1])[..., ::-1]
    crop, _ = crop_face(view, detector_for(tmp_path, six_faces(), photo), "left to right", 0)
    assert np.array_equal(crop.id_crop, crop_for_id(photo, landmarks[0]))
    for size_px in (112, 256, 300):
        assert crop_aligned(photo[:size_px, size_px:0:-1]).id_crop.shape == (112, 112, 3)
    assert len(crop_aligned(np.zeros((1, 1, 3), np.uint8)).warnings) == 2
