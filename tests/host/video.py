"""Reads the videos that the host saves, and lays their frames out as one picture."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
from PIL import Image, ImageOps


@dataclass(frozen=True)
class Video:
    """A decoded video: `frames` [n, height, width, 3] uint8 RGB."""

    frames: np.ndarray
    fps: float


def read_video(path: Path) -> Video:
    """Decode a video file.

    Raises:
        av.FFmpegError: when the file is no video that can be played.
    """
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(stream)]
        return Video(np.stack(frames), float(stream.average_rate or 0))


def draw_contact_sheet(
    video: Video, photo: Image.Image, max_frames: int = 6, height_px: int = 256
) -> Image.Image:
    """The photo, then evenly spread frames from left to right, all of one height."""
    count = min(max_frames, len(video.frames))
    chosen = np.linspace(0, len(video.frames) - 1, count).round().astype(int)
    tiles = [photo.convert("RGB"), *(Image.fromarray(video.frames[index]) for index in chosen)]
    tiles = [ImageOps.contain(tile, (100 * height_px, height_px), Image.Resampling.LANCZOS) for tile in tiles]
    gap = height_px // 16
    sheet = Image.new("RGB", (sum(tile.width + gap for tile in tiles) + gap, height_px + 2 * gap), "white")
    left = gap
    for tile in tiles:
        sheet.paste(tile, (left, gap))
        left += tile.width + gap
    return sheet
