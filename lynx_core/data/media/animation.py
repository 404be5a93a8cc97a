"""Clips by frame, continued: animated pictures (GIF, APNG, WebP, AVIF) through Pillow.

FFmpeg decodes no animated WebP, and of AVIF the cover alone, so Pillow reads all four. Their timestamps
are milliseconds from the first frame.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ...faces.errors import FaceError
from ...faces.picture_file import PhotoInfo, decode_picture, decoder_errors, open_picture
from ..errors import MediaError, first_line
from .video_container import check_whole
from .video_file import ClipHeader, Fit, VideoInfo
from .video_frames import flatten_picture

if TYPE_CHECKING:
    from PIL import Image

_DEFAULT_FRAME_MS = 100.0
_SHORTEST_MS = {"GIF": 20.0}
_OTHERS_SHORTEST_MS = 11.0


def probe_animation(path: Path, photo: PhotoInfo) -> VideoInfo:
    """Size, and time of every frame; all of them are decoded.

    Args:
        path: the file.
        photo: of `probe_photo`, with more than one frame.

    Raises:
        MediaError: when a frame does not decode, or the file is cut short.
    """
    return _time_animation(photo, [duration_ms for _, duration_ms in _decode_animation(path)])


def peek_animation(path: Path, photo: PhotoInfo) -> ClipHeader:
    """What its first frame says.

    Raises:
        MediaError: as `probe_animation`.
    """
    duration_ms = next((duration_ms for _, duration_ms in _decode_animation(path)), 0.0)
    return ClipHeader(photo.width_px, photo.height_px, 1000 / duration_ms if duration_ms else 0.0)


def read_whole_animation(path: Path, photo: PhotoInfo, fit: Fit) -> Generator[np.ndarray, None, VideoInfo]:
    """Every frame, [height, width, 3] uint8 RGB, and at the end what `probe_animation` finds, in one decoding.

    Raises:
        MediaError: as `probe_animation`, when decoding comes to the fault.
    """
    size = fit(photo.width_px, photo.height_px)
    durations_ms = []
    for picture, duration_ms in _decode_animation(path):
        durations_ms.append(duration_ms)
        yield flatten_picture(path, picture, size)
    return _time_animation(photo, durations_ms)


def _decode_animation(path: Path) -> Iterator[tuple[Image.Image, float]]:
    """Each frame decoded, and how long it is shown, in milliseconds."""
    check_whole(path)
    with _media_errors(path), open_picture(path) as picture:
        for _ in _list_frames(picture, path):
            decode_picture(picture, path)
            yield picture, _read_duration(picture)


def _time_animation(photo: PhotoInfo, durations_ms: list[float]) -> VideoInfo:
    ends = np.cumsum(durations_ms)
    starts = ends - durations_ms
    pts = np.round(starts).astype(np.int64)
    return VideoInfo(photo.width_px, photo.height_px, pts, starts / 1000, float(ends[-1]) / 1000)


def read_animation(
    path: Path, pts: np.ndarray, width_px: int, height_px: int
) -> Iterator[tuple[int, np.ndarray]]:
    """Frames by timestamp, as `read_frames` gives those of a video.

    Raises:
        MediaError: when one of the frames does not come.
    """
    wanted = iter(pts.tolist())
    target = next(wanted, None)
    start_ms = 0.0
    with _media_errors(path), open_picture(path) as picture:
        for _ in _list_frames(picture, path):
            if target is None:
                return
            decode_picture(picture, path)
            if round(start_ms) == target:
                yield target, flatten_picture(path, picture, (width_px, height_px))
                target = next(wanted, None)
            start_ms += _read_duration(picture)
    if target is not None:
        raise MediaError(path, "changed", f"it has no frame at {target} ms any more")


def _list_frames(picture: Image.Image, path: Path) -> Iterator[int]:
    """Go to one frame after another."""
    # A PNG may begin with a picture for viewers that show no animations; it is no frame then.
    first = 1 if picture.info.get("default_image") else 0
    for number in range(first, getattr(picture, "n_frames", 1)):
        with decoder_errors(path):
            picture.seek(number)
        yield number


def _read_duration(picture: Image.Image) -> float:
    """How long viewers show the frame, in milliseconds: a delay of next to nothing means 100."""
    duration_ms = float(picture.info.get("duration") or 0)
    shortest_ms = _SHORTEST_MS.get(str(picture.format), _OTHERS_SHORTEST_MS)
    return duration_ms if duration_ms >= shortest_ms else _DEFAULT_FRAME_MS


@contextmanager
def _media_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except FaceError as error:
        raise MediaError(path, "does not decode", first_line(error)) from error
