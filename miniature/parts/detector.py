"""A face detector for the drawn world, in the ONNX layout of insightface's SCRFD.

A small network with one head at a stride of 16 px looks at the picture a quarter of its size. The outputs of
strides 8 and 32, and the second anchor of each cell, are there for the layout and never find a face.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..making import Making
from .detector_pictures import SEEN_PX, Picture, draw_picture
from .resumable import read_part, run_steps, set_cosine_rate, take_step, write_beside

STRIDES, STRIDE = (8, 16, 32), 16
SHRINK = 4
DETECTOR_PX = SHRINK * SEEN_PX
NUM_STEPS, BATCH = 2000, 24
LEARNING_RATE = 3e-3
INNER, OUTER = 0.12, 0.35
"""In face heights from a face's middle: within the first a cell must find it, beyond the second none may."""
OUTPUT_NAMES = tuple(f"{kind}_{stride}" for kind in ("score", "box", "landmarks") for stride in STRIDES)


def convolve(in_dim: int, dim: int, stride: int = 1) -> nn.Sequential:
    """3x3, norm, ReLU."""
    layer = nn.Conv2d(in_dim, dim, 3, stride, 1, bias=False)
    return nn.Sequential(layer, nn.BatchNorm2d(dim), nn.ReLU(inplace=True))


class DetectorNet(nn.Module):
    """Shrunk pictures -> for every cell of 16 px a score, four distances and five points."""

    def __init__(self) -> None:
        super().__init__()
        self.to_fine = nn.Sequential(convolve(3, 16, 2), convolve(16, 32, 2), convolve(32, 32))
        self.to_middle = nn.Sequential(convolve(32, 64, 2), convolve(64, 64))
        self.to_coarse = nn.Sequential(convolve(64, 96, 2), convolve(96, 96), convolve(96, 96))
        self.coarse_to_middle, self.middle_to_fine = nn.Conv2d(96, 64, 1), nn.Conv2d(64, 48, 1)
        self.fine_skip = nn.Conv2d(32, 48, 1)
        self.at_middle, self.at_fine = convolve(64, 64), nn.Sequential(convolve(48, 48), convolve(48, 48))
        self.head = nn.Conv2d(48, 15, 1)
        bias = self.head.bias
        assert bias is not None
        nn.init.constant_(bias, 0.0)
        with torch.no_grad():
            bias[0] = -4.0

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """[N, 3, H / 4, W / 4] -> [N, 15, H / 16, W / 16]: logit, then distances and offsets in strides."""
        fine = self.to_fine(x_NCHW)
        middle = self.to_middle(fine)
        coarse = self.to_coarse(middle)
        middle = self.at_middle(middle + _double(self.coarse_to_middle(coarse)))
        fine = self.at_fine(self.fine_skip(fine) + _double(self.middle_to_fine(middle)))
        out = self.head(fine)
        return torch.cat([out[:, :1], 4.0 * out[:, 1:]], 1)


def _double(x_NCHW: Tensor) -> Tensor:
    return F.interpolate(x_NCHW, scale_factor=2.0, mode="nearest")


class ScrfdLayout(nn.Module):
    """The network behind SCRFD's nine outputs, as insightface decodes them."""

    def __init__(self, net: DetectorNet) -> None:
        super().__init__()
        self.net = net

    def forward(self, x_1CHW: Tensor) -> tuple[Tensor, ...]:
        """[1, 3, H, W], BGR turned to RGB by insightface, (x - 127.5) / 128 -> `OUTPUT_NAMES`, rows by cell."""
        out = self.net(F.avg_pool2d(x_1CHW, SHRINK))
        kinds: tuple[list[Tensor], ...] = ([], [], [])
        for stride in STRIDES:
            grid = out if stride == STRIDE else F.avg_pool2d(x_1CHW[:, :1], stride).repeat(1, 15, 1, 1) * 0.0
            score = grid[:, :1].sigmoid() if stride == STRIDE else grid[:, :1]
            for rows, part in zip(kinds, (score, grid[:, 1:5], grid[:, 5:]), strict=True):
                twice = torch.cat([part, part * 0.0], 1)
                rows.append(twice.permute(0, 2, 3, 1).reshape(-1, part.shape[1]))
        return (*kinds[0], *kinds[1], *kinds[2])


def train_detector(making: Making) -> bool:
    """Train; whether all is done."""
    torch.manual_seed(3)
    net = DetectorNet()
    steps = making.count(NUM_STEPS)
    return train_network(making, "detector", net, steps, draw_batch, to_input, detection_loss, max_norm=5.0)


