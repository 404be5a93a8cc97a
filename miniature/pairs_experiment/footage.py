"""Drawn footage of many people: a folder for each, with a clip and photos in other places, captions beside them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from functools import partial
from pathlib import Path

import numpy as np
import skia

from lynx_core.durable_file import write_durably
from lynx_core.rng import numpy_generator

from ..dataset import write_image, write_once, write_photo
from ..world.backdrop import draw_backdrop
from ..world.clip import FPS, NUM_FRAMES, Shot
from ..world.draws import caption_of, draw_shot
from ..world.identity import draw_identity
from ..world.pairs import find_told_frame
from ..world.scene import ACTIONS, BACKGROUNDS, NUM_ARRANGEMENTS, draw_pose

CLIP_PX, PHOTO_PX = 192, 256
NUM_PHOTOS = 2
FIRST_SEED = 7 * 10**8
"""Of shots that no other part of the miniature draws."""


def write_footage(folder: Path, num_people: int, note: Callable[[str], None]) -> None:
    """Write what is missing: `<person>/clip.mp4` and `<person>/photo<k>.jpg`, each with a .txt beside it."""
    for person in range(num_people):
        shots = draw_shots(person)
        place = folder / f"{person:05d}"
        place.mkdir(parents=True, exist_ok=True)
        write_once(place / "clip.mp4", partial(write_footage_clip, shot=shots[0], seed=person))
        write_durably(place / "clip.txt", caption_of(shots[0], FIRST_SEED + person).encode())
        for number, shot in enumerate(shots[1:]):
            frame = shot.draw_frame(find_told_frame(shot.action), PHOTO_PX)
            write_once(place / f"photo{number}.jpg", partial(write_photo, pixels=frame))
            caption = caption_of(shot, FIRST_SEED + 1000 * number + person)
            write_durably(place / f"photo{number}.txt", caption.encode())
        if person % 100 == 99:
            note(f"footage: {person + 1} of {num_people} people")


def draw_shots(person: int) -> list[Shot]:
    """Shots of a person in different places: that of the clip, then those of the photos."""
    rng = numpy_generator("footage", person)
    identity = draw_identity(person)
    shots: list[Shot] = []
    while len(shots) < 1 + NUM_PHOTOS:
        shot = draw_shot(identity, FIRST_SEED + int(rng.integers(2**28)))
        if shot.scene.background not in {other.scene.background for other in shots}:
            shots.append(shot)
    return shots


def write_footage_clip(path: Path, shot: Shot, seed: int) -> None:
    """An action, then as many frames in which the head goes elsewhere: H.264 as a phone writes it."""
    import av

    rng = numpy_generator("after the action", seed)
    end = shot.pose_at(NUM_FRAMES - 1)
    other = draw_pose(int(rng.integers(2**31)))
    back = replace(end, yaw=other.yaw - 0.6 * end.yaw, smile=other.smile, mouth_open=other.mouth_open)
    action = int(rng.integers(len(ACTIONS)))
    after = replace(shot, pose=back, action=action)
    frames = [*shot.draw_clip(CLIP_PX), *after.draw_clip(CLIP_PX)]
    with av.open(str(path), "w", format="mp4") as file:
        stream = file.add_stream("libx264", rate=Fraction(FPS), options={"crf": "12", "preset": "veryfast"})
        stream.height = stream.width = CLIP_PX
        stream.pix_fmt = "yuv420p"
        stream.codec_context.thread_count = 1
        for frame in frames:
            file.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")))
        file.mux(stream.encode())


def write_backgrounds(folder: Path) -> None:
    """Every place without a person, for background replacement."""
    for background in range(len(BACKGROUNDS)):
        for seed in range(NUM_ARRANGEMENTS):
            surface = skia.Surface(PHOTO_PX, PHOTO_PX)
            draw_backdrop(surface.getCanvas(), background, seed, PHOTO_PX)
            pixels = surface.makeImageSnapshot().toarray(colorType=skia.kRGBA_8888_ColorType)[..., :3]
            path = folder / f"{BACKGROUNDS[background]}{seed}.png"
            write_once(path, partial(write_image, pixels=pixels))
