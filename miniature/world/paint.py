"""Skia's paints in few words."""

from __future__ import annotations

import skia

from .identity import Colour, mix_colours

BLACK: Colour = (0, 0, 0)
WHITE: Colour = (255, 255, 255)


def fill(colour: Colour, alpha: float = 1.0, blur_px: float = 0.0) -> skia.Paint:
    """Fill a shape."""
    paint = skia.Paint(Color=_colour(colour, alpha), AntiAlias=True)
    return _blurred(paint, blur_px)


def line(colour: Colour, width_px: float, alpha: float = 1.0) -> skia.Paint:
    """Draw a line with round ends."""
    return skia.Paint(
        Color=_colour(colour, alpha),
        AntiAlias=True,
        Style=skia.Paint.kStroke_Style,
        StrokeWidth=width_px,
        StrokeCap=skia.Paint.kRound_Cap,
        StrokeJoin=skia.Paint.kRound_Join,
    )


def gradient(
    start: tuple[float, float], end: tuple[float, float], first: Colour, second: Colour, alpha: float = 1.0
) -> skia.Paint:
    """Fill a shape from one colour at `start` to another at `end`, both in px."""
    shader = skia.GradientShader.MakeLinear(
        points=[start, end], colors=[_colour(first, alpha), _colour(second, alpha)]
    )
    return skia.Paint(Shader=shader, AntiAlias=True)


def darken(colour: Colour, share: float) -> Colour:
    return mix_colours(colour, BLACK, share)


def lighten(colour: Colour, share: float) -> Colour:
    return mix_colours(colour, WHITE, share)


def _colour(colour: Colour, alpha: float) -> int:
    return skia.Color(*colour, round(255 * alpha))


def _blurred(paint: skia.Paint, blur_px: float) -> skia.Paint:
    if blur_px:
        paint.setMaskFilter(skia.MaskFilter.MakeBlur(skia.kNormal_BlurStyle, blur_px))
    return paint
