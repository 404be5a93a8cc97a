"""Draws the videos that two workflows begin with, which come with the pack under `web`.

`lynx_motion.mp4`: a pose that sways, waves and turns. `lynx_distant.mp4`: the shipped portrait, small in the picture,
as seen by a moving camera.

    python scripts/draw_motion.py
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
from PIL import Image, ImageDraw, ImageFilter

WEB_DIR = Path(__file__).resolve().parents[1] / "web"
WIDTH, HEIGHT, FPS = 832, 480, 16
MOTION_FRAMES, DISTANT_FRAMES = 81, 17
PORTRAIT_PX = 190
"""The face in it is about 50 px high."""
Point = tuple[float, float]

BONES = (
    ("neck", "right_shoulder", (153, 0, 0)),
    ("right_shoulder", "right_elbow", (153, 102, 0)),
    ("right_elbow", "right_wrist", (153, 153, 0)),
    ("neck", "left_shoulder", (153, 51, 0)),
    ("left_shoulder", "left_elbow", (102, 153, 0)),
    ("left_elbow", "left_wrist", (51, 153, 0)),
    ("neck", "right_hip", (0, 153, 0)),
    ("neck", "left_hip", (0, 153, 153)),
    ("right_hip", "right_knee", (0, 153, 51)),
    ("left_hip", "left_knee", (0, 102, 153)),
    ("neck", "nose", (0, 0, 153)),
    ("nose", "right_eye", (51, 0, 153)),
    ("right_eye", "right_ear", (102, 0, 153)),
    ("nose", "left_eye", (153, 0, 153)),
    ("left_eye", "left_ear", (153, 0, 102)),
)
"""Bones and their colours as OpenPose draws them."""


def pose_at(share: float) -> dict[str, Point]:
    """Where the joints are, px, at a share of the video."""
    sway = 14 * math.sin(2 * math.pi * share)
    turn = math.sin(2 * math.pi * share)
    wave = math.sin(8 * math.pi * share) * min(1.0, 4 * share, 4 * (1 - share))
    raised = min(1.0, 3 * share, 3 * (1 - share))
    x, y = 416 + sway, 222.0
    left_elbow = (x + 108 + 14 * raised, y + 105 - 75 * raised)
    return {
        "neck": (x, y),
        "right_shoulder": (x - 78, y + 6),
        "right_elbow": (x - 104, y + 108),
        "right_wrist": (x - 86 + sway, y + 196),
        "left_shoulder": (x + 78, y + 6),
        "left_elbow": left_elbow,
        "left_wrist": (left_elbow[0] - 8 + 34 * wave, left_elbow[1] + 92 - 184 * raised),
        "right_hip": (x - 46 - sway / 2, y + 190),
        "left_hip": (x + 46 - sway / 2, y + 190),
        "right_knee": (x - 52 - sway, y + 330),
        "left_knee": (x + 52 - sway, y + 330),
        "nose": (x + 26 * turn, y - 86),
        "right_eye": (x - 19 + 24 * turn, y - 104),
        "left_eye": (x + 19 + 24 * turn, y - 104),
        "right_ear": (x - 44 + 8 * turn, y - 96),
        "left_ear": (x + 44 + 8 * turn, y - 96),
    }


def draw_pose(pose: dict[str, Point]) -> Image.Image:
    picture = Image.new("RGB", (WIDTH, HEIGHT), "black")
    draw = ImageDraw.Draw(picture)
    for start, end, colour in BONES:
        draw.line((pose[start], pose[end]), fill=colour, width=8)
    for start, _, colour in BONES:
        x, y = pose[start]
        bright = tuple(round(part * 5 / 3) for part in colour)
        draw.ellipse((x - 5, y - 5, x + 5, y + 5), fill=bright)
    return picture


def draw_distance(portrait: Image.Image, share: float) -> Image.Image:
    """The portrait in front of its own background, blurred."""
    wide = portrait.resize((WIDTH, WIDTH)).crop((0, 120, WIDTH, 120 + HEIGHT))
    picture = wide.filter(ImageFilter.GaussianBlur(24))
    x = WIDTH / 2 - PORTRAIT_PX / 2 + 60 * math.sin(2 * math.pi * share)
    y = HEIGHT / 2 - PORTRAIT_PX / 2 + 12 * math.sin(4 * math.pi * share)
    side = round(PORTRAIT_PX * (1 + 0.08 * math.sin(2 * math.pi * share)))
    picture.paste(portrait.resize((side, side), Image.Resampling.LANCZOS), (round(x), round(y)))
    return picture


def write_video(path: Path, frames: Sequence[Image.Image]) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream(
            "libx264", rate=Fraction(FPS), options={"crf": "26", "preset": "veryslow"}
        )
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_image(frame)))
        container.mux(stream.encode())


def main() -> None:
    moments = [number / (MOTION_FRAMES - 1) for number in range(MOTION_FRAMES)]
    write_video(WEB_DIR / "lynx_motion.mp4", [draw_pose(pose_at(share)) for share in moments])
    with Image.open(WEB_DIR / "lynx_portrait.jpg") as portrait:
        moments = [number / (DISTANT_FRAMES - 1) for number in range(DISTANT_FRAMES)]
        write_video(WEB_DIR / "lynx_distant.mp4", [draw_distance(portrait, share) for share in moments])


if __name__ == "__main__":
    main()
