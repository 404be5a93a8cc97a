"""Draws `web/lynx_motion.mp4`, the control video of the workflow lynx_motion: a pose that sways, waves and turns.

python scripts/draw_motion.py
"""

from __future__ import annotations

import math
from fractions import Fraction
from pathlib import Path

import av
from PIL import Image, ImageDraw

PATH = Path(__file__).resolve().parents[1] / "web" / "lynx_motion.mp4"
WIDTH, HEIGHT, NUM_FRAMES, FPS = 832, 480, 81, 16
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


def main() -> None:
    with av.open(str(PATH), "w") as container:
        stream = container.add_stream(
            "libx264", rate=Fraction(FPS), options={"crf": "26", "preset": "veryslow"}
        )
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        for number in range(NUM_FRAMES):
            frame = av.VideoFrame.from_image(draw_pose(pose_at(number / (NUM_FRAMES - 1))))
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


if __name__ == "__main__":
    main()
