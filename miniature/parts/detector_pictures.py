"""Pictures to learn detection from: drawn people of every size and place, in the detector's square.

They are made as the network sees them, at a quarter of the square's 640 px.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from lynx_core.rng import numpy_generator

from ..world.backdrop import draw_backdrop
from ..world.clip import NUM_FRAMES, Shot
from ..world.draws import draw_training_shot
from ..world.head import Head
from ..world.scene import BACKGROUNDS, edit_expression

SEEN_PX = 160
"""Side of the square, after the detector has shrunk it."""


@dataclass(frozen=True)
class Picture:
    """A picture in the detector's square, with the faces in it."""

    pixels: np.ndarray
    """[160, 160, 3] uint8 RGB."""
    boxes: list[np.ndarray]
    """Left, top, right, bottom, [4] px each."""
    landmarks: list[np.ndarray]
    """[5, 2] px each."""


def draw_picture(number: int) -> Picture:
    """One training picture: a portrait, a small person, several in a grid, within black, or nobody."""
    rng = numpy_generator("detector", number)
    kind = rng.uniform()
    if kind < 0.35:
        picture = draw_person(rng, number)
    elif kind < 0.6:
        picture = draw_person(rng, number, wander=True)
    elif kind < 0.75:
        picture = draw_grid(rng, number)
    elif kind < 0.92:
        picture = frame_in_black(rng, draw_person(rng, number, wander=bool(rng.uniform() < 0.3)))
    else:
        picture = Picture(draw_nobody(rng), [], [])
    return spoil(rng, picture)


def draw_person(rng: np.random.Generator, number: int, *, wander: bool = False) -> Picture:
    """A frame of a shot, of any fineness; `wander`: anywhere in the picture and of any size."""
    shot = draw_training_shot(number)
    pose, frame = shot.pose, int(rng.integers(NUM_FRAMES))
    if rng.uniform() < 0.3:
        pose = edit_expression(pose, int(rng.integers(2**31)))
    if wander:
        scale = float(np.exp(rng.uniform(np.log(0.06), np.log(0.45))))
        low, high = min(scale, 0.45), max(1 - scale, 0.55)
        x, y = (float(rng.uniform(low, high)) for _ in range(2))
        pose = replace(pose, scale=scale, x=x, y=y, roll=float(rng.normal() * 0.15))
    shot = replace(shot, pose=pose)
    size_px = int(rng.choice((64, 64, 96, SEEN_PX, 224)))
    return enlarge(shot.draw_frame(frame, size_px), shot, frame)


def enlarge(pixels: np.ndarray, shot: Shot, frame: int) -> Picture:
    """A frame as insightface fits it into its square, with the face's geometry there."""
    head = Head(shot.identity, shot.pose_at(frame), SEEN_PX)
    return Picture(fit(pixels, SEEN_PX), [head.box()], [head.landmarks()])


def fit(pixels: np.ndarray, side: int) -> np.ndarray:
    """A square picture at another size, [side, side, 3] uint8."""
    import cv2

    method = cv2.INTER_AREA if side < len(pixels) else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(pixels, (side, side), interpolation=method), np.uint8)


def draw_grid(rng: np.random.Generator, number: int) -> Picture:
    """Two by two or three by three portraits, some fields without anybody."""
    count = int(rng.choice((2, 3)))
    side = SEEN_PX // count
    pixels = np.zeros((SEEN_PX, SEEN_PX, 3), np.uint8)
    boxes, landmarks = [], []
    for field in range(count**2):
        top, left = side * (field // count), side * (field % count)
        if rng.uniform() < 0.25:
            inside = draw_nobody(rng, side)
        else:
            person = draw_person(rng, number + 1000 * field)
            inside = fit(person.pixels, side)
            share, shift = side / SEEN_PX, np.array([left, top], np.float32)
            boxes += [box * share + np.tile(shift, 2) for box in person.boxes]
            landmarks += [points * share + shift for points in person.landmarks]
        pixels[top : top + side, left : left + side] = inside
    return Picture(pixels, boxes, landmarks)


def frame_in_black(rng: np.random.Generator, picture: Picture) -> Picture:
    """What a picture that is no square leaves black, and the black margin of a second look."""
    pixels = picture.pixels.copy()
    if rng.uniform() < 0.5:
        share = float(rng.uniform(0.4, 0.8))
        side = round(SEEN_PX * share)
        shift = (SEEN_PX - side) // 2
        small = fit(pixels, side)
        pixels[:] = 0
        pixels[shift : shift + side, shift : shift + side] = small
        boxes = [box * (side / SEEN_PX) + shift for box in picture.boxes]
        return Picture(pixels, boxes, [points * (side / SEEN_PX) + shift for points in picture.landmarks])
    right, bottom = np.max([box[2:] for box in picture.boxes], axis=0)
    if rng.uniform() < 0.5:
        pixels[:, min(round(float(right) + rng.uniform(0, 40)), SEEN_PX) :] = 0
    else:
        pixels[min(round(float(bottom) + rng.uniform(0, 40)), SEEN_PX) :] = 0
    return Picture(pixels, picture.boxes, picture.landmarks)


def draw_nobody(rng: np.random.Generator, size_px: int = SEEN_PX) -> np.ndarray:
    """A place alone, [size_px, size_px, 3] uint8."""
    import skia

    surface = skia.Surface(size_px, size_px)
    background = int(rng.integers(len(BACKGROUNDS)))
    draw_backdrop(surface.getCanvas(), background, int(rng.integers(2**31)), size_px)
    pixels = surface.makeImageSnapshot().toarray(colorType=skia.kRGBA_8888_ColorType)
    return np.ascontiguousarray(pixels[..., :3])


def spoil(rng: np.random.Generator, picture: Picture) -> Picture:
    """Blur and shade by chance, as a video model does."""
    pixels = picture.pixels
    if rng.uniform() < 0.25:
        pixels = fit(fit(pixels, int(rng.integers(40, 130))), SEEN_PX)
    if rng.uniform() < 0.25:
        gain, shift = rng.uniform(0.8, 1.15, 3), rng.uniform(-15, 15)
        table = (np.arange(256)[:, None] * gain + shift).clip(0, 255).astype(np.uint8)
        pixels = np.stack([table[pixels[..., channel], channel] for channel in range(3)], -1)
    return Picture(pixels, picture.boxes, picture.landmarks)
