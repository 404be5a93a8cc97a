"""Sheets to look at: many people, and the kinds of pairs with their captions.

python -m miniature.world.sheet FOLDER      writes world.png and pairs.png
"""

from __future__ import annotations

import argparse
import textwrap
from pathlib import Path

import numpy as np
import skia

from lynx_core.rng import numpy_generator

from .draws import draw_training_shot
from .identity import Colour
from .pairs import SORTS, draw_pair

PERSON_PX, COLUMNS, ROWS = 128, 8, 4
PAIR_PX, CLIP_FRAMES = 144, (0, 2, 4, 6, 8)
_GAP_PX, _LABEL_PX, _MARGIN_PX, _HEAD_PX = 4, 226, 12, 34
_INK: Colour = (30, 32, 38)
_TITLES = {
    "single": "Single scene",
    "multi-scene": "Multi-scene",
    "expression": "Augmented: expression",
    "relight": "Augmented: light",
    "background": "Augmented: background",
}


def draw_people(seed: int = 0) -> np.ndarray:
    """Four rows of eight people, each in a scene of their own, [H, W, 3] uint8 RGB."""
    numbers = numpy_generator("sheet", seed).choice(1000, ROWS * COLUMNS, replace=False)
    people = [draw_training_shot(int(number)).draw_frame(0, PERSON_PX) for number in numbers]
    step = PERSON_PX + _GAP_PX
    sheet = np.full((ROWS * step - _GAP_PX, COLUMNS * step - _GAP_PX, 3), 255, np.uint8)
    for place, picture in enumerate(people):
        row, column = divmod(place, COLUMNS)
        sheet[row * step :, column * step :][:PERSON_PX, :PERSON_PX] = picture
    return sheet


def draw_pairs(first_seed: int = 40) -> np.ndarray:
    """A row for each kind of pair with a clip, one of three pairs with an image; [H, W, 3] uint8 RGB."""
    step = PAIR_PX + _MARGIN_PX
    places = [_LABEL_PX, *(_LABEL_PX + PAIR_PX + _MARGIN_PX + n * (PAIR_PX + _GAP_PX) for n in range(5))]
    surface = skia.Surface(places[-1] + step, (len(SORTS) + 1) * step + _MARGIN_PX + _HEAD_PX)
    canvas = surface.getCanvas()
    canvas.clear(skia.ColorWHITE)
    _write(canvas, "the photo", places[0], 22, bold=True)
    _write(canvas, "the target: a clip of 9 frames", places[1], 22, bold=True)
    for row, sort in enumerate(SORTS):
        pair, top = draw_pair(first_seed + row, sort, True), _HEAD_PX + row * step
        _write(canvas, _TITLES[sort], _MARGIN_PX, top + 20, bold=True)
        for line, text in enumerate(textwrap.wrap(f"“{pair.caption}”", 24)):
            _write(canvas, text, _MARGIN_PX, top + 46 + 18 * line)
        frames = [pair.target.draw_frame(frame, PAIR_PX) for frame in CLIP_FRAMES]
        for x, picture in zip(places, [pair.draw_reference(), *frames], strict=True):
            _paste(canvas, picture, x, top)
    top = _HEAD_PX + len(SORTS) * step
    _write(canvas, "Images", _MARGIN_PX, top + 20, bold=True)
    for line, text in enumerate(
        ("photo and target, three", "times: single scene,", "multi-scene, augmented")
    ):
        _write(canvas, text, _MARGIN_PX, top + 46 + 18 * line)
    for place, sort in enumerate(("single", "multi-scene", "background")):
        pair = draw_pair(first_seed + 10 + place, sort, False)
        _paste(canvas, pair.draw_reference(), places[0] + 2 * place * (PAIR_PX + _GAP_PX), top)
        target = pair.target.draw_frame(pair.target_frame, PAIR_PX)
        _paste(canvas, target, places[0] + (2 * place + 1) * (PAIR_PX + _GAP_PX), top)
    pixels = surface.makeImageSnapshot().toarray(colorType=skia.kRGBA_8888_ColorType)
    return np.ascontiguousarray(pixels[..., :3])


def _write(canvas: skia.Canvas, text: str, x: float, y: float, *, bold: bool = False) -> None:
    style = skia.FontStyle.Bold() if bold else skia.FontStyle.Normal()
    font = skia.Font(skia.Typeface("DejaVu Sans", style), 14)
    canvas.drawString(text, x, y, font, skia.Paint(Color=skia.Color(*_INK), AntiAlias=True))


def _paste(canvas: skia.Canvas, pixels: np.ndarray, x: float, y: float) -> None:
    """Draw a picture [H, W, 3] at PAIR_PX."""
    rgba = np.dstack([pixels, np.full(pixels.shape[:2], 255, np.uint8)])
    image = skia.Image.fromarray(np.ascontiguousarray(rgba), colorType=skia.kRGBA_8888_ColorType)
    smooth = skia.SamplingOptions(skia.FilterMode.kLinear, skia.MipmapMode.kLinear)
    canvas.drawImageRect(image, skia.Rect.MakeXYWH(x, y, PAIR_PX, PAIR_PX), smooth)


def write_sheets(folder: Path) -> None:
    """Write `world.png` and `pairs.png`."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, pixels in (("world", draw_people()), ("pairs", draw_pairs())):
        skia.Image.fromarray(
            np.dstack([pixels, np.full(pixels.shape[:2], 255, np.uint8)]), colorType=skia.kRGBA_8888_ColorType
        ).save(str(folder / f"{name}.png"), skia.kPNG)


def main() -> None:
    parser = argparse.ArgumentParser(description="Draw people and pairs of the miniature world.")
    parser.add_argument("folder", type=Path)
    write_sheets(parser.parse_args().folder)


if __name__ == "__main__":
    main()
