"""The places a person can be in."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import skia

from lynx_core.rng import numpy_generator

from .identity import Colour
from .paint import darken, fill, gradient, line
from .scene import BACKGROUNDS

Rng = np.random.Generator


def draw_backdrop(canvas: skia.Canvas, background: int, seed: int, size_px: int) -> None:
    """Fill the picture with a place; `seed` arranges it."""
    canvas.save()
    canvas.scale(size_px, size_px)
    _PLACES[BACKGROUNDS[background]](canvas, numpy_generator("backdrop", seed))
    canvas.restore()


def _sky(canvas: skia.Canvas, top: Colour, bottom: Colour, end: float = 1.0) -> None:
    canvas.drawRect(skia.Rect.MakeWH(1, 1), gradient((0, 0), (0, end), top, bottom))


def _ground(canvas: skia.Canvas, y: float, top: Colour, bottom: Colour) -> None:
    canvas.drawRect(skia.Rect.MakeLTRB(0, y, 1, 1), gradient((0, y), (0, 1), top, bottom))


def _hill(canvas: skia.Canvas, x: float, y: float, width: float, height: float, colour: Colour) -> None:
    canvas.drawOval(skia.Rect.MakeXYWH(x - width / 2, y - height, width, 2 * height), fill(colour))


def _beach(canvas: skia.Canvas, rng: Rng) -> None:
    _sky(canvas, (96, 184, 240), (200, 232, 250), 0.5)
    canvas.drawCircle(rng.uniform(0.08, 0.92), rng.uniform(0.08, 0.2), 0.07, fill((255, 240, 170)))
    sea = rng.uniform(0.38, 0.5)
    _ground(canvas, sea, (24, 118, 180), (80, 190, 200))
    _ground(canvas, rng.uniform(0.66, 0.74), (240, 214, 150), (226, 190, 120))


def _forest(canvas: skia.Canvas, rng: Rng) -> None:
    _sky(canvas, (136, 176, 128), (58, 98, 62))
    for x in np.sort(rng.uniform(0, 1, 9)):
        shade = rng.uniform(0, 0.5)
        canvas.drawRect(
            skia.Rect.MakeXYWH(x, 0, rng.uniform(0.03, 0.07), 1), fill(darken((84, 60, 40), shade))
        )
    for _ in range(14):
        colour = darken((60, 140, 60), rng.uniform(0, 0.5))
        canvas.drawCircle(rng.uniform(0, 1), rng.uniform(-0.05, 0.3), rng.uniform(0.07, 0.14), fill(colour))
    _ground(canvas, 0.8, (50, 92, 44), (34, 62, 34))


def _desert(canvas: skia.Canvas, rng: Rng) -> None:
    _sky(canvas, (250, 170, 90), (255, 226, 170), 0.6)
    _hill(canvas, rng.uniform(0, 0.4), 0.62, 1.1, 0.18, (224, 158, 88))
    _hill(canvas, rng.uniform(0.6, 1), 0.7, 1.2, 0.2, (206, 134, 68))
    _ground(canvas, 0.68, (214, 146, 80), (180, 108, 54))


def _city(canvas: skia.Canvas, rng: Rng) -> None:
    _sky(canvas, (16, 18, 48), (60, 44, 92))
    for x in np.arange(-0.02, 1, 0.14):
        top = rng.uniform(0.12, 0.5)
        canvas.drawRect(skia.Rect.MakeLTRB(x, top, x + 0.125, 1), fill((26, 26, 44)))
        for y in np.arange(top + 0.04, 0.9, 0.07):
            for dx in (0.02, 0.075):
                if rng.uniform() < 0.55:
                    canvas.drawRect(skia.Rect.MakeXYWH(x + dx, y, 0.03, 0.035), fill((255, 214, 110)))


def _room(canvas: skia.Canvas, rng: Rng) -> None:
    _sky(canvas, (214, 196, 178), (188, 164, 146))
    for x in np.arange(rng.uniform(0, 0.1), 1, 0.12):
        canvas.drawRect(skia.Rect.MakeXYWH(x, 0, 0.03, 1), fill((200, 176, 158)))
    x = rng.choice((0.06, 0.7))
    canvas.drawRect(skia.Rect.MakeXYWH(x, 0.08, 0.24, 0.26), fill((110, 70, 44)))
    canvas.drawRect(skia.Rect.MakeXYWH(x + 0.025, 0.105, 0.19, 0.21), fill((150, 200, 214)))
    _ground(canvas, 0.84, (120, 80, 56), (92, 60, 44))


def _snow(canvas: skia.Canvas, rng: Rng) -> None:
    _sky(canvas, (176, 196, 216), (228, 236, 244))
    for x in rng.uniform(0, 1, 4):
        _pine(canvas, x, rng.uniform(0.6, 0.72), rng.uniform(0.2, 0.34))
    _ground(canvas, 0.7, (246, 250, 255), (212, 224, 238))
    for x, y in rng.uniform(0, 1, (26, 2)):
        canvas.drawCircle(x, y, 0.011, fill((255, 255, 255)))


def _pine(canvas: skia.Canvas, x: float, y: float, height: float) -> None:
    path = skia.Path()
    path.addPoly(
        [skia.Point(x, y - height), skia.Point(x + height / 3, y), skia.Point(x - height / 3, y)], True
    )
    canvas.drawPath(path, fill((62, 96, 98)))


def _meadow(canvas: skia.Canvas, rng: Rng) -> None:
    _sky(canvas, (130, 200, 250), (214, 240, 255), 0.5)
    _hill(canvas, rng.uniform(0.2, 0.8), 0.55, 1.4, 0.14, (120, 190, 90))
    _ground(canvas, 0.52, (110, 184, 70), (70, 140, 50))
    for x, y in zip(rng.uniform(0, 1, 40), rng.uniform(0.56, 1, 40), strict=True):
        colours: tuple[Colour, ...] = ((240, 90, 120), (250, 220, 80), (250, 250, 250))
        canvas.drawCircle(x, y, 0.016, fill(colours[rng.integers(3)]))


def _stage(canvas: skia.Canvas, rng: Rng) -> None:
    _sky(canvas, (150, 18, 34), (96, 8, 22))
    for x in np.arange(rng.uniform(-0.05, 0), 1, 0.1):
        fold = gradient((x, 0), (x + 0.1, 0), (176, 28, 44), (90, 6, 18))
        canvas.drawRect(skia.Rect.MakeXYWH(x, 0, 0.1, 1), fold)
    canvas.drawLine(0, 0.06, 1, 0.06, line((220, 180, 80), 0.03))
    _ground(canvas, 0.86, (120, 84, 52), (80, 54, 36))


_PLACES: dict[str, Callable[[skia.Canvas, Rng], None]] = {
    "beach": _beach,
    "forest": _forest,
    "desert": _desert,
    "city": _city,
    "room": _room,
    "snow": _snow,
    "meadow": _meadow,
    "stage": _stage,
}
