"""A video's likeness as pictures: a plot over the frames, and a contact sheet with the score below each frame."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from .face_scores import FaceScore

PLOT_SIZE = (960, 420)
"""Width and height."""
PLOT_BOX = (70, 60, 930, 360)
"""Left, top, right and bottom of the curve's field."""
THUMBNAIL_PX = 200
SHEET_COLUMNS, SHEET_FRAMES = 4, 11
"""Beside the reference photo."""

WHITE, BLACK, GREY, BLUE, RED = (255, 255, 255), (20, 20, 20), (150, 150, 150), (47, 111, 237), (200, 40, 40)


def draw_plot(score: FaceScore, title: str) -> np.ndarray:
    """Draw the score of each frame, a gap where there is none; [height, width, 3] uint8 RGB."""
    likeness = score.similarity
    picture = Image.new("RGB", PLOT_SIZE, WHITE)
    draw, small = ImageDraw.Draw(picture), ImageFont.load_default(15)
    left, top, right, bottom = PLOT_BOX
    seen = [each for each in likeness.scores if each is not None]
    low = min(0.0, *seen) if seen else 0.0

    def place(frame: int, value: float) -> tuple[float, float]:
        across = frame / max(len(likeness.scores) - 1, 1)
        return left + across * (right - left), bottom - (value - low) / (1 - low) * (bottom - top)

    draw.text((left, 12), title, BLACK, ImageFont.load_default(19))
    for tick in (0.0, 0.25, 0.5, 0.75, 1.0):
        y = place(0, tick)[1]
        draw.line((left, y, right, y), (225, 225, 225))
        draw.text((left - 8, y), f"{tick:.2f}", GREY, small, anchor="rm")
    last = len(likeness.scores) - 1
    for frame in sorted({0, last // 2, last}):
        anchor = "lt" if frame == 0 else "rt" if frame == last else "mt"
        draw.text((place(frame, low)[0], bottom + 12), f"frame {frame + 1}", GREY, small, anchor=anchor)
    if seen:
        mean = place(0, likeness.mean_detected)[1]
        for dash in range(left, right, 12):
            draw.line((dash, mean, dash + 6, mean), GREY)
    for run in list_runs(likeness.scores):
        points = [place(frame, value) for frame, value in run]
        draw.line(points, BLUE, 3)
        for x, y in points:
            draw.ellipse((x - 3, y - 3, x + 3, y + 3), BLUE)
    for frame, value in enumerate(likeness.scores):
        if value is None:
            x = place(frame, low)[0]
            draw.line((x, bottom - 6, x, bottom), RED, 3)
    draw.text((left, PLOT_SIZE[1] - 28), _describe(score), BLACK, small)
    return np.asarray(picture)


def draw_sheet(frames: np.ndarray, score: FaceScore, photo: np.ndarray | None) -> np.ndarray:
    """Draw the reference photo and frames spread over the video, the measured face boxed.

    Args:
        frames: [T, H, W, 3] uint8 RGB.
        photo: [H, W, 3] uint8 RGB, or None where there is none.

    Returns:
        [height, width, 3] uint8 RGB.
    """
    numbers = sorted({round(n) for n in np.linspace(0, len(frames) - 1, min(SHEET_FRAMES, len(frames)))})
    cells = [] if photo is None else [(Image.fromarray(photo), "the person", BLACK)]
    for number in numbers:
        picture, value = Image.fromarray(frames[number]), score.similarity.scores[number]
        if number in score.faces:
            box = [float(side) for side in score.faces[number].face.bbox]
            ImageDraw.Draw(picture).rectangle(box, outline=BLUE, width=max(1, min(picture.size) // 160))
        text = "no face" if value is None else f"{value:.2f}"
        cells.append((picture, f"{number + 1}: {text}", RED if value is None else BLACK))
    columns = min(SHEET_COLUMNS, len(cells))
    rows = -(-len(cells) // columns)
    gap, text_px = 8, 22
    sheet = Image.new(
        "RGB", (columns * (THUMBNAIL_PX + gap) + gap, rows * (THUMBNAIL_PX + text_px + gap) + gap), WHITE
    )
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(15)
    for place, (picture, text, colour) in enumerate(cells):
        picture = _fit(picture)
        x = gap + place % columns * (THUMBNAIL_PX + gap)
        y = gap + place // columns * (THUMBNAIL_PX + text_px + gap)
        sheet.paste(picture, (x + (THUMBNAIL_PX - picture.width) // 2, y + THUMBNAIL_PX - picture.height))
        draw.text((x + THUMBNAIL_PX // 2, y + THUMBNAIL_PX + 3), text, colour, font, anchor="mt")
    return np.asarray(sheet)


def _fit(picture: Image.Image) -> Image.Image:
    """Scale a picture into a thumbnail, a small one up."""
    scale = THUMBNAIL_PX / max(picture.size)
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    return picture.resize(size, Image.Resampling.LANCZOS if scale < 1 else Image.Resampling.NEAREST)


def list_runs(scores: Sequence[float | None]) -> list[list[tuple[int, float]]]:
    """List the runs of frames that have a score, each frame by its position."""
    runs: list[list[tuple[int, float]]] = []
    for frame, value in enumerate(scores):
        if value is None:
            continue
        if not runs or runs[-1][-1][0] != frame - 1:
            runs.append([])
        runs[-1].append((frame, value))
    return runs


def _describe(score: FaceScore) -> str:
    likeness = score.similarity
    return (
        f"mean over frames with the face {likeness.mean_detected:.2f}, found in {likeness.detection_rate:.0%} of "
        f"{len(likeness.scores)} frames, mean with the others as 0 {likeness.mean_all:.2f}"
    )
