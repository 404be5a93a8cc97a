"""Video files through PyAV: what is in one, and chosen frames of it.

A probe reads all packets but decodes only the first frame, so that the number of frames and the time
of each are known exactly, not as the header claims. Frames are then asked for by their timestamps,
from the keyframe before the first; one that the decoder does not give back whole is an error, because
a plan of packs rests on these numbers.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .errors import DataError, MediaError, first_line


@dataclass(frozen=True, eq=False)
class VideoInfo:
    """What a probe found."""

    width_px: int
    height_px: int
    """As displayed: upright, with square pixels."""
    pts: np.ndarray
    """Timestamps of the frames in the order of display, [frames] int64, units of the stream."""
    times: np.ndarray
    """The same in seconds from the first frame, [frames] float64."""
    duration_s: float
    """Until the last frame has been shown."""

    @property
    def num_frames(self) -> int:
        return len(self.pts)


def probe_video(path: Path) -> VideoInfo:
    """Size, and time of every frame.

    Raises:
        MediaError: for a file that does not open, has no video, no frame or no timestamps, or whose
            first frame does not decode.
    """
    with _open_video(path) as (container, stream):
        # Packets without bytes only flush; those marked for discard are outside an edit list.
        pts = [p.pts for p in container.demux(stream) if p.size and not p.is_discard]
        if not pts:
            raise MediaError(path, "no frames", "its video stream has length zero")
        if any(value is None for value in pts):
            raise MediaError(
                path, "no timestamps", "its frames carry none; remux it: ffmpeg -i in -c copy out.mp4"
            )
        time_base = float(stream.time_base)
        rate = float(stream.average_rate or stream.guessed_rate or 0)
        pixel_aspect = float(stream.sample_aspect_ratio or 1)
    stamps = np.unique(np.array(pts, dtype=np.int64))
    first = next(_decode(path, int(stamps[0])), None)
    if first is None:
        raise MediaError(path, "does not decode", "not even its first frame")
    width_px, height_px = _displayed_size(first, pixel_aspect)
    times = (stamps - stamps[0]) * time_base
    steps_s = np.diff(times) if len(times) > 1 else np.array([1 / rate if rate > 0 else 0.0])
    return VideoInfo(width_px, height_px, stamps, times, float(times[-1] + np.median(steps_s)))


def read_frames(
    path: Path, pts: np.ndarray, width_px: int, height_px: int
) -> Iterator[tuple[int, np.ndarray]]:
    """Frames by timestamp, scaled to fit: (timestamp, [height, width, 3] uint8 RGB), in order.

    Args:
        path: the video.
        pts: timestamps as `VideoInfo.pts`, rising.
        width_px, height_px: of the scaled frames, upright.

    Raises:
        MediaError: when one of the frames does not come, or comes damaged.
    """
    wanted = iter(pts.tolist())
    target = next(wanted, None)
    if target is None:
        return
    for frame in _decode(path, target):
        if frame.pts is None or frame.pts < target:
            continue
        if frame.pts > target:
            break
        if frame.is_corrupt:
            raise MediaError(path, "damaged", f"the frame at {frame.time:.2f} s is corrupt")
        yield target, _upright_pixels(frame, width_px, height_px)
        target = next(wanted, None)
        if target is None:
            return
    raise MediaError(path, "damaged", f"the frame with timestamp {target} does not decode")


def _decode(path: Path, first_pts: int) -> Iterator[Any]:
    """Frames from `first_pts` or before it, to the end."""
    for seeks in (True, False):
        with _open_video(path) as (container, stream):
            stream.codec_context.thread_type = "AUTO"
            if seeks:
                container.seek(first_pts, stream=stream, backward=True)
            frames = container.decode(stream)
            first = next(frames, None)
            # Some containers (MPEG-TS) seek past the frame; then the file is read from its start.
            if seeks and (first is None or first.pts is None or first.pts > first_pts):
                continue
            if first is not None:
                yield first
                yield from frames
            return


@contextmanager
def _open_video(path: Path) -> Iterator[tuple[Any, Any]]:
    try:
        import av
    except ImportError as error:
        raise DataError("videos need the package av (PyAV): python -m pip install av") from error
    try:
        with av.open(str(path), metadata_errors="replace") as container:
            if not container.streams.video:
                raise MediaError(path, "no video", "it has no video stream")
            stream = container.streams.video[0]
            if stream.codec_context is None:
                raise MediaError(path, "does not decode", "its codec is not known to FFmpeg")
            yield container, stream
    except (av.FFmpegError, OSError) as error:
        raise MediaError(path, "does not decode", first_line(error)) from error


def _displayed_size(frame: Any, pixel_aspect: float) -> tuple[int, int]:
    width, height = max(round(frame.width * pixel_aspect), 1), frame.height
    return (height, width) if _quarter_turns(frame) % 2 else (width, height)


def _quarter_turns(frame: Any) -> int:
    """Counter-clockwise, as phones note them beside the pixels."""
    return round(frame.rotation / 90) % 4


def _upright_pixels(frame: Any, width_px: int, height_px: int) -> np.ndarray:
    turns = _quarter_turns(frame)
    if turns % 2:
        width_px, height_px = height_px, width_px
    pixels = frame.reformat(width=width_px, height=height_px, format="rgb24", interpolation="LANCZOS")
    return np.rot90(pixels.to_ndarray(), turns)
