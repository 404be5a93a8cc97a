"""Frames of a finished video, whatever made it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..data.errors import MediaError
from ..data.media.video_file import VideoInfo, probe_video, read_frames
from ..spec import first_line
from .errors import EvaluationError


class VideoError(EvaluationError):
    """A video that cannot be scored; becomes an error in the ledger."""


@dataclass(frozen=True, eq=False)
class Video:
    """A decoded video."""

    frames: np.ndarray
    """[T, H, W, 3] uint8 RGB."""
    fps: float
    """Mean over the video; 1 for a single frame."""

    @property
    def duration_s(self) -> float:
        return len(self.frames) / self.fps


def read_video(path: Path) -> Video:
    """Decode a whole video.

    Raises:
        VideoError: when it is missing, empty, cut short or no video.
    """
    try:
        info = _probe(path)
        frames = np.stack([frame for _, frame in read_frames(path, info.pts, info.width_px, info.height_px)])
    except OSError as error:
        raise VideoError(f"{path} cannot be read: {error.strerror or error}") from error
    except MediaError as error:
        raise VideoError(first_line(error)) from error
    return Video(frames, info.fps or 1.0)


def count_frames(path: Path) -> int:
    """Frames of a video that decodes from start to end.

    Raises:
        VideoError: when it does not.
    """
    try:
        return _probe(path).num_frames
    except (MediaError, OSError) as error:
        raise VideoError(first_line(error)) from error


def _probe(path: Path) -> VideoInfo:
    if path.stat().st_size == 0:
        raise VideoError(f"{path} is empty (0 bytes)")
    return probe_video(path)
