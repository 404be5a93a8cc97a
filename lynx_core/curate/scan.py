"""The stage that looks at pixels: each file is decoded once, and shots, faces, tracks, embeddings, motion,
scene and pictures are taken from the frames as they pass.

Nothing is judged here; only what every later stage decides on is measured, so that another threshold
never decodes anything again.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ..data.errors import DataError
from ..engine.stage import EngineError, Rejected, Stage
from ..faces.errors import FaceError
from ..spec import first_line
from .configuration import CurationConfig, FacesConfig, ShotsConfig, list_values
from .face_looks import ShotLooks
from .media import Footage, MediaError, open_footage
from .networks import FaceNetworks
from .records import SourceFile, Track
from .shots import hash_shot_detector, make_shot_detector

SCAN_VERSION = 3
_MAX_FPS_ERROR = 0.1
"""Of the rate in a file's header, by which its frames go; beyond it the file is looked at again."""


def make_scan_stage(config: CurationConfig) -> Stage:
    """The stage: from `SourceFile` to `Track`."""
    networks = FaceNetworks(config.faces)
    settings = {
        "faces": list_values(config.faces),
        "shots": asdict(config.shots),
        "networks": [*networks.fingerprint, hash_shot_detector(config.shots)],
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
        step = max(round(footage.fps / self.faces.looks_per_s), 1) if footage.is_clip else 1
        look = FileLooks(file, footage, self.networks, self.faces, step)
        shots = make_shot_detector(self.shots, footage.fps) if footage.is_clip else None
        # Frames whose shot is not known yet; only those that are looked at are kept whole.
        held: deque[tuple[int, np.ndarray | None]] = deque()
        for frame, pixels in footage.read():
            held.append((frame, pixels if frame % step == 0 else None))
            for begins in shots.push(pixels) if shots is not None else [False]:
                look.take(*held.popleft(), begins)
        for begins in shots.finish() if shots is not None else []:
            look.take(*held.popleft(), begins)
        return [replace(track, fps=footage.fps, num_frames=footage.num_frames) for track in look.finish()]


class FileLooks:
    """Takes the frames of a file and gives the tracks of its shots."""

    def __init__(
        self, file: SourceFile, footage: Footage, networks: FaceNetworks, faces: FacesConfig, step: int
    ) -> None:
        self.file, self.footage, self.networks, self.faces, self.step = file, footage, networks, faces, step
        self._tracks: list[Track] = []
        self._picture_hash = ""
        self._last = 0
        self._looks = self._begin(0, 0)

    def _begin(self, number: int, frame: int) -> ShotLooks:
        return ShotLooks(number, frame, self.step, self.footage, self.networks, self.faces)

    def take(self, frame: int, pixels: np.ndarray | None, begins_shot: bool) -> None:
        """Take the next frame; without pixels it is not looked at."""
        if begins_shot:
            self._tracks += self._looks.finish(frame, self.file, self._picture_hash)
            self._looks = self._begin(self._looks.number + 1, frame)
        if pixels is not None:
            self._picture_hash = self._picture_hash or hash_picture(pixels)
            self._looks.add(frame, pixels)
        self._last = frame

    def finish(self) -> list[Track]:
        """All tracks."""
        return self._tracks + self._looks.finish(self._last + 1, self.file, self._picture_hash)


def hash_picture(pixels: np.ndarray) -> str:
    """Perceptual hash of a picture, 16 hex digits; a few differing bits mean nearly the same picture."""
    imagehash: Any = _import_imagehash()
    from PIL import Image

    return str(imagehash.phash(Image.fromarray(pixels)))


def _import_imagehash() -> Any:
    from ..faces.errors import import_package

    return import_package("imagehash", "finding near-duplicates")
