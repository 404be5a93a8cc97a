"""YuNet through OpenCV: the same landmarks and crops as through insightface, from files that say the same."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import standin_faces

from lynx_core.faces.analyzer import FaceAnalyzer
from lynx_core.faces.crops import crop_face
from lynx_core.faces.detection import FaceDetector
from lynx_core.faces.errors import FaceError
from lynx_core.faces.licences import name_detector_licence
from lynx_core.faces.yunet import YuNetDetector

FILE = "face_detection_yunet_2023mar.onnx"


@pytest.fixture(scope="module")
def photo() -> np.ndarray:
    return standin_faces.photo_with_six_faces()[0]


@pytest.fixture(scope="module")
def yunet(tmp_path_factory: pytest.TempPathFactory, photo: np.ndarray) -> YuNetDetector:
    # In a folder whose name OpenCV cannot open by path on Windows.
    path = tmp_path_factory.mktemp("Gesichtsmodelle für 顔") / FILE
    return YuNetDetector(standin_faces.write_yunet(path, standin_faces.six_faces(), photo.shape[:2]))


def test_the_faces_are_those_of_insightface_s_detector(
    yunet: YuNetDetector, photo: np.ndarray, tmp_path: Path
) -> None:
    standin_faces.write_detector_pack(tmp_path, "buffalo_l", standin_faces.six_faces(), photo.shape[:2])
    insightface = FaceDetector(tmp_path, "buffalo_l")
    ours, theirs = yunet.detect(photo), insightface.detect(photo)
    assert len(ours) == len(theirs) == 6
    for a, b in zip(ours, theirs, strict=True):
        assert np.abs(a.landmarks - b.landmarks).max() < 0.5, "in pixels of a photo of 1280"
        assert np.abs(a.bbox - b.bbox).max() < 1
        assert a.score == pytest.approx(b.score, abs=1e-3)
    for number in range(6):
        one, other = (crop_face(photo, each, "left to right", number)[0] for each in (yunet, insightface))
        assert np.abs(one.id_crop.astype(int) - other.id_crop).mean() < 2
        assert np.abs(one.reference_crop.astype(int) - other.reference_crop).mean() < 2


def test_a_photo_of_another_size_and_shape_is_fitted_in(photo: np.ndarray, tmp_path: Path) -> None:
    tall = np.ascontiguousarray(np.rot90(photo))[:, :300]
    face = standin_faces.face_from_landmarks(
        np.array([[80, 600], [160, 600], [120, 650], [90, 700], [150, 700]], np.float32)
    )
    detector = YuNetDetector(standin_faces.write_yunet(tmp_path / FILE, [face], tall.shape[:2]))
    (found,) = detector.detect(tall)
    assert np.abs(found.landmarks - face.landmarks).max() < 1


def test_the_analyzer_takes_it_by_the_name_of_its_file(yunet: YuNetDetector, photo: np.ndarray) -> None:
    analyzer = FaceAnalyzer(yunet.file.parent, FILE, "CPU", None)
    assert len(analyzer.detector.detect(photo)) == 6
    with pytest.raises(FaceError, match="is not known: choose the detector pack"):
        _ = analyzer.recogniser
    assert "MIT" in name_detector_licence(FILE) and "non-commercial" in name_detector_licence("buffalo_l")


@pytest.mark.parametrize(
    "content", [None, b"", b"version https://git-lfs.github.com/spec/v1", b"\x08\x07" * 200]
)
def test_a_file_that_is_no_yunet_is_named_with_the_way_out(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / FILE
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(FaceError, match=rf"{FILE}.*download yunet"):
        YuNetDetector(path).detect(np.zeros((64, 64, 3), np.uint8))


def test_another_network_is_no_yunet(tmp_path: Path) -> None:
    path = standin_faces.write_recogniser(tmp_path, "yunet")
    with pytest.raises(FaceError, match="is no YuNet that OpenCV opens"):
        YuNetDetector(path).load()


def test_a_picture_without_a_face_gives_none(tmp_path: Path) -> None:
    detector = YuNetDetector(standin_faces.write_yunet(tmp_path / FILE, [], (64, 64)))
    assert detector.detect(np.full((64, 64, 3), 128, np.uint8)) == []
