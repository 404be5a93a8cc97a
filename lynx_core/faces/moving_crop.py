"""A square that follows a face through a video: cut out, and put back with a soft edge.

The square moves smoothly where the detector jitters, and stays where the face is hidden. Frames far from
any sight of the face are not touched when it is put back.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

MAX_GAP = 8
"""Frames from the last sight of a face after which nothing is put back."""


@dataclass(frozen=True)
class MovingCrop:
    """A square for each frame.

    Raises:
        ValueError: when the parts do not fit each other.
    """

    centres: np.ndarray
    """[n, 2], x and y in px."""
    sides: np.ndarray
    """[n], px."""
    weights: np.ndarray
    """[n], 0 to 1: how far the frame takes the new face."""
    frame_size: tuple[int, int]
    """Height and width of the frames."""

    def __post_init__(self) -> None:
        if not len(self.centres) == len(self.sides) == len(self.weights):
            raise ValueError(
                f"{len(self.centres)} centres, {len(self.sides)} sides, {len(self.weights)} weights"
            )

    def __len__(self) -> int:
        return len(self.sides)

    def cut(self, frames: Tensor, size_px: int) -> Tensor:
        """Cut the squares out of frames [n, height, width, 3]: [n, size_px, size_px, 3]."""
        height, width = self.frame_size
        steps = (torch.arange(size_px, dtype=torch.float32) + 0.5) / size_px - 0.5
        crops = []
        for frame, (x, y), side in zip(frames, self.centres, self.sides, strict=True):
            xs, ys = float(x) + steps * float(side), float(y) + steps * float(side)
            crops.append(sample(frame, xs / width * 2 - 1, ys / height * 2 - 1))
        return torch.stack(crops)

    def paste(self, frames: Tensor, crops: Tensor, feather: float) -> Tensor:
        """Put crops [m, size, size, 3] into the first m of frames [n, height, width, 3].

        Args:
            feather: share of the side over which the edge fades, 0 to 0.5.
        """
        pasted = frames.clone()
        height, width = self.frame_size
        for number, crop in enumerate(crops[: len(frames)]):
            (x, y), side = self.centres[number], float(self.sides[number])
            left, top = (max(0, int(np.floor(middle - side / 2))) for middle in (x, y))
            right = min(width, int(np.ceil(x + side / 2)))
            bottom = min(height, int(np.ceil(y + side / 2)))
            # Where each pixel of the frame lies in the crop, -1 to 1.
            xs = (torch.arange(left, right, dtype=torch.float32) + 0.5 - float(x)) / side * 2
            ys = (torch.arange(top, bottom, dtype=torch.float32) + 0.5 - float(y)) / side * 2
            new = sample(shrink(crop, round(side)), xs, ys)
            mask = (fade(ys, feather)[:, None] * fade(xs, feather)[None])[..., None]
            mask = mask * float(self.weights[number])
            old = pasted[number, top:bottom, left:right]
            pasted[number, top:bottom, left:right] = old + (new - old) * mask
        return pasted


def follow_face(
    boxes: Mapping[int, np.ndarray], num_frames: int, frame_size: tuple[int, int], room: float, smoothing: int
) -> MovingCrop:
    """Lay a square round a face that was seen in some of the frames.

    Args:
        boxes: frame number -> left, top, right, bottom in px.
        frame_size: height and width of the frames.
        room: side of the square, in heights of the face.
        smoothing: frames to each side over which place and size are averaged.

    Raises:
        ValueError: when the face is in no frame.
    """
    if not boxes:
        raise ValueError("the face is in no frame")
    seen = sorted(boxes)
    known = np.array([boxes[frame] for frame in seen], dtype=float)
    places = np.stack(
        [
            (known[:, 0] + known[:, 2]) / 2,
            (known[:, 1] + known[:, 3]) / 2,
            np.maximum(known[:, 2] - known[:, 0], known[:, 3] - known[:, 1]) * room,
        ],
        axis=1,
    )
    frames = np.arange(num_frames)
    filled = np.stack([np.interp(frames, seen, column) for column in places.T], axis=1)
    smooth = average_over_time(filled, smoothing)
    height, width = frame_size
    sides = np.clip(smooth[:, 2], 8, min(height, width))
    centres = np.stack(
        [
            np.clip(smooth[:, axis], sides / 2, length - sides / 2)
            for axis, length in enumerate((width, height))
        ],
        axis=1,
    )
    distances = np.abs(frames[:, None] - np.array(seen)[None]).min(1)
    weights = np.clip((MAX_GAP + 1 - distances) / MAX_GAP, 0, 1)
    return MovingCrop(centres, sides, weights, frame_size)


def average_over_time(values: np.ndarray, radius: int) -> np.ndarray:
    """Average each of [n, k] with its neighbours; fewer of them at the ends."""
    rows = [
        values[max(0, row - reach) : row + reach + 1].mean(0)
        for row in range(len(values))
        for reach in [min(radius, row, len(values) - 1 - row)]
    ]
    return np.stack(rows)


def sample(picture: Tensor, xs: Tensor, ys: Tensor) -> Tensor:
    """Sample a picture [height, width, 3] at each of xs and ys, -1 to 1 from edge to edge."""
    grid = torch.stack(torch.broadcast_tensors(xs[None], ys[:, None]), dim=-1)[None]
    sampled = functional.grid_sample(
        picture.float().permute(2, 0, 1)[None],
        grid,
        mode="bicubic",
        padding_mode="border",
        align_corners=False,
    )
    return sampled[0].permute(1, 2, 0).clamp(0, 1)


def shrink(crop: Tensor, side_px: int) -> Tensor:
    """Make a crop smaller without aliasing; one that is small enough stays."""
    if side_px >= crop.shape[0]:
        return crop
    small = functional.interpolate(
        crop.float().permute(2, 0, 1)[None], size=(side_px, side_px), mode="bicubic", antialias=True
    )
    return small[0].permute(1, 2, 0)


def fade(places: Tensor, feather: float) -> Tensor:
    """Weight of places -1 to 1 in a square: 1 inside, falling smoothly to 0 at the edge."""
    if feather <= 0:
        return (places.abs() <= 1).float()
    share = ((1 - places.abs()) / (2 * feather)).clamp(0, 1)
    return share * share * (3 - 2 * share)
