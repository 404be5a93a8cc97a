"""Another background behind a face, from a folder of the user's pictures, with a soft mask."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np

from ...engine.stage import Rejected
from ...hashing import hash_file, hash_values
from ..errors import CurationError
from ..media import PHOTO_SUFFIXES, MediaError, decode_photo
from .interface import AugmentKind, FaceImage, check_options
from .masks import PersonMask

_MIN_PERSON, _MAX_PERSON = 0.08, 0.97
"""Share of the picture that is the person; outside, the mask has failed."""


class BackgroundReplacement:
    """Puts a picture of a folder behind the person.

    Args:
        folder: pictures without people.
        model: selfie_segmentation.tflite, or None for GrabCut.
    """

    kind: AugmentKind = "background"
    licence = "Apache-2.0 (mask: MediaPipe Apache-2.0, or GrabCut); the backgrounds are the user's"

    def __init__(self, folder: Path, model: Path | None) -> None:
        self.folder, self.model = folder, model
        self.paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in PHOTO_SUFFIXES)
        if not self.paths:
            raise CurationError(f"the augmenter background finds no pictures in {folder}")

    @classmethod
    def from_options(cls, options: Mapping[str, str]) -> BackgroundReplacement:
        values = check_options("background", options, {"folder": None, "segmentation": ""})
        model = Path(values["segmentation"]).expanduser() if values["segmentation"] else None
        return cls(Path(values["folder"]).expanduser(), model)

    @cached_property
    def fingerprint(self) -> str:
        model = hash_file(self.model) if self.model and self.model.is_file() else str(self.model)
        return hash_values([1, model, [hash_file(path) for path in self.paths]])

    def load(self) -> None:
        self.mask = PersonMask(self.model)

    def __call__(self, faces: Sequence[FaceImage], rng: np.random.Generator) -> list[FaceImage | Rejected]:
        return [self._replace(face, self.paths[int(rng.integers(len(self.paths)))]) for face in faces]

    def _replace(self, face: FaceImage, path: Path) -> FaceImage | Rejected:
        mask = self.mask.find(face)[..., None]
        share = float(mask.mean())
        if not _MIN_PERSON <= share <= _MAX_PERSON:
            return Rejected("no clear outline of the person", f"the mask covers {share:.0%} of the picture")
        try:
            behind = cover(decode_photo(path), face.pixels.shape[:2])
        except MediaError as error:
            return Rejected("a background does not decode", str(error))
        mixed = mask * face.pixels + (1 - mask) * behind
        return FaceImage(mixed.round().astype(np.uint8), face.landmarks)


def cover(pixels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A picture scaled to cover (height, width), cut at the centre."""
    from PIL import Image, ImageOps

    return np.array(ImageOps.fit(Image.fromarray(pixels), (size[1], size[0]), Image.Resampling.LANCZOS))
