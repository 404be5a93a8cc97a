"""The stage that looks at pixels: each file is decoded once, and shots, faces, tracks, embeddings, motion,
scene and pictures are taken from the frames as they pass.

Nothing is judged here; only what every later stage decides on is measured, so that another threshold
never decodes anything again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ..data.errors import DataError
from ..engine.stage import EngineError, Rejected, Stage
from ..faces.errors import FaceError
from ..spec import first_line
from .configuration import CurationConfig, FacesConfig, ShotsConfig
from .face_looks import ShotLooks
from .media import Footage, MediaError, open_footage
from .networks import FaceNetworks
from .records import SourceFile, Track
from .shots import ShotDetector

SCAN_VERSION = 2
_MAX_FPS_ERROR = 0.1
"""Of the rate in a file's header, by which its frames go; beyond it the file is looked at again."""


def make_scan_stage(config: CurationConfig) -> Stage:
    """The stage: from `SourceFile` to `Track`."""
    networks = FaceNetworks(config.faces)
    settings = {
        "faces": {name: str(value) for name, value in asdict(config.faces).items()},
        "shots": asdict(config.shots),
        "networks": networks.fingerprint,
    }
    return Stage(
        "scan",
        SCAN_VERSION,
        SourceFile,
        Track,
        settings=settings,
        open_worker=OpenScanner(config.faces, config.shots),
        batch_rows=8,
        gpus=config.gpus,
    )


@dataclass(frozen=True)
class OpenScanner:
    """Opens the networks where the work is done."""

    faces: FacesConfig
    shots: ShotsConfig

    def __call__(self) -> Scanner:
        networks = FaceNetworks(self.faces)
        _ = networks.detector, networks.recogniser  # a missing file shows before the first photo
        return Scanner(self.faces, self.shots, networks)


@dataclass(frozen=True)
class Scanner:
    """Looks at files, one after the other."""

    faces: FacesConfig
    shots: ShotsConfig
    networks: FaceNetworks

    def __call__(self, files: Sequence[SourceFile]) -> list[list[Track | Rejected]]:
        return [self.scan(file) for file in files]

    def scan(self, file: SourceFile) -> list[Track | Rejected]:
        """The tracks of a file, or why there are none.

        Raises:
            EngineError: when a package that decodes it is missing.
        """
        try:
            footage = open_footage(Path(file.path), self.faces.max_side_px)
            claimed_fps = footage.fps
            tracks = self._look(file, footage)
            if abs(footage.fps - claimed_fps) > _MAX_FPS_ERROR * claimed_fps:
                tracks = self._look(file, footage)  # once more, as often as faces.looks_per_s says
        except MediaError as error:
            return [Rejected(error.reason, error.detail, file.path)]
        except FaceError as error:
            return [Rejected("the face networks refuse it", first_line(error), file.path)]
        except DataError as error:
            raise EngineError(str(error)) from error
        if not tracks:
            seen = f"{footage.num_frames} frames" if footage.is_clip else "the photo"
            return [Rejected("no face", f"the detector sees none in {seen}", file.path)]
        return list(tracks)

    def _look(self, file: SourceFile, footage: Footage) -> list[Track]:
        tracks: list[Track] = []
        step = max(round(footage.fps / self.faces.looks_per_s), 1) if footage.is_clip else 1
        shots = ShotDetector(self.shots, footage.fps) if footage.is_clip else None
        looks = ShotLooks(0, 0, step, footage, self.networks, self.faces)
        picture_hash = ""
        last = 0
        for frame, pixels in footage.read():
            if shots is not None and shots.begins_shot(frame, pixels):
                tracks += looks.finish(frame, file, picture_hash)
                looks = ShotLooks(looks.number + 1, frame, step, footage, self.networks, self.faces)
            if not picture_hash:
                picture_hash = hash_picture(pixels)
            if (frame - looks.start) % step == 0:
                looks.add(frame, pixels)
            last = frame
        tracks += looks.finish(last + 1, file, picture_hash)
        return [replace(track, fps=footage.fps, num_frames=footage.num_frames) for track in tracks]


def hash_picture(pixels: np.ndarray) -> str:
    """Perceptual hash of a picture, 16 hex digits; a few differing bits mean nearly the same picture."""
    imagehash: Any = _import_imagehash()
    from PIL import Image

    return str(imagehash.phash(Image.fromarray(pixels)))


def _import_imagehash() -> Any:
    from ..faces.errors import import_package

    return import_package("imagehash", "finding near-duplicates")
