"""Drawn people as photos and clips, and the configuration that curates them with Mini Lynx's own networks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from lynx_core.curate.configuration import CurationConfig
from lynx_core.training.configuration_file import parse_settings
from miniature.world.clip import Shot
from miniature.world.draws import draw_shot
from miniature.world.identity import draw_identity
from miniature.world.scene import ACTIONS

MINI = Path(__file__).resolve().parents[2] / "assets" / "mini"
PX = 160
FPS = 8
FIRST_PERSON = 1_000_000
"""People that no network has seen."""


def draw(person: int, seed: int, background: int, action: str = "stay still") -> Shot:
    """A shot of a person in a place."""
    shot = draw_shot(draw_identity(FIRST_PERSON + person), 1000 * person + seed)
    scene = replace(shot.scene, background=background, light=0)
    return replace(shot, scene=scene, action=ACTIONS.index(action))


def write_photo(path: Path, shot: Shot, px: int = PX, caption: str = "A person stands there.") -> Path:
    """A photo, PNG or JPEG, with its caption beside it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(shot.draw_frame(0, px)).save(path)
    return write_caption(path, caption)


def write_caption(path: Path, caption: str) -> Path:
    if caption:
        path.with_suffix(".txt").write_text(caption, encoding="utf-8")
    return path


def write_clip(
    path: Path, frames: Sequence[np.ndarray], caption: str = "A person moves.", rotation: int = 0
) -> Path:
    """A clip at 8 frames a second; `rotation` stands in its display matrix, as phones write it."""
    import av

    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=FPS, options={"crf": "15", "preset": "ultrafast"})
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = "yuv420p"
        if rotation:
            stream.set_display_rotation(rotation)
        for frame in frames:
            for packet in stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), "rgb24")):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)
    return write_caption(path, caption)


def draw_frames(shot: Shot, count: int = 24, px: int = PX) -> list[np.ndarray]:
    """The frames of an action."""
    return [shot.draw_frame(number, px, count) for number in range(count)]


def put_side_by_side(*shots: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Several people in one clip."""
    return [np.concatenate(frames, 1) for frames in zip(*shots, strict=True)]


def write_drawn_footage(folder: Path) -> None:
    """Five people; and what is no photo, no clip, no face.

    | person | photos | clips |
    |---|---|---|
    | 0 | beach, room, the room again as JPEG | turning in the city |
    | 1 | forest, snow | two shots in one file: nodding in a meadow, turning on a stage |
    | 2 | desert | with person 1 beside, in a room |
    | 3 | snow | |
    | 4 | | turning on a beach, four seconds |
    """
    write_photo(folder / "a" / "beach.png", draw(0, 1, 0))
    room = draw(0, 2, 4)
    write_photo(folder / "a" / "room.png", room)
    small = Image.fromarray(room.draw_frame(0, PX)).resize((144, 144))
    small.save(folder / "a" / "room small.jpg", quality=90)
    write_caption(folder / "a" / "room small.jpg", "A person in a room.")
    write_clip(folder / "a" / "city.mp4", draw_frames(draw(0, 3, 3, "turn left")))
    write_photo(folder / "b" / "forest.png", draw(1, 1, 1))
    write_photo(folder / "b" / "snow.png", draw(1, 2, 5))
    cut = draw_frames(draw(1, 3, 6, "nod"), 20) + draw_frames(draw(1, 4, 7, "turn right"), 20)
    write_clip(folder / "b" / "two shots.mp4", cut)
    write_photo(folder / "c" / "desert.png", draw(2, 1, 2))
    beside = put_side_by_side(draw_frames(draw(2, 2, 4, "smile")), draw_frames(draw(1, 5, 4, "turn left")))
    write_clip(folder / "c" / "both.mp4", beside)
    write_photo(folder / "d" / "alone.png", draw(3, 1, 5))
    write_clip(folder / "e" / "long.mp4", draw_frames(draw(4, 1, 0, "turn left"), 32))
    (folder / "d" / "broken.jpg").write_bytes((folder / "d" / "alone.png").read_bytes()[:900])
    Image.fromarray(np.full((PX, PX, 3), 90, np.uint8)).save(folder / "d" / "empty.png")
    (folder / "d" / "notes.pdf").write_bytes(b"%PDF")
    backgrounds = folder.with_name("backgrounds")
    backgrounds.mkdir()
    rng = np.random.default_rng(0)
    for number in range(2):
        blocks = rng.integers(0, 256, (8, 8, 3), np.uint8)
        Image.fromarray(blocks).resize((128, 128), Image.Resampling.BICUBIC).save(
            backgrounds / f"{number}.png"
        )


def make_config(footage: Path, output: Path, *, augmented: bool = False, **sections: Any) -> CurationConfig:
    """The configuration of a drawn folder; `sections` replace those of the same name."""
    values: dict[str, Any] = {
        "output": str(output),
        "sources": [{"path": str(footage), "consent": "drawn", "licence": "Apache-2.0"}],
        "faces": {
            "detector_models": str(MINI / "insightface"),
            "pack": "lynx_mini",
            "recogniser": str(MINI / "lynx" / "faces" / "lynx_mini_arcface.safetensors"),
        },
        "identity": {"threshold": 0.6},
        "quality": {"min_face_px": 60},
        "targets": {"min_s": 1.0, "max_s": 1.5},
        "splits": {"heldout_share": 0.3},
    }
    if augmented:
        folder = str(footage.with_name("backgrounds"))
        values["augmenters"] = [{"name": "background", "options": {"folder": folder}, "share": 0.5}]
    return parse_settings(CurationConfig, values | sections)
