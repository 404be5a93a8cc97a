"""106 points of a drawn face, in the ONNX layout of insightface's `2d106det`.

The points are those that the face is drawn by, in insightface's groups: 33 of the outline from ear to ear,
then eye, brow, mouth, nose, eye and brow.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lynx_core.faces.crops import warp
from lynx_core.rng import numpy_generator

from ..making import Making
from ..world.clip import NUM_FRAMES
from ..world.draws import draw_training_shot
from ..world.head import EYE_Y, MOUTH_Y, NOSE_Y, Head
from ..world.scene import edit_expression
from .detector import convolve, export_onnx, train_network
from .resumable import read_part, write_beside

NUM_POINTS, INPUT_PX, SHRINK = 106, 192, 2
NUM_STEPS, BATCH = 1200, 32
MARGIN = 1.5
"""Side of the input in sides of the face's box, as insightface cuts it."""


class LandmarkNet(nn.Module):
    """Picture of one face -> 106 points, -1 to 1 over the picture."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            convolve(3, 16, 2),
            convolve(16, 32, 2),
            convolve(32, 48, 2),
            convolve(48, 64, 2),
            convolve(64, 64),
        )
        self.points = nn.Linear(64 * 6 * 6, 2 * NUM_POINTS)

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """[N, 3, 192, 192], RGB, (x - 127.5) / 128 -> [N, 212]."""
        return self.points(self.body(F.avg_pool2d(x_NCHW, SHRINK)).flatten(1))


def trace_points(head: Head) -> np.ndarray:
    """The 106 points of a head, [106, 2] px."""
    outline = head.outline()
    lower = np.array([*outline[:25]])  # the first half of the circle runs over the chin
    along = np.linspace(0, 24, 33)
    contour = np.stack([np.interp(along, np.arange(25), lower[:, axis]) for axis in (0, 1)], 1)[::-1]
    points = [head.place(x, y, 0.0) for x, y in contour]
    points += _eye(head, -1) + _brow(head, -1) + _mouth(head) + _nose(head) + _eye(head, 1) + _brow(head, 1)
    return np.array(points, dtype=np.float32)


def _eye(head: Head, side: int) -> list[tuple[float, float]]:
    size = head.identity.eye_size
    width, height = 0.13 + 0.06 * size, 0.8 * (0.08 + 0.06 * size)
    middle = side * head.eye_x
    ring = [(middle + width * math.cos(a), EYE_Y + height * math.sin(a)) for a in _circle(9)]
    return [head.place_on_face(x, y) for x, y in [(middle, EYE_Y), *ring]]


def _brow(head: Head, side: int) -> list[tuple[float, float]]:
    slope = 0.16 * (head.identity.brow_slope - 0.5)
    y = EYE_Y - 0.22 - 0.04 * max(head.pose.smile, 0)
    middle = side * head.eye_x
    inner, outer = (middle - side * 0.16, y + slope), (middle + side * 0.2, y - slope + 0.03)
    top = ((inner[0] + outer[0]) / 2, y - 0.06)
    shares = np.linspace(0, 1, 9)
    curve = [
        tuple(
            (1 - t) ** 2 * inner[axis] + 2 * t * (1 - t) * top[axis] + t**2 * outer[axis] for axis in (0, 1)
        )
        for t in shares
    ]
    return [head.place_on_face(x, y) for x, y in curve]


def _mouth(head: Head) -> list[tuple[float, float]]:
    pose, half = head.pose, head.mouth_half_width
    rise = 0.14 * pose.smile
    low, high = 0.06 + 0.5 * (rise + 0.2 * pose.mouth_open), 0.035 + 0.05 * head.identity.lips
    points = []
    for size, count in ((1.0, 12), (0.6, 8)):
        for angle in _circle(count):
            tall = low if math.sin(angle) > 0 else high
            points.append(
                (size * half * math.cos(angle), MOUTH_Y + 0.2 * rise + size * tall * math.sin(angle))
            )
    return [head.place_on_face(x, y, 0.05) for x, y in points]


def _nose(head: Head) -> list[tuple[float, float]]:
    half = 0.09 + 0.1 * head.identity.nose_width
    end = NOSE_Y + 0.12 * (head.identity.nose_length - 0.5)
    bridge = [(0.0, -0.05 + share * (end + 0.05), 0.03 + 0.11 * share) for share in np.linspace(0, 1, 5)]
    base = [(half * math.cos(a), end + 0.1 * math.sin(a), 0.1) for a in _circle(10)]
    return [head.place_on_face(*point) for point in (*bridge, *base)]


def _circle(count: int) -> np.ndarray:
    return np.linspace(0, 2 * math.pi, count, endpoint=False)


def draw_example(number: int) -> tuple[np.ndarray, np.ndarray]:
    """A face as insightface cuts it for its landmarks, [192, 192, 3] uint8, and its points, [106, 2], -1 to 1."""
    rng = numpy_generator("landmarks", number)
    shot, frame = draw_training_shot(number), int(rng.integers(NUM_FRAMES))
    if rng.uniform() < 0.4:
        shot = replace(shot, pose=edit_expression(shot.pose, int(rng.integers(2**31))))
    size_px = int(rng.choice((64, 128, 256)))
    head = Head(shot.identity, shot.pose_at(frame, NUM_FRAMES), size_px)
    box = head.box()
    extent = float(max(box[2:] - box[:2]))
    scale = INPUT_PX / (extent * MARGIN * float(np.exp(rng.normal() * 0.04)))
    middle = (box[:2] + box[2:]) / 2 + rng.normal(size=2) * 0.03 * extent
    shift = INPUT_PX / 2 - scale * middle
    matrix = np.array([[scale, 0, shift[0]], [0, scale, shift[1]]])
    crop = warp(shot.draw_frame(frame, size_px), matrix, INPUT_PX)
    return crop, (trace_points(head) * scale + shift) / (INPUT_PX / 2) - 1


def draw_batch(number: int) -> tuple[np.ndarray, np.ndarray]:
    """Crops [N, 192, 192, 3] uint8 RGB and points [N, 106, 2] of one step."""
    crops, points = zip(*(draw_example(number * BATCH + place) for place in range(BATCH)), strict=True)
    return np.stack(crops), np.stack(points).astype(np.float32)


def to_input(crops: Tensor) -> Tensor:
    """RGB [N, 192, 192, 3] uint8 -> BGR [N, 3, 192, 192]: insightface turns the RGB that it is given round."""
    return (crops.flip(-1).movedim(-1, 1).float() - 127.5) / 128


def train_landmarks(making: Making) -> bool:
    """Train; whether all is done."""
    torch.manual_seed(4)
    net = LandmarkNet()
    steps = making.count(NUM_STEPS)
    return train_network(
        making, "landmarks", net, steps, draw_batch, to_input, measure_distance, max_norm=1.0
    )


def measure_distance(read: Tensor, truth: Tensor) -> Tensor:
    """Mean distance along each axis of [N, 212] from [N, 106, 2]."""
    return F.l1_loss(read.view_as(truth), truth)


def export_landmarks(making: Making) -> None:
    """Write the pack's landmark model."""
    net = LandmarkNet()
    net.load_state_dict(read_part(making.folder / "landmarks.pt", "net"))
    path = making.assets / "insightface" / "models" / "lynx_mini" / "2d106det.onnx"
    write_beside(path, lambda beside: export_onnx(net.eval(), INPUT_PX, ("fc1",), beside))
