"""Pixels of files, through the project's own readers: what a file holds, and all its frames in one pass."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..data.errors import MediaError
from ..data.media.animation import peek_animation, read_whole_animation
from ..data.media.decoding import ImageInfo, decode_photo, probe_media
from ..data.media.video_file import ClipHeader, VideoInfo, peek_video, read_whole_video
from ..faces.errors import FaceError
from ..faces.photo import probe_photo
from ..faces.picture_file import PhotoInfo, UnknownPictureError
from ..hashing import hash_file

__all__ = ["Footage", "MediaError", "decode_photo", "open_footage", "read_jpeg", "scale_down", "write_jpeg"]

PHOTO_SUFFIXES = (
    ".jpg", ".jpeg", ".jpe", ".png", ".webp", ".bmp", ".tif", ".tiff", ".heic", ".heif", ".avif", ".jfif", ".ppm",
)  # fmt: skip
CLIP_SUFFIXES = (
    ".mp4", ".mov", ".mkv", ".webm", ".avi", ".m4v", ".mpg", ".mpeg", ".ts", ".mts", ".m2ts", ".wmv", ".flv", ".3gp",
    ".ogv", ".gif", ".apng", ".y4m",
)  # fmt: skip

_MAX_FPS = 480.0
"""A header that claims more is not believed."""


@dataclass(eq=False)
class Footage:
    """An opened file. What is known before its frames have been read is what its header says."""

    path: Path
    file_hash: str
    width_px: int
    height_px: int
    """Upright, as in the file."""
    is_clip: bool
    fps: float
    """0 for a photo. Exact when all frames have been read."""
    num_frames: int
    """1 for a photo; of a clip 0 until all frames have been read."""
    scale: float
    """Pixels of the frames given for one of the file, at most 1."""

    def read(self) -> Iterator[tuple[int, np.ndarray]]:
        """Every frame with its number, [H, W, 3] uint8 RGB; the file is decoded once, from start to end.

        Raises:
            MediaError: when the file does not decode, maybe after some frames.
        """
        if not self.is_clip:
            yield 0, scale_down(decode_photo(self.path), max(self._fit(self.width_px, self.height_px)))
            return
        photo = _probe_picture(self.path)
        if photo is None:
            frames = read_whole_video(self.path, self._fit)
        else:
            frames = read_whole_animation(self.path, photo, self._fit)
        number = 0
        while True:
            try:
                pixels = next(frames)
            except StopIteration as end:
                self._take(end.value)
                return
            yield number, pixels
            number += 1

    def _fit(self, width_px: int, height_px: int) -> tuple[int, int]:
        return max(round(width_px * self.scale), 1), max(round(height_px * self.scale), 1)

    def _take(self, info: VideoInfo) -> None:
        self.num_frames, self.fps = info.num_frames, info.fps


def open_footage(path: Path, max_side_px: int) -> Footage:
    """Look at a file's header; its frames come at `max_side_px` at most.

    Raises:
        MediaError: when it is no photo or clip, or its first frame shows damage.
        DataError: when a package that decodes it is missing.
    """
    header = _peek(path)
    scale = min(1.0, max_side_px / max(header.width_px, header.height_px))
    try:
        digest = hash_file(path)
    except OSError as error:
        raise MediaError(path, "cannot be read", str(error)) from error
    size = header.width_px, header.height_px
    if isinstance(header, ClipHeader):
        return Footage(path, digest, *size, True, header.fps, 0, scale)
    return Footage(path, digest, *size, False, 0.0, 1, scale)


def _peek(path: Path) -> ClipHeader | ImageInfo:
    try:
        is_empty = not path.stat().st_size
        photo = None if is_empty else _probe_picture(path)
    except (OSError, FaceError):
        is_empty, photo = True, None
    if is_empty or (photo is not None and photo.num_frames == 1):
        info = probe_media(path)  # says what is wrong with it, if anything is
        assert isinstance(info, ImageInfo)
        return info
    header = peek_video(path) if photo is None else peek_animation(path, photo)
    if 0 < header.fps <= _MAX_FPS:
        return header
    info = probe_media(path)  # a header that says nothing of use: decode it for its times
    assert isinstance(info, VideoInfo)
    return ClipHeader(info.width_px, info.height_px, info.fps)


def _probe_picture(path: Path) -> PhotoInfo | None:
    """None for what is no picture format."""
    try:
        return probe_photo(path)
    except UnknownPictureError:
        return None


def scale_down(pixels: np.ndarray, max_side_px: int) -> np.ndarray:
    """A picture at `max_side_px` at most; a smaller one comes back as it is."""
    from PIL import Image

    height, width = pixels.shape[:2]
    scale = max_side_px / max(height, width)
    if scale >= 1:
        return pixels
    size = (max(round(width * scale), 1), max(round(height * scale), 1))
    return np.array(Image.fromarray(pixels).resize(size, Image.Resampling.LANCZOS))


def write_jpeg(pixels: np.ndarray, quality: int = 95) -> bytes:
    """A picture [H, W, 3] uint8 RGB as the bytes of a JPEG, colours at full resolution."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=quality, subsampling=0)
    return buffer.getvalue()


def read_jpeg(raw: bytes) -> np.ndarray:
    """The picture of `write_jpeg`, [H, W, 3] uint8 RGB."""
    from PIL import Image

    return np.array(Image.open(io.BytesIO(raw)).convert("RGB"))
