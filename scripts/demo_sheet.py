"""The demo's contact sheet: the photo beside frames of the video, the likeness of every frame below them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFont, ImageOps

from lynx_core.evaluation.likeness_pictures import list_runs

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
class SheetRow:
    """One video."""

    name: str
    frames: np.ndarray
    """[n, height, width, 3] uint8 RGB."""
    scores: Sequence[float | None]
    """Likeness of each frame, -1 to 1; None where no face was found."""


@dataclass(frozen=True)
class Sheet:
    """What a contact sheet shows."""

    title: str
    photo: Image.Image
    rows: Sequence[SheetRow]
    """The video with the person first; it is drawn below the others, next to the plot."""
    lines: Mapping[str, float]
    """Likeness to compare with, by what it is of."""
    note: str
    """One line at the bottom."""


def draw_sheet(sheet: Sheet) -> Image.Image:
    """Draw the photo at the left, a row of frames for each video at the right, their likeness straight below."""
    frames = sheet.rows[0].frames
    chosen = np.linspace(0, len(frames) - 1, min(MAX_FRAMES, len(frames))).round().astype(int)
    tile_height = enlarge(Image.fromarray(frames[0])).height
    left = MARGIN_PX + PHOTO_PX + 2 * GAP_PX + AXIS_PX
    width = max(left + len(chosen) * (TILE_PX + GAP_PX) - GAP_PX + MARGIN_PX, MIN_WIDTH_PX)
    title = wrap(sheet.title, TITLE_PX, width - 2 * MARGIN_PX)
    top = MARGIN_PX + len(title) * (TITLE_PX + 8) + GAP_PX
    row_height = LABEL_PX + 10 + tile_height + GAP_PX
    plot_top = top + len(sheet.rows) * row_height + GAP_PX
    bottom = max(plot_top + PLOT_HEIGHT_PX, top + LABEL_PX + PHOTO_PX)
    picture = Image.new("RGB", (width, bottom + LABEL_PX + MARGIN_PX + GAP_PX), "white")
    draw = ImageDraw.Draw(picture)
    for number, line in enumerate(title):
        draw.text((MARGIN_PX, MARGIN_PX + number * (TITLE_PX + 8)), line, font=_font(TITLE_PX), fill=INK)
    draw.text((MARGIN_PX, top), "the photo", font=_font(LABEL_PX), fill=GREY)
    photo = ImageOps.fit(sheet.photo.convert("RGB"), (PHOTO_PX, PHOTO_PX))
    picture.paste(photo, (MARGIN_PX, top + LABEL_PX + 10))
    for place, row in enumerate(reversed(sheet.rows)):
        y = top + place * row_height
        is_person = row is sheet.rows[0]
        draw.text((left, y), row.name, font=_font(LABEL_PX), fill=LINE if is_person else GREY)
        for number, index in enumerate(chosen):
            tile = enlarge(Image.fromarray(row.frames[index]))
            picture.paste(tile, (left + number * (TILE_PX + GAP_PX), y + LABEL_PX + 10))
    first = left + TILE_PX / 2
    span = (first, first + (len(chosen) - 1) * (TILE_PX + GAP_PX))
    _draw_plot(draw, sheet, span, plot_top)
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


def _draw_plot(draw: ImageDraw.ImageDraw, sheet: Sheet, span: tuple[float, float], top: float) -> None:
    """Likeness over the frames of every video.

    Args:
        span: where the first and the last frame are, in px from the left.
    """
    known = [score for row in sheet.rows for score in row.scores if score is not None]
    low = -1.0 if any(score < -0.25 for score in known) else min(0.0, *known, *sheet.lines.values())
    floor, height = top + PLOT_HEIGHT_PX - GAP_PX, PLOT_HEIGHT_PX - LABEL_PX - 2 * GAP_PX

    def rise(score: float) -> float:
        return floor - height * (score - low) / (1.0 - low)

    left, right = span[0] - TILE_PX / 2, span[1] + TILE_PX / 2
    draw.text((left, top), describe_scores(sheet.rows), font=_font(LABEL_PX), fill=INK)
    for tick in TICKS if low > -1 else (-1.0, *TICKS):
        draw.line((left, rise(tick), right, rise(tick)), fill=FAINT, width=2)
        draw.text((left - 14, rise(tick)), f"{tick:g}", font=_font(LABEL_PX), fill=GREY, anchor="rm")
    for name, score in sheet.lines.items():
        for x in range(round(left), round(right), 18):
            draw.line((x, rise(score), x + 10, rise(score)), fill=GREY, width=2)
        text = f"{name}: {score:.2f}"
        draw.text((right, rise(score) - 4), text, font=_font(LABEL_PX - 5), fill=GREY, anchor="rb")
    for row in reversed(sheet.rows):
        _draw_curve(draw, row.scores, span, rise, LINE if row is sheet.rows[0] else GREY, floor)


def describe_scores(rows: Sequence[SheetRow]) -> str:
    """Say the mean of each video, and in how many frames there is a face."""
    parts = []
    for row in rows:
        found = [score for score in row.scores if score is not None]
        mean = f"{sum(found) / len(found):.2f}" if found else "no face"
        seen = (
            ""
            if len(found) == len(row.scores)
            else f" (a face in {len(found)} of {len(row.scores)} frames, × none)"
        )
        parts.append(f"{mean} {row.name}{seen}")
    return "likeness to the photo (cosine): " + ", ".join(parts)


def _draw_curve(
    draw: ImageDraw.ImageDraw,
    scores: Sequence[float | None],
    span: tuple[float, float],
    rise: Callable[[float], float],
    colour: tuple[int, int, int],
    floor: float,
) -> None:
    def across(number: int) -> float:
        return span[0] + number / max(len(scores) - 1, 1) * (span[1] - span[0])

    for run in list_runs(scores):
        points = [(across(number), rise(score)) for number, score in run]
        draw.line(points, fill=colour, width=4, joint="curve")
        for x, y in points:
            draw.ellipse((x - 7, y - 7, x + 7, y + 7), fill=colour)
    for number, score in enumerate(scores):
        if score is None:
            x, y = across(number), floor - 8
            draw.line((x - 7, y - 7, x + 7, y + 7), fill=colour, width=4)
            draw.line((x - 7, y + 7, x + 7, y - 7), fill=colour, width=4)


def _font(size_px: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size_px)
