"""Reads the videos that the host saves, and writes small ones for it."""

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


def write_video(path: Path, frames: np.ndarray, fps: int = 16) -> Path:
    """Write frames [n, height, width, 3] uint8 RGB as an mp4."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=fps)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    return path
