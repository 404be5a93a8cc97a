"""The crops against insightface's and scikit-image's own geometry, on a real photo."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from insightface.utils import face_align
from skimage.transform import SimilarityTransform
from standin_faces import face_from_landmarks, photo_with_six_faces, six_faces

from lynx_core.faces.crops import (
    ARCFACE_TEMPLATE,
    annotate_photo,
    crop_for_id,
    crop_for_reference,
    fit_similarity,
    measure_face_px,
    reference_template,
)
from lynx_core.faces.errors import FaceError

# scikit-image 0.26 renames `estimate`, which insightface and the release call.
pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")

# The release's reference template, worked out by hand from its steps for the nose: x 56.0252, y 71.7366.
NOSE_IN_REFERENCE = (((56.0252 - 56) * 0.8 + 56) * 2 + 16, ((71.7366 + 10 - 56) * 0.8 + 56) * 2)


def release_crop(photo: np.ndarray, landmarks: np.ndarray) -> np.ndarray:
    """The release's 256 px crop, independently: scikit-image's fit and the template written out in full."""
    template = np.array(
        [[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041]],
        dtype=np.float32,
    )
    template[:, 1] += 10
    template = (template - 56) * 0.8 + 56
    template = template * 2
    template[:, 0] += 16
    transform = SimilarityTransform()
    transform.estimate(landmarks, template)
    return cv2.warpAffine(photo, transform.params[:2], (256, 256), borderValue=0.0)


@pytest.mark.parametrize("number", range(6))
def test_id_crop_is_insightfaces_norm_crop(number: int) -> None:
    photo, landmarks = photo_with_six_faces()
    ours = crop_for_id(photo, landmarks[number])
    theirs = face_align.norm_crop(photo, landmarks[number])
    assert ours.shape == (112, 112, 3) and ours.std() > 20
    assert np.array_equal(ours, theirs)


@pytest.mark.parametrize("number", range(6))
def test_reference_crop_is_the_releases(number: int) -> None:
    photo, landmarks = photo_with_six_faces()
    ours = crop_for_reference(photo, landmarks[number])
    assert ours.shape == (256, 256, 3) and ours.std() > 20
    assert np.array_equal(ours, release_crop(photo, landmarks[number]))


def test_the_fit_is_scikit_images_for_turned_shifted_and_noisy_points() -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        angle, scale = rng.uniform(-np.pi, np.pi), rng.uniform(0.1, 9)
        turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        points = ARCFACE_TEMPLATE @ turn.T * scale + rng.uniform(-500, 500, 2) + rng.normal(size=(5, 2)) * 3
        theirs = SimilarityTransform()
        theirs.estimate(points, ARCFACE_TEMPLATE)
        assert np.allclose(fit_similarity(points, ARCFACE_TEMPLATE), theirs.params[:2], atol=1e-9)


def test_mirrored_landmarks_turn_the_face_and_never_mirror_it() -> None:
    mirrored = ARCFACE_TEMPLATE * np.float32([-1, 1])
    ours = fit_similarity(mirrored, ARCFACE_TEMPLATE)
    theirs = SimilarityTransform()
    theirs.estimate(mirrored, ARCFACE_TEMPLATE)
    assert np.linalg.det(ours[:, :2]) > 0
    assert np.allclose(ours, theirs.params[:2], atol=1e-9)


def test_reference_template_follows_the_releases_steps() -> None:
    assert reference_template()[2] == pytest.approx(NOSE_IN_REFERENCE, abs=1e-4)
    assert np.allclose(reference_template(128) * 2, reference_template(256), atol=1e-4)


def test_both_frames_lie_about_one_centre() -> None:
    """What lets one crop be made of the other: the 112 px frame is the middle 179.2 px of the 256."""
    matrix = fit_similarity(ARCFACE_TEMPLATE, reference_template())
    assert np.allclose(matrix, [[1.6, 0, 38.4], [0, 1.6, 38.4]], atol=1e-4)


def test_a_face_over_the_edge_gets_a_black_border_and_no_stretching() -> None:
    photo = np.full((200, 200, 3), (90, 100, 110), np.uint8)
    landmarks = ARCFACE_TEMPLATE + np.float32([-40, 20])
    crop = crop_for_reference(photo, landmarks)
    assert (crop[:, :20] == 0).all(), "left of the photo is black"
    assert (crop[100:150, 200:230] == (90, 100, 110)).all(), "grey levels are those of the photo"


def test_face_size_is_that_of_the_square_in_the_photo() -> None:
    assert measure_face_px(ARCFACE_TEMPLATE) == pytest.approx(112, abs=1e-3)
    assert measure_face_px(ARCFACE_TEMPLATE * 3 + 7) == pytest.approx(336, abs=1e-3)


@pytest.mark.parametrize(
    ("landmarks", "says"),
    [
        (np.full((5, 2), 7.0), "one point"),
        (np.full((5, 2), np.nan), "NaN"),
        (np.zeros((4, 2)), "five landmarks"),
        (np.zeros((68, 3)), r"\(68, 3\)"),
    ],
)
def test_landmarks_that_make_no_face_are_refused(landmarks: np.ndarray, says: str) -> None:
    with pytest.raises(FaceError, match=says):
        crop_for_id(np.zeros((50, 50, 3), np.uint8), landmarks)


def test_reference_size_must_fit_the_frame() -> None:
    with pytest.raises(FaceError, match=r"224.*256"):
        crop_for_reference(np.zeros((50, 50, 3), np.uint8), ARCFACE_TEMPLATE, face_px=224)


def test_annotation_numbers_all_faces_and_marks_the_chosen() -> None:
    photo, _ = photo_with_six_faces()
    faces = six_faces()
    canvas = annotate_photo(photo, faces, faces[3])
    assert canvas.shape == photo.shape and photo.flags.owndata
    green = (canvas == (40, 220, 90)).all(-1)
    rows, columns = np.nonzero(green)
    left, top, right, bottom = faces[3].bbox
    assert abs(columns.min() - left) < 8 and abs(columns.max() - right) < 8
    assert abs(rows.max() - bottom) < 8 and rows.min() < top - 10, "the number stands above the box"
    for face in faces:
        x, y = (int(edge) for edge in face.bbox[:2])
        changed = (canvas[y - 3 : y + 4, x - 3 : x + 60] != photo[y - 3 : y + 4, x - 3 : x + 60]).any(-1)
        assert changed.mean() > 0.6, "every face has its box"
    assert not np.array_equal(annotate_photo(photo, faces, faces[0]), canvas)


@pytest.mark.parametrize("size_px", [1, 40, 112, 3000])
def test_annotation_is_legible_at_any_size(size_px: int) -> None:
    """The plate of a number is at least 11 px and 2 % of the picture high, and inside it."""
    photo = np.zeros((size_px, size_px, 3), np.uint8)
    face = face_from_landmarks(ARCFACE_TEMPLATE * size_px / 112)
    canvas = annotate_photo(photo, [face], face)
    green = (canvas == (40, 220, 90)).all(-1)
    assert max(canvas.shape) >= 500
    plate = (green.sum(1) > 2 * max(canvas.shape) / 100).sum()
    assert green.any() and plate >= max(11, 0.02 * canvas.shape[0])
