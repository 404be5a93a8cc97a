"""A network that looks for the points of a face where they are, so that a bent face is seen to be bent.

The landmark network of the face models knows what faces are like and leans on it. This one gives each point a map of
where it may be, sees no more than half a face at once, and learned from drawn pictures that were bent at random: a
guess from the rest of the face is wrong there.

Letters: N pictures, P points.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from lynx_core.rng import numpy_generator

from ..making import Making
from ..parts.landmarks import trace_points
from ..parts.pixel_signal import to_signal
from ..parts.resumable import read_part, run_steps, set_cosine_rate, take_step, write_beside
from ..world.clip import FRAME_PX, NUM_FRAMES
from ..world.draws import draw_shot
from ..world.head import Head
from ..world.identity import draw_identity

WEIGHTS_NAME = "points.safetensors"
FIRST_IDENTITY = 950_000
"""The network's own people."""
PLACES = (
    *range(0, 33, 4),  # the face's edge from ear to ear
    33, 34, 38, 43, 47, 51,  # left eye and brow
    52, 55, 58, 61,  # mouth
    76, 77, 80, 82,  # nose
    87, 88, 92, 97, 101, 105,  # right eye and brow
)  # fmt: skip
"""Of the 106 points, those that are looked for."""
WIDTH, DILATIONS = 48, (1, 2, 2, 4)
STEPS, BATCH = 1600, 16
LEARNING_RATE = 3e-3
GRID, MAX_BEND = 5, 0.035
"""Points of the field that bends a picture, in a row; their standard deviation at most, in shares of its side."""


class PointReader(nn.Module):
    """Where each point is."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = [
            nn.Conv2d(3, WIDTH // 2, 5, 2, 2, bias=False), nn.BatchNorm2d(WIDTH // 2), nn.ReLU(),
            nn.Conv2d(WIDTH // 2, WIDTH, 3, 2, 1, bias=False), nn.BatchNorm2d(WIDTH), nn.ReLU(),
        ]  # fmt: skip
        for dilation in DILATIONS:
            layers += [nn.Conv2d(WIDTH, WIDTH, 3, 1, dilation, dilation, bias=False), nn.BatchNorm2d(WIDTH)]
            layers += [nn.ReLU()]
        self.body = nn.Sequential(*layers, nn.Conv2d(WIDTH, len(PLACES), 1))

    def forward(self, pixels: Tensor) -> Tensor:
        """[N, 3, H, W], -1 to 1 -> [N, P, 2] in shares of the picture's side: the middle of each point's map."""
        maps = self.body(pixels).float()
        shares = maps.flatten(2).softmax(-1).unflatten(-1, maps.shape[-2:])
        across, down = (
            (torch.arange(size, device=maps.device) + 0.5) / size for size in (maps.shape[-1], maps.shape[-2])
        )
        return torch.stack([(shares.sum(2) * across).sum(-1), (shares.sum(3) * down).sum(-1)], -1)

    @torch.no_grad()
    def find(self, pictures: np.ndarray) -> np.ndarray:
        """[N, H, W, 3] uint8 RGB -> [N, P, 2] px."""
        found = torch.cat([self(part) for part in to_signal(pictures).split(64)])
        return (found * pictures.shape[2]).numpy()


class PointBatch(NamedTuple):
    """Bent pictures and where their points are: arrays when drawn, tensors in a step."""

    pictures: Any
    """[N, H, W, 3] uint8 RGB."""
    points: Any
    """[N, P, 2] in shares of the picture's side."""


def train_points(making: Making) -> bool:
    """Train it; whether all is done."""
    torch.manual_seed(12)
    reader: Any = PointReader()
    reader.to(making.device, memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(reader.parameters(), lr=LEARNING_RATE, weight_decay=0.01)
    num_steps = making.count(STEPS)

    def step(number: int, drawn: PointBatch) -> Tensor:
        set_cosine_rate(optimizer, number, num_steps, LEARNING_RATE)
        pixels = to_signal(drawn.pictures).contiguous(memory_format=torch.channels_last)
        with making.autocast():
            found = reader(pixels)
        loss = 100 * F.smooth_l1_loss(found, drawn.points, beta=0.02)
        return take_step(loss, reader.parameters(), optimizer, max_norm=5.0)

    return run_steps(
        making, "points", {"reader": reader, "optimizer": optimizer}, num_steps, step, draw_batch
    )


def export_points(making: Making) -> None:
    """Write the weights beside the readers."""
    state = {
        name: (weight.half() if weight.is_floating_point() else weight).contiguous()
        for name, weight in read_part(making.folder / "points.pt", "reader").items()
    }
    write_beside(making.assets / WEIGHTS_NAME, lambda path: save_file(state, path))


def load_points(path: Path) -> PointReader:
    """Open what `export_points` wrote."""
    reader = PointReader()
    reader.load_state_dict(
        {name: w.float() if w.is_floating_point() else w for name, w in load_file(path).items()}
    )
    return reader.eval().requires_grad_(False)


def draw_batch(number: int) -> PointBatch:
    """Pictures of one step."""
    drawn = [draw_bent(number * BATCH + place) for place in range(BATCH)]
    pictures, points = zip(*drawn, strict=True)
    return PointBatch(np.stack(pictures), np.stack(points))


def draw_bent(number: int) -> tuple[np.ndarray, np.ndarray]:
    """A frame that is bent, blurred and shaded by chance, and its points in shares of its side."""
    rng = numpy_generator("points", number)
    shot = draw_shot(draw_identity(FIRST_IDENTITY + number % 40_000), int(rng.integers(2**31)))
    frame = int(rng.integers(NUM_FRAMES))
    field = rng.normal(size=(GRID, GRID, 2)) * rng.uniform(0, MAX_BEND) * FRAME_PX
    picture = shot.draw_frame(frame)
    points = list_points(Head(shot.identity, shot.pose_at(frame), FRAME_PX))
    picture, points = bend(picture, points, field.astype(np.float32))
    if rng.uniform() < 0.5:
        picture = cv2.GaussianBlur(picture, (0, 0), rng.uniform(0.3, 1.5))
    shade = picture * rng.uniform(0.9, 1.1, 3) + rng.normal(size=picture.shape) * rng.uniform(0, 6)
    return shade.clip(0, 255).astype(np.uint8), (points / FRAME_PX).astype(np.float32)


def list_points(head: Head) -> np.ndarray:
    """The points of a head, [P, 2] px."""
    return trace_points(head)[list(PLACES)]


def bend(picture: np.ndarray, points: np.ndarray, field: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Bend a square picture and its points [P, 2] px by a coarse field [rows, columns, 2] of shifts in px."""
    side = len(picture)
    shifts = cv2.resize(field, (side, side), interpolation=cv2.INTER_CUBIC)
    down, across = np.mgrid[:side, :side].astype(np.float32)
    bent = cv2.remap(
        picture,
        across + shifts[..., 0],
        down + shifts[..., 1],
        cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_REFLECT,
    )
    moved = points = points.astype(np.float32)
    for _ in range(8):  # what is drawn at q comes from q + shift(q), so a point goes to where that is itself
        column, row = (moved[:, axis].clip(0, side - 1)[None] for axis in (0, 1))
        moved = points - cv2.remap(shifts, column, row, cv2.INTER_LINEAR)[0]
    return np.asarray(bent), moved
