"""Crops of drawn people for the conditioning recogniser: drawn once, kept in files."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lynx_core.faces.crops import crop_for_id
from lynx_core.rng import numpy_generator

from ..making import Making
from ..world.clip import NUM_FRAMES
from ..world.draws import draw_shot
from ..world.identity import Identity, change_mark, draw_identity
from ..world.scene import edit_expression
from .drawing_ahead import draw_ahead
from .resumable import write_beside

NUM_PEOPLE, PICTURES_EACH = 4096, 6
CROPS_A_FILE = 1024
PHOTO_SIZES_PX = (64, 64, 128, 256)
"""Half of what the recogniser sees is as coarse as the coarsest generated frame."""


def draw_training_crop(index: int) -> np.ndarray:
    """One ID crop [112, 112, 3] uint8: a person with a new mark, in a new place, as a detector finds them."""
    rng = numpy_generator("embedder crop", index)
    identity = draw_identity(index // PICTURES_EACH)
    return draw_crop(identity, int(rng.integers(2**31)))


def draw_crop(
    identity: Identity, seed: int, size_px: int | None = None, *, keep_mark: bool = False
) -> np.ndarray:
    """An ID crop of any moment of any shot of a person.

    Args:
        size_px: side of the picture that it is cut from; one of `PHOTO_SIZES_PX` by chance when None.
        keep_mark: draw the person's own mark, not a new one.
    """
    rng = numpy_generator("embedder view", seed)
    if not keep_mark:
        identity = change_mark(identity, int(rng.integers(2**31)))
    shot = draw_shot(identity, int(rng.integers(2**31)), held_out_captions=bool(rng.uniform() < 0.2))
    if rng.uniform() < 0.3:
        shot = replace(shot, pose=edit_expression(shot.pose, int(rng.integers(2**31))))
    chosen_px = int(rng.choice(PHOTO_SIZES_PX))
    size_px, frame = size_px or chosen_px, int(rng.integers(NUM_FRAMES))
    error = rng.normal(size=(5, 2)) * rng.uniform(0, 0.07) * shot.pose.scale * size_px
    landmarks = shot.find_landmarks(frame, size_px) + error.astype(np.float32)
    return crop_for_id(shot.draw_frame(frame, size_px), landmarks)


def to_input(crops: np.ndarray | Tensor) -> Tensor:
    """RGB crops [N, 112, 112, 3], 0 to 255 -> BGR [N, 3, 112, 112], -1 to 1, as the pack's recogniser makes it."""
    return torch.as_tensor(crops).flip(-1).float().permute(0, 3, 1, 2) / 127.5 - 1


def open_crops(making: Making) -> CropFiles:
    """The training crops of a making."""
    return CropFiles(making.folder / "recogniser_crops", making.count(NUM_PEOPLE) * PICTURES_EACH)


class CropFiles:
    """All training crops, drawn once, `CROPS_A_FILE` in each file.

    Args:
        total: number of crops.
    """

    def __init__(self, folder: Path, total: int) -> None:
        self.folder, self.total = folder, total
        self._files: dict[int, Any] = {}

    def draw_missing(self, making: Making) -> bool:
        """Draw the files that are not there yet; whether all are."""
        numbers = range(-(-self.total // CROPS_A_FILE))
        missing = [number for number in numbers if not self._path(number).is_file()]
        drawings = draw_ahead(self._draw_file, missing, making.num_drawers)
        for number, crops in zip(missing, drawings, strict=False):
            write_beside(self._path(number), partial(_save_array, crops))
            print(f"recogniser: crops {number + 1}/{len(numbers)}", flush=True)
            if making.is_out_of_time:
                return False
        return True

    def read(self, indices: np.ndarray) -> np.ndarray:
        """[N] -> [N, 112, 112, 3] uint8."""
        return np.stack(
            [self._open(index // CROPS_A_FILE)[index % CROPS_A_FILE] for index in indices.tolist()]
        )

    def _draw_file(self, number: int) -> np.ndarray:
        first = number * CROPS_A_FILE
        last = min(first + CROPS_A_FILE, self.total)
        return np.stack([draw_training_crop(index) for index in range(first, last)])

    def _open(self, number: int) -> Any:
        if number not in self._files:
            self._files[number] = np.load(self._path(number), mmap_mode="r")
        return self._files[number]

    def _path(self, number: int) -> Path:
        return self.folder / f"{number:04d}.npy"


def _save_array(array: np.ndarray, path: Path) -> None:
    with path.open("wb") as file:
        np.save(file, array)
