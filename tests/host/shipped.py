"""What the shipped workflows begin with, and how large a video each gives when its size is set."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from comfy_host import REPO_DIR, ComfyHost
from video import write_video

from lynx_core.evaluation.video_grid import draw_grid

FPS = {"Photo-to-video-lite": 24, "Try-Lynx": 8}
"""Frames per second where they are not 16."""
PICTURES = {"lynx_portrait.jpg", "lynx_motion.mp4", "lynx_distant.mp4"}
DISTANT = "lynx_distant.mp4"
"""What Refine-a-distant-face begins with; it gives a video of that size and length."""
DISTANT_SIZE = (60, 104)
"""Height and width of the small one; of the shipped one's shape, because Load Video is as high as its video needs."""


def upload_short_video(host: ComfyHost, folder: Path, num_frames: int) -> None:
    """Put a small video in the place of the one with a distant face: a face model looks at every frame."""
    noise = np.random.default_rng(0).integers(0, 255, (num_frames, *DISTANT_SIZE, 3), dtype=np.uint8)
    host.upload_image(write_video(folder / DISTANT, noise))


def upload_pictures(host: ComfyHost) -> None:
    for name in PICTURES - {DISTANT}:
        host.upload_image(REPO_DIR / "web" / name)


def expect_shape(name: str, num_frames: int, height: int, width: int) -> tuple[int, ...]:
    """Shape of the frames that a workflow gives."""
    if name == "Refine-a-distant-face":
        return num_frames, *DISTANT_SIZE, 3
    if name == "Compare-strengths":
        video = np.zeros((num_frames, height, width, 3), np.uint8)
        return draw_grid([video] * 9, [""] * 9, 3).shape
    return num_frames, height, width, 3
