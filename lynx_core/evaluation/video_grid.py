"""Several videos as one: side by side in a grid, each with a label, one frame for each moment."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

GAP_PX, LABEL_SHARE, MIN_LABEL_PX = 4, 0.09, 12
INK, PAPER = (235, 235, 235), (24, 24, 28)


def draw_grid(videos: Sequence[np.ndarray], labels: Sequence[str], num_columns: int) -> np.ndarray:
    """Lay videos [n, height, width, 3] uint8 RGB of one size out in rows; a shorter one keeps its last frame.

    Returns:
        [n, grid height, grid width, 3] uint8 RGB, both even.

    Raises:
        ValueError: when there is none, the sizes differ, or there is no label for each.
    """
    if not videos or len(videos) != len(labels):
        raise ValueError(f"{len(videos)} videos and {len(labels)} labels: give one label for each video")
    sizes = {video.shape[1:3] for video in videos}
    if len(sizes) > 1:
        shown = ", ".join(f"{width} x {height}" for height, width in sorted(sizes))
        raise ValueError(f"the videos of a grid are of one size, got {shown}")
    ((height, width),) = sizes
    text_px = max(MIN_LABEL_PX, round(height * LABEL_SHARE))
    cell_width, cell_height = width + GAP_PX, height + round(1.6 * text_px) + GAP_PX
    num_columns = min(num_columns, len(videos))
    num_rows = -(-len(videos) // num_columns)
    size = (num_columns * cell_width + GAP_PX, num_rows * cell_height + GAP_PX)
    board = Image.new("RGB", tuple(length + length % 2 for length in size), PAPER)
    draw, places = ImageDraw.Draw(board), []
    for number, label in enumerate(labels):
        x = GAP_PX + number % num_columns * cell_width
        y = GAP_PX + number // num_columns * cell_height
        draw.text(
            (x + width / 2, y + 0.8 * text_px), label, INK, fit_font(label, text_px, width), anchor="mm"
        )
        places.append((x, y + round(1.6 * text_px)))
    length = max(len(video) for video in videos)
    grid = np.repeat(np.asarray(board)[None], length, axis=0)
    for video, (x, y) in zip(videos, places, strict=True):
        frames = np.minimum(np.arange(length), len(video) - 1)
        grid[:, y : y + height, x : x + width] = video[frames]
    return grid


def fit_font(text: str, size_px: int, width_px: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """The font at a size, or as much smaller as the text needs."""
    font = ImageFont.load_default(size_px)
    needed = font.getlength(text)
    return font if needed <= width_px else ImageFont.load_default(max(6, size_px * width_px / needed))
