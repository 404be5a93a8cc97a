"""A `models` folder as after a full download, but with stand-ins: base models, adapters and face models."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image
from standin_faces import (
    photo_with_six_faces,
    six_faces,
    write_arcface_weights,
    write_detector_pack,
    write_recogniser,
)
from standin_models import write_standin_models

ARCFACE_FILE = "lynx/faces/recognition_arcface_ir_se50.pth"
DETECTOR_PACKS = {"buffalo_l": "w600k_r50", "antelopev2": "glintr100"}
"""insightface's packs, and the name of the recogniser inside each."""


CENTRED_LANDMARKS = np.array(
    [[0.40, 0.42], [0.60, 0.42], [0.50, 0.54], [0.42, 0.64], [0.58, 0.64]], dtype=np.float32
)
"""Landmarks of a face in the middle of a square of side 1."""


def write_standin_installation(models_dir: Path) -> None:
    """Write every stand-in file; the detector finds the six faces of the photo `write_photo` writes."""
    photo, _ = photo_with_six_faces()
    write_standin_models(models_dir)
    for pack, recogniser in DETECTOR_PACKS.items():
        folder = write_detector_pack(models_dir / "insightface", pack, six_faces(), photo.shape[:2])
        write_recogniser(folder, recogniser)
    write_arcface_weights(models_dir / ARCFACE_FILE, seed=0)


def write_photo(path: Path) -> Path:
    """Write the real photo with six faces that insightface ships, as a picture file."""
    photo, _ = photo_with_six_faces()
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(photo).save(path)
    return path
