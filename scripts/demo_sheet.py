"""The demo's contact sheet: the photo beside frames of the video, the likeness of every frame below them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFont, ImageOps

TILE_PX, GAP_PX, MARGIN_PX = 176, 12, 32
PHOTO_PX = 400
MAX_FRAMES = 9
MIN_WIDTH_PX = 1500
PLOT_HEIGHT_PX = 270
AXIS_PX = 76
TITLE_PX, LABEL_PX = 44, 31
INK, GREY, FAINT, LINE = (28, 30, 36), (110, 114, 122), (222, 224, 228), (24, 108, 150)
TICKS = (0.0, 0.5, 1.0)


@dataclass(frozen=True)
class Sheet:
    """What a contact sheet shows."""

    title: str
    photo: Image.Image
    frames: np.ndarray
    """[n, height, width, 3] uint8 RGB."""
    scores: Sequence[float | None]
    """Likeness of each frame, -1 to 1; None where no face was found."""
    note: str
    """One line at the bottom."""


def draw_sheet(sheet: Sheet) -> Image.Image:
    """Draw the photo at the left, frames at the right, each frame's likeness straight below it."""
    chosen = np.linspace(0, len(sheet.frames) - 1, min(MAX_FRAMES, len(sheet.frames))).round().astype(int)
    tiles = [enlarge(Image.fromarray(sheet.frames[index])) for index in chosen]
    left = MARGIN_PX + PHOTO_PX + 2 * GAP_PX + AXIS_PX
    width = max(left + len(tiles) * (TILE_PX + GAP_PX) - GAP_PX + MARGIN_PX, MIN_WIDTH_PX)
    title = wrap(sheet.title, TITLE_PX, width - 2 * MARGIN_PX)
    top = MARGIN_PX + len(title) * (TITLE_PX + 8) + GAP_PX + LABEL_PX + 10
    plot_top = top + tiles[0].height + 2 * GAP_PX
    bottom = max(plot_top + PLOT_HEIGHT_PX, top + PHOTO_PX)
    picture = Image.new("RGB", (width, bottom + LABEL_PX + MARGIN_PX + GAP_PX), "white")
    draw = ImageDraw.Draw(picture)
    for number, line in enumerate(title):
        draw.text((MARGIN_PX, MARGIN_PX + number * (TITLE_PX + 8)), line, font=_font(TITLE_PX), fill=INK)
    label_y = top - LABEL_PX - 8
    draw.text((MARGIN_PX, label_y), "reference", font=_font(LABEL_PX), fill=GREY)
    picture.paste(ImageOps.fit(sheet.photo.convert("RGB"), (PHOTO_PX, PHOTO_PX)), (MARGIN_PX, top))
    for number, (tile, index) in enumerate(zip(tiles, chosen, strict=True)):
        x = left + number * (TILE_PX + GAP_PX)
        draw.text((x, label_y), f"frame {index + 1}", font=_font(LABEL_PX), fill=GREY)
        picture.paste(tile, (x, top))
    first = left + TILE_PX / 2
    _draw_plot(draw, sheet.scores, (first, first + (len(tiles) - 1) * (TILE_PX + GAP_PX)), plot_top)
    draw.text((MARGIN_PX, bottom + GAP_PX), sheet.note, font=_font(LABEL_PX), fill=GREY)
    return picture


def enlarge(frame: Image.Image) -> Image.Image:
    """A frame as wide as a tile."""
    return frame.resize((TILE_PX, round(TILE_PX * frame.height / frame.width)), Image.Resampling.LANCZOS)


def wrap(text: str, size_px: int, width_px: int) -> list[str]:
    """Break a text into lines that fit."""
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and _font(size_px).getlength(longer) > width_px:
            lines.append(word)
        else:
            lines[-1] = longer
    return lines


def _draw_plot(
    draw: ImageDraw.ImageDraw, scores: Sequence[float | None], span: tuple[float, float], top: float
) -> None:
    """Likeness over the frames.

    Args:
        span: where the first and the last frame are, in px from the left.
    """
    low = 0.0 if all(score is None or score >= 0 for score in scores) else -1.0
    floor, height = top + PLOT_HEIGHT_PX - GAP_PX, PLOT_HEIGHT_PX - LABEL_PX - 2 * GAP_PX

    def place(number: int, score: float) -> tuple[float, float]:
        share = number / max(len(scores) - 1, 1)
        return span[0] + share * (span[1] - span[0]), floor - height * (score - low) / (1.0 - low)

    left, right = span[0] - TILE_PX / 2, span[1] + TILE_PX / 2
    found = [score for score in scores if score is not None]
    mean = f"mean {sum(found) / len(found):.2f}, " if found else ""
    text = f"likeness to the reference (cosine): {mean}a face in {len(found)} of {len(scores)} frames"
    draw.text((left, top), text, font=_font(LABEL_PX), fill=INK)
    for tick in TICKS if low == 0 else (-1.0, *TICKS):
        _, y = place(0, tick)
        draw.line((left, y, right, y), fill=FAINT, width=2)
        draw.text((left - 14, y), f"{tick:g}", font=_font(LABEL_PX), fill=GREY, anchor="rm")
    points = [place(number, score) for number, score in enumerate(scores) if score is not None]
    if len(points) > 1:
        draw.line(points, fill=LINE, width=4, joint="curve")
    for number, score in enumerate(scores):
        x, y = place(number, score if score is not None else low)
        if score is None:
            draw.text((x, y - 4), "no face", font=_font(LABEL_PX), fill=GREY, anchor="mb")
            continue
        draw.ellipse((x - 7, y - 7, x + 7, y + 7), fill=LINE)
        if len(scores) <= MAX_FRAMES:
            above = score < 0.8
            at = (x, y - 14) if above else (x, y + 14)
            draw.text(at, f"{score:.2f}", font=_font(LABEL_PX), fill=INK, anchor="mb" if above else "mt")


def _font(size_px: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size_px)
