"""Pixels of files, through the project's own readers: what a file holds, and all its frames in one pass."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..data.decoding import decode_photo, probe_media
from ..data.errors import MediaError
from ..data.video_file import VideoInfo, read_animation, read_frames
from ..faces.photo import probe_photo
from ..faces.picture_file import UnknownPictureError
from ..hashing import hash_file

__all__ = ["Footage", "MediaError", "decode_photo", "open_footage", "read_jpeg", "scale_down", "write_jpeg"]

PHOTO_SUFFIXES = (
    ".jpg", ".jpeg", ".jpe", ".png", ".webp", ".bmp", ".tif", ".tiff", ".heic", ".heif", ".avif", ".jfif", ".ppm",
)  # fmt: skip
CLIP_SUFFIXES = (
    ".mp4", ".mov", ".mkv", ".webm", ".avi", ".m4v", ".mpg", ".mpeg", ".ts", ".mts", ".m2ts", ".wmv", ".flv", ".3gp",
    ".ogv", ".gif", ".apng", ".y4m",
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class Footage:
    """An opened file."""

    path: Path
    file_hash: str
    width_px: int
    height_px: int
    """Upright, as in the file."""
    fps: float
    """0 for a photo."""
    num_frames: int
    """1 for a photo."""
    info: VideoInfo | None
    scale: float
    """Pixels of the frames given for one of the file, at most 1."""

    @property
    def is_clip(self) -> bool:
        return self.info is not None

    def read(self) -> Iterator[tuple[int, np.ndarray]]:
        """Every frame with its number, [H, W, 3] uint8 RGB, decoded once from start to end.

        Raises:
            MediaError: when the file does not decode.
        """
        width_px, height_px = (max(round(side * self.scale), 1) for side in (self.width_px, self.height_px))
        if self.info is None:
            yield 0, scale_down(decode_photo(self.path), max(width_px, height_px))
            return
        read = read_animation if _is_animation(self.path) else read_frames
        for number, (_, pixels) in enumerate(read(self.path, self.info.pts, width_px, height_px)):
            yield number, pixels


def open_footage(path: Path, max_side_px: int) -> Footage:
    """Probe a file; its frames come at `max_side_px` at most.

    Raises:
        MediaError: when it is no photo or clip, or is damaged.
        DataError: when a package that decodes it is missing.
    """
    info = probe_media(path)
    is_clip = isinstance(info, VideoInfo)
    count = info.num_frames if isinstance(info, VideoInfo) else 1
    fps = count / info.duration_s if isinstance(info, VideoInfo) and info.duration_s > 0 else 0.0
    scale = min(1.0, max_side_px / max(info.width_px, info.height_px))
    try:
        digest = hash_file(path)
    except OSError as error:
        raise MediaError(path, "cannot be read", str(error)) from error
    return Footage(
        path, digest, info.width_px, info.height_px, fps, count, info if is_clip else None, scale  # type: ignore[arg-type]
    )  # fmt: skip


def _is_animation(path: Path) -> bool:
    try:
        return probe_photo(path).num_frames > 1
    except UnknownPictureError:
        return False


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