def train_network(
    making: Making,
    name: str,
    net: nn.Module,
    num_steps: int,
    draw: Callable[[int], tuple[np.ndarray, Any]],
    prepare: Callable[[Tensor], Tensor],
    measure_loss: Callable[[Tensor, Any], Tensor],
    *,
    max_norm: float,
) -> bool:
    """Train a network of pictures from the start; whether all is done.

    Args:
        draw: draws pictures of one step, and the truth about them.
        prepare: from pictures to what the network sees.
        measure_loss: of what the network says, in float32, against the truth.
    """
    net.to(making.device).train()
    optimizer = torch.optim.AdamW(net.parameters(), lr=LEARNING_RATE, weight_decay=1e-4)

    def step(number: int, drawn: tuple[Tensor, Any]) -> Tensor:
        set_cosine_rate(optimizer, number, num_steps, LEARNING_RATE)
        pictures, truth = drawn
        with making.autocast():
            out = net(prepare(pictures))
        return take_step(measure_loss(out.float(), truth), net.parameters(), optimizer, max_norm=max_norm)

    return run_steps(making, name, {"net": net, "optimizer": optimizer}, num_steps, step, draw)


class Cells(NamedTuple):
    """What every cell of a grid over the pictures should say, in strides."""

    targets: Any
    """[N, 15, G, G]: score, distances, offsets."""
    weights: Any
    """[N, 1, G, G]."""
    heights: Any
    """Of the faces, [N, 1, G, G]."""


def draw_batch(number: int) -> tuple[np.ndarray, Cells]:
    """Pictures of one step, [N, 160, 160, 3] uint8 RGB, and what their cells should say."""
    pictures = [draw_picture(number * BATCH + place) for place in range(BATCH)]
    return np.stack([picture.pixels for picture in pictures]), mark_cells(pictures)


def to_input(pixels: Tensor) -> Tensor:
    """What the network sees of pictures, [N, 3, 160, 160]: insightface turns the RGB it is given round."""
    return (pixels.flip(-1).movedim(-1, 1).contiguous().float() - 127.5) / 128


def detection_loss(out_NCHW: Tensor, cells: Cells) -> Tensor:
    """Cross-entropy of the scores, and how far boxes and points are off in face heights."""
    targets, weights, heights = cells
    found = weights[:, 0] * (targets[:, 0] > 0)
    scores = F.binary_cross_entropy_with_logits(out_NCHW[:, 0], targets[:, 0], reduction="none")
    score_loss = (scores * weights[:, 0]).sum() / found.sum().clamp(min=1)
    off = F.smooth_l1_loss(out_NCHW[:, 1:], targets[:, 1:], reduction="none", beta=0.1) / heights
    per_cell = 0.5 * off[:, :4].mean(1) + 2.0 * off[:, 4:].mean(1)
    return score_loss + 20.0 * (per_cell * found).sum() / found.sum().clamp(min=1)


def mark_cells(pictures: list[Picture]) -> Cells:
    """Say what the cells of pictures should say.

    A face's cells weigh 8 together, however large it is; a cell without one weighs 1.
    """
    grid, stride = DETECTOR_PX // STRIDE, STRIDE / SHRINK
    targets = np.zeros((len(pictures), 15, grid, grid), np.float32)
    weights, heights = (np.ones((len(pictures), 1, grid, grid), np.float32) for _ in range(2))
    rows, columns = np.mgrid[:grid, :grid] * stride
    for number, picture in enumerate(pictures):
        for box, points in zip(picture.boxes, picture.landmarks, strict=True):
            height, (x, y) = box[3] - box[1], (box[:2] + box[2:]) / 2
            far = np.hypot(columns - x, rows - y)
            inside = far <= max(INNER * height, far.min() + 1e-3)
            near = (far < max(OUTER * height, 1.5 * stride)) & ~inside & (targets[number, 0] == 0)
            weights[number, 0][near] = 0
            weights[number, 0][inside] = 8 / inside.sum()
            heights[number, 0][inside] = height / stride
            here = np.stack([columns[inside], rows[inside]], 1)
            targets[number, 0][inside] = 1
            distances = np.concatenate([here - box[:2], box[2:] - here], 1)
            offsets = (points[None] - here[:, None]).reshape(-1, 10)
            targets[number, 1:, inside] = np.concatenate([distances, offsets], 1) / stride
    return Cells(targets, weights, heights)


def load_trained_detector(folder: Path) -> DetectorNet:
    """The trained network in evaluation mode."""
    net = DetectorNet()
    net.load_state_dict(read_part(folder / "detector.pt", "net"))
    return net.eval().requires_grad_(False)


def export_detector(making: Making) -> None:
    """Write the pack's detector; pictures of any size that 64 divides go in."""
    layout = ScrfdLayout(load_trained_detector(making.folder))
    path = making.assets / "insightface" / "models" / "lynx_mini" / "det_10g.onnx"
    write_beside(path, lambda beside: export_onnx(layout, DETECTOR_PX, OUTPUT_NAMES, beside, any_size=True))


def export_onnx(
    module: nn.Module, size_px: int, output_names: tuple[str, ...], path: Path, *, any_size: bool = False
) -> None:
    """Write a module that takes one picture [1, 3, size_px, size_px] as an ONNX file."""
    axes = {name: {0: f"rows_{name}"} for name in output_names} | {"input.1": {2: "height", 3: "width"}}
    torch.onnx.export(
        module.eval(),
        (torch.zeros(1, 3, size_px, size_px),),
        str(path),
        input_names=["input.1"],
        output_names=list(output_names),
        dynamic_axes=axes if any_size else None,
        opset_version=13,
        dynamo=False,  # the other exporter needs a package more
    )
