"""Reads the videos that the host saves."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np


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
