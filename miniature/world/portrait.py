"""A picture of a person: backdrop, shoulders, head, light."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import skia

from lynx_core.rng import numpy_generator

from .backdrop import draw_backdrop
from .hair import draw_beard, draw_hair_behind, draw_hair_front
from .head import EYE_Y, MOUTH_Y, NOSE_Y, Head, smooth_path
from .identity import (
    BEARDS,
    EYE_COLOURS,
    GLASSES,
    GLASSES_COLOURS,
    HAIR_COLOURS,
    MARK_COLOURS,
    MARK_PLACES,
    Colour,
    Identity,
    skin_colour,
)
from .paint import BLACK, WHITE, darken, fill, gradient, lighten, line
from .scene import CLOTHES_COLOURS, LIGHTS, Pose, Scene

MARK_SPOTS: dict[str, tuple[float, float]] = {
    "left cheek": (-0.43, 0.24),
    "right cheek": (0.43, 0.24),
    "forehead": (0.0, -0.46),
}
MARK_RADIUS = 0.15
_LIGHT_COLOURS: dict[str, Colour] = {"plain": WHITE, "warm": (255, 226, 178), "cold": (190, 214, 255)}


class Sitter(NamedTuple):
    """A person in the picture."""

    identity: Identity
    pose: Pose
    clothes_colour: int


def draw_portrait(identity: Identity, scene: Scene, pose: Pose, size_px: int) -> np.ndarray:
    """Draw one person in a square picture, [size_px, size_px, 3] uint8 RGB."""
    return draw_people([Sitter(identity, pose, scene.clothes_colour)], scene, size_px)


def draw_people(sitters: Sequence[Sitter], scene: Scene, size_px: int) -> np.ndarray:
    """Draw people side by side, each in a square of their own: [size_px, people * size_px, 3] uint8 RGB."""
    width_px = len(sitters) * size_px
    surface = skia.Surface(width_px, size_px)
    canvas = surface.getCanvas()
    canvas.save()
    canvas.scale(len(sitters), 1)
    draw_backdrop(canvas, scene.background, scene.background_seed, size_px)
    canvas.restore()
    for place, sitter in enumerate(sitters):
        canvas.save()
        canvas.translate(place * size_px, 0)
        _draw_person(canvas, sitter, size_px)
        canvas.restore()
    _shine_light(canvas, scene, width_px, size_px)
    pixels = surface.makeImageSnapshot().toarray(colorType=skia.kRGBA_8888_ColorType)
    return np.ascontiguousarray(pixels[..., :3])


def _draw_person(canvas: skia.Canvas, sitter: Sitter, size_px: int) -> None:
    identity = sitter.identity
    head = Head(identity, sitter.pose, size_px)
    draw_hair_behind(canvas, head)
    _draw_shoulders(canvas, head, CLOTHES_COLOURS[sitter.clothes_colour])
    _draw_face(canvas, head)
    _draw_mark(canvas, head)
    _draw_eyes(canvas, head)
    _draw_nose(canvas, head)
    draw_beard(canvas, head, BEARDS[identity.beard])
    _draw_mouth(canvas, head)
    draw_hair_front(canvas, head)
    _draw_glasses(canvas, head)


def _draw_shoulders(canvas: skia.Canvas, head: Head, colour: Colour) -> None:
    size, unit = head.size_px, head.unit_px
    x, y = head.pose.x * size, head.pose.y * size
    skin = skin_colour(head.identity)
    canvas.drawRect(
        skia.Rect.MakeLTRB(x - 0.34 * unit, y, x + 0.34 * unit, y + 1.5 * unit), fill(darken(skin, 0.18))
    )
    body = skia.Rect.MakeLTRB(x - 1.35 * unit, y + 1.22 * unit, x + 1.35 * unit, y + 3.4 * unit)
    canvas.drawRoundRect(body, 0.7 * unit, 0.6 * unit, fill(colour))
    collar = skia.Rect.MakeLTRB(x - 0.42 * unit, y + 1.02 * unit, x + 0.42 * unit, y + 1.5 * unit)
    canvas.drawOval(collar, fill(darken(skin, 0.18)))


def _draw_face(canvas: skia.Canvas, head: Head) -> None:
    skin = skin_colour(head.identity)
    for side in (-1, 1):
        ear = head.place(side * (head.half_width + 0.02), 0.02, -0.1)
        canvas.drawCircle(*ear, 0.17 * head.unit_px, fill(darken(skin, 0.1)))
    outline = _outline_path(head)
    left, right = head.place(-head.half_width, 0, 0), head.place(head.half_width, 0, 0)
    canvas.drawPath(outline, gradient(left, right, lighten(skin, 0.06), darken(skin, 0.1)))
    blush = (226, 96, 84)
    for side in (-1, 1):
        canvas.drawCircle(
            *head.place_on_face(side * 0.45, 0.3), 0.16 * head.unit_px, fill(blush, 0.18, 0.08 * head.unit_px)
        )
    if head.identity.freckles:
        rng = numpy_generator("freckles", round(1000 * head.identity.freckles))
        for _ in range(round(8 + 16 * head.identity.freckles)):
            x, y = rng.choice((-1, 1)) * rng.uniform(0.08, 0.55), rng.uniform(0.02, 0.36)
            canvas.drawCircle(*head.place_on_face(x, y), 0.032 * head.unit_px, fill(darken(skin, 0.42)))


def _outline_path(head: Head) -> skia.Path:
    """The edge of the face in px."""
    return smooth_path([head.place(x, y, 0.0) for x, y in head.outline()])


def _draw_mark(canvas: skia.Canvas, head: Head) -> None:
    """A painted spot: the one thing the conditioning recogniser is blind to."""
    x, y = MARK_SPOTS[MARK_PLACES[head.identity.mark_place]]
    spot, radius = head.place_on_face(x, y), MARK_RADIUS * head.unit_px
    colour = MARK_COLOURS[head.identity.mark_colour]
    canvas.drawCircle(*spot, radius, fill(colour))
    canvas.drawCircle(*spot, radius, line(darken(colour, 0.35), 0.035 * head.unit_px))


def _draw_eyes(canvas: skia.Canvas, head: Head) -> None:
    identity, unit = head.identity, head.unit_px
    colour = EYE_COLOURS[identity.eye_colour]
    width, height = 0.13 + 0.06 * identity.eye_size, 0.08 + 0.06 * identity.eye_size
    brow = darken(HAIR_COLOURS[identity.hair_colour], 0.25)
    for side in (-1, 1):
        x = side * head.eye_x
        white = [(x - width, EYE_Y), (x - width / 2, EYE_Y - height), (x + width / 2, EYE_Y - height)]
        white += [(x + width, EYE_Y), (x + width / 2, EYE_Y + height), (x - width / 2, EYE_Y + height)]
        eye = head.trace(white)
        canvas.drawPath(eye, fill(WHITE))
        canvas.save()
        canvas.clipPath(eye, True)
        iris = head.place_on_face(x + 0.06 * head.pose.yaw, EYE_Y)
        canvas.drawCircle(*iris, 0.085 * unit, fill(colour))
        canvas.drawCircle(*iris, 0.042 * unit, fill(BLACK))
        canvas.restore()
        canvas.drawPath(head.trace(white[:4], closed=False), line((40, 28, 28), 0.045 * unit))
        inner, outer = x - side * 0.16, x + side * 0.2
        slope = 0.16 * (identity.brow_slope - 0.5)
        y = EYE_Y - 0.22 - 0.04 * max(head.pose.smile, 0)
        points = [(inner, y + slope), ((inner + outer) / 2, y - 0.06), (outer, y - slope + 0.03)]
        thickness = (0.05 + 0.09 * identity.brow_thickness) * unit
        canvas.drawPath(head.trace(points, closed=False), line(brow, thickness))


def _draw_nose(canvas: skia.Canvas, head: Head) -> None:
    identity = head.identity
    skin = skin_colour(identity)
    half, end = 0.09 + 0.1 * identity.nose_width, NOSE_Y + 0.12 * (identity.nose_length - 0.5)
    shade = [head.place_on_face(0.0, -0.05, 0.03), head.place_on_face(half, end, 0.1)]
    shade += [head.place_on_face(0.0, end + 0.08, 0.14), head.place_on_face(-half, end, 0.1)]
    path = skia.Path()
    path.addPoly([skia.Point(*point) for point in shade], True)
    canvas.drawPath(path, fill(darken(skin, 0.14)))
    canvas.drawCircle(
        *head.place_on_face(0.0, end, 0.14), half * 0.75 * head.unit_px, fill(lighten(skin, 0.1))
    )
    tip = [(-half, end + 0.02), (0.0, end + 0.1), (half, end + 0.02)]
    canvas.drawPath(head.trace(tip, 0.1, closed=False), line(darken(skin, 0.38), 0.04 * head.unit_px))


def _draw_mouth(canvas: skia.Canvas, head: Head) -> None:
    pose, unit = head.pose, head.unit_px
    half, rise = head.mouth_half_width, 0.14 * pose.smile
    corners = MOUTH_Y - rise / 2
    opening, fullness = 0.2 * pose.mouth_open, 0.035 + 0.05 * head.identity.lips
    lips = (176, 70, 74) if head.identity.skin < 0.6 else (132, 52, 56)
    lower = [(-half, corners), (0.0, MOUTH_Y + rise + opening), (half, corners)]
    upper = [(half * 0.5, MOUTH_Y + rise * 0.4 - fullness), (-half * 0.5, MOUTH_Y + rise * 0.4 - fullness)]
    shape = head.trace([*lower, *upper], 0.05)
    if pose.mouth_open > 0.15:
        canvas.drawPath(shape, fill((96, 24, 32)))
        teeth = [(-half * 0.7, corners), (0.0, MOUTH_Y + rise + 0.3 * opening), (half * 0.7, corners), *upper]
        canvas.drawPath(head.trace(teeth, 0.05), fill((250, 246, 238)))
    canvas.drawPath(shape, line(lips, fullness * 1.6 * unit))


def _draw_glasses(canvas: skia.Canvas, head: Head) -> None:
    kind = GLASSES[head.identity.glasses]
    if kind == "none":
        return
    frame = line(GLASSES_COLOURS[head.identity.glasses_colour], 0.06 * head.unit_px)
    glass = fill((200, 226, 255), 0.22)
    for side in (-1, 1):
        x, half = side * head.eye_x, 0.24
        corner = 0.24 if kind == "round" else 0.21
        ring = [(x - half, EYE_Y), (x - corner * 0.72, EYE_Y - corner * 0.72), (x, EYE_Y - half)]
        ring += [(x + corner * 0.72, EYE_Y - corner * 0.72), (x + half, EYE_Y)]
        ring += [
            (x + corner * 0.72, EYE_Y + corner * 0.72),
            (x, EYE_Y + half),
            (x - corner * 0.72, EYE_Y + corner * 0.72),
        ]
        if kind == "square":
            ring = [
                (x - half, EYE_Y - 0.18),
                (x + half, EYE_Y - 0.18),
                (x + half, EYE_Y + 0.2),
                (x - half, EYE_Y + 0.2),
            ]
            path = skia.Path()
            path.addPoly([skia.Point(*head.place_on_face(px, py, 0.1)) for px, py in ring], True)
        else:
            path = head.trace(ring, 0.1)
        canvas.drawPath(path, glass)
        canvas.drawPath(path, frame)
        hinge = head.place_on_face(x + side * half, EYE_Y - 0.05, 0.1)
        canvas.drawLine(*hinge, *head.place(side * (head.half_width + 0.02), EYE_Y - 0.05, 0.0), frame)
    bridge = [head.place_on_face(s * (head.eye_x - 0.24), EYE_Y - 0.04, 0.1) for s in (-1, 1)]
    canvas.drawLine(*bridge[0], *bridge[1], frame)


def _shine_light(canvas: skia.Canvas, scene: Scene, width_px: int, height_px: int) -> None:
    light = _LIGHT_COLOURS[LIGHTS[scene.light]]
    frame = skia.Rect.MakeWH(width_px, height_px)
    tint = fill(light)
    tint.setBlendMode(skia.BlendMode.kMultiply)
    canvas.drawRect(frame, tint)
    bright, dark = ((0.0, 0.0), (float(width_px), 0.0))[:: 1 if scene.light_side < 0 else -1]
    shade = gradient(bright, dark, WHITE, darken(WHITE, 0.35 * abs(scene.light_side)))
    shade.setBlendMode(skia.BlendMode.kMultiply)
    canvas.drawRect(frame, shade)
