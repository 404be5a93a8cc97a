"""Licences of face networks, as their publishers state them."""

from __future__ import annotations

from .yunet import SUFFIX

INSIGHTFACE = "non-commercial research, as the publisher of the packs states"
YUNET = "MIT (OpenCV zoo)"
LANDMARKER = "Apache-2.0 (MediaPipe)"
MTCNN = "MIT (facenet-pytorch)"
DLIB = "CC0 (model), Boost (library)"
FILE = "as the publisher of the file states (facexlib: MIT)"


def name_detector_licence(name: str) -> str:
    """Give the licence of a detector that is named as in `open_detector`."""
    return YUNET if name.endswith(SUFFIX) else INSIGHTFACE


def name_recogniser_licence(recogniser: str) -> str:
    """Give the licence of a recogniser by its canonical name."""
    return INSIGHTFACE if recogniser.startswith("insightface/") else FILE
