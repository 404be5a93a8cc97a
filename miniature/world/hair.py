"""Hair: what lies behind the head, and what lies on it."""

from __future__ import annotations

import math

import skia

from .head import Head, smooth_path
from .identity import HAIR_COLOURS, HAIR_STYLES
from .paint import darken, fill, lighten, line


def draw_hair_behind(canvas: skia.Canvas, head: Head) -> None:
    """Long hair, curls and a bun, which the face hides in part."""
    colour = HAIR_COLOURS[head.identity.hair_colour]
    unit = head.unit_px
    match HAIR_STYLES[head.identity.hair_style]:
        case "long":
            _draw_curtain(canvas, head, 1.55, 1.22)
        case "bob":
            _draw_curtain(canvas, head, 0.72, 1.28)
        case "curly":
            for angle in range(165, 376, 21):
                x, y = 0.98 * math.cos(math.radians(angle)), 0.95 * math.sin(math.radians(angle)) - 0.1
                canvas.drawCircle(*head.place(x, y, -0.1), 0.36 * unit, fill(darken(colour, 0.12)))
        case "bun":
            canvas.drawCircle(*head.place(0, -1.25, -0.15), 0.34 * unit, fill(darken(colour, 0.15)))


def _draw_curtain(canvas: skia.Canvas, head: Head, end_y: float, width: float) -> None:
    colour = darken(HAIR_COLOURS[head.identity.hair_colour], 0.2)
    half = head.half_width * width
    points = [(-half, 0.0), (-half * 0.9, -0.75), (0.0, -1.18), (half * 0.9, -0.75), (half, 0.0)]
    points += [
        (half * 1.04, end_y),
        (half * 0.5, end_y + 0.06),
        (-half * 0.5, end_y + 0.06),
        (-half * 1.04, end_y),
    ]
    canvas.drawPath(smooth_path([head.place(x, y, -0.2) for x, y in points]), fill(colour))


def draw_hair_front(canvas: skia.Canvas, head: Head) -> None:
    """Hair on the skull and over the forehead's upper end."""
    style = HAIR_STYLES[head.identity.hair_style]
    if style == "bald":
        return
    colour = HAIR_COLOURS[head.identity.hair_colour]
    if style == "mohawk":
        _draw_mohawk(canvas, head)
        return
    line_y, side_y, top = {
        "short": (-0.66, -0.25, 0.12),
        "parted": (-0.60, -0.15, 0.16),
        "long": (-0.66, 0.15, 0.16),
        "curly": (-0.62, -0.2, 0.2),
        "bun": (-0.74, -0.2, 0.08),
        "bob": (-0.50, 0.25, 0.18),
    }[style]
    half = head.half_width + 0.05
    part = 0.3 if style == "parted" else 0.0
    skull = [head.place(half * math.cos(a), (1 + top) * math.sin(a), 0.0) for a in _angles(180, 360, 15)]
    front = [(half, side_y), (0.86 * half, line_y + 0.25), (0.55, line_y + 0.02), (part, line_y - 0.08)]
    front += [
        (-0.55 + part / 2, line_y + (0.12 if part else 0.02)),
        (-0.86 * half, line_y + 0.25),
        (-half, side_y),
    ]
    cap = smooth_path([*skull, *(head.place_on_face(x, y) for x, y in front)])
    canvas.drawPath(cap, fill(colour))
    if style == "curly":
        for angle in _angles(195, 345, 6):
            spot = head.place(0.8 * math.cos(angle), 0.95 * math.sin(angle), 0.3)
            canvas.drawCircle(*spot, 0.2 * head.unit_px, fill(lighten(colour, 0.06)))
    shine = [head.place(0.55 * math.cos(a), 0.98 * math.sin(a), 0.3) for a in _angles(215, 290, 6)]
    shine_path = smooth_path(shine, closed=False)
    canvas.drawPath(shine_path, line(lighten(colour, 0.35), 0.07 * head.unit_px, 0.7))


def _draw_mohawk(canvas: skia.Canvas, head: Head) -> None:
    colour = HAIR_COLOURS[head.identity.hair_colour]
    points = [
        (-0.2, -0.72),
        (-0.26, -1.1),
        (-0.16, -1.5),
        (0.0, -1.6),
        (0.16, -1.5),
        (0.26, -1.1),
        (0.2, -0.72),
    ]
    path = smooth_path([head.place(x, y, 0.3) for x, y in points])
    canvas.drawPath(path, fill(colour))


def draw_beard(canvas: skia.Canvas, head: Head, kind: str) -> None:
    """A beard in the colour of the hair, the brows' when there is none."""
    colour = darken(HAIR_COLOURS[head.identity.hair_colour], 0.15)
    lip_y = 0.42
    if kind in ("moustache", "full"):
        points = [(-0.32, lip_y + 0.1), (-0.16, lip_y - 0.05), (0.16, lip_y - 0.05), (0.32, lip_y + 0.1)]
        points += [(0.0, lip_y + 0.05)]
        canvas.drawPath(head.trace(points, 0.05), fill(colour))
    if kind == "goatee":
        chin = head.chin_y
        points = [(-0.2, 0.72), (0.2, 0.72), (0.22, chin - 0.02), (0.0, chin + 0.12), (-0.22, chin - 0.02)]
        canvas.drawPath(head.trace(points, 0.06), fill(colour))
    if kind == "full":
        outer = [(x, y) for x, y in head.outline(0.05) if y > 0.12]
        inner = [(-0.5, 0.3), (-0.36, 0.66), (0.0, 0.72), (0.36, 0.66), (0.5, 0.3)]
        canvas.drawPath(head.trace([*outer, *inner]), fill(colour))


def _angles(start: int, end: int, count: int) -> list[float]:
    return [math.radians(start + (end - start) * i / (count - 1)) for i in range(count)]
