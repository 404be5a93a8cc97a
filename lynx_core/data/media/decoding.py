"""From a media file to the pixels of one sample: which frames, which size, and then the decoding.

A plan comes first, from a probe alone: it says how many frames of which size the sample will have, so
that packs can be planned before anything is decoded. Sources are never enlarged and never thrown out
for being small: any size packs with any other, so a small source simply takes fewer tokens.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from itertools import product
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ...buckets import fetched, url_of
from ...faces.errors import FaceError
from ...faces.photo import PhotoInfo, UnknownPictureError, load_photo, probe_photo
from ...faces.picture_file import decoder_errors, open_picture
from ...hashing import hash_file, hash_values
from ...tokens import FRAMES_PER_LATENT, PX_PER_TOKEN, LatentShape, latent_shape
from ..errors import DataError, MediaError, first_line
from .animation import probe_animation, read_animation
from .video_container import check_whole
from .video_file import VideoInfo, probe_video, read_frames

DECODING_VERSION = 2
"""Goes into the names of cache entries; raised when the same settings come to give other pixels."""

_TIME_TOLERANCE_S = 0.002  # containers that count milliseconds round each timestamp


@dataclass(frozen=True)
class DecodingConfig:
    """What becomes of a source."""

    max_px: int = 640 * 640
    """Pixels of a frame at most; a larger source is scaled down."""
    max_frames: int = 81
    """Frames of a clip at most; a longer one gives its first frames. 1 makes an image of every video."""
    min_frames: int = 1
    """Shorter clips are skipped; 5 keeps clips that have no motion out of a stage of videos."""
    fps: float | None = 16.0
    """Frame rate of the clips; a faster source loses frames, a slower one repeats some. None: as it is."""

    def __post_init__(self) -> None:
        if self.max_px < PX_PER_TOKEN**2:
            raise DataError(f"decoding.max_px is {PX_PER_TOKEN**2} pixels or more, got {self.max_px}")
        for name in ("max_frames", "min_frames"):
            if getattr(self, name) < 1 or getattr(self, name) % FRAMES_PER_LATENT != 1:
                raise DataError(f"decoding.{name} is 4k+1 (1, 5, 9, ... 81), got {getattr(self, name)}")
        if self.min_frames > self.max_frames:
            raise DataError(
                f"decoding.min_frames {self.min_frames} is more than decoding.max_frames {self.max_frames}"
            )
        if self.fps is not None and not (math.isfinite(self.fps) and self.fps > 0):
            raise DataError(f"decoding.fps is above 0, got {self.fps}")

    def fingerprint(self) -> str:
        """Equal for settings and decoders that give equal pixels."""
        decoders = [video_decoder_versions(), photo_decoder_versions()]
        return hash_values([DECODING_VERSION, decoders, asdict(self)])


@dataclass(frozen=True, eq=False)
class ClipPlan:
    """The sample that a file will give."""

    height_px: int
    width_px: int
    source_height_px: int
    source_width_px: int
    pts: np.ndarray | None
    """Timestamps of its frames in the file, repeats allowed, [frames] int64; None for an image."""

    @classmethod
    def restore(cls, sizes_px: Sequence[int], pts: Sequence[int] | None) -> ClipPlan:
        """A plan from what is stored of it: `sizes_px`, and the timestamps as a list."""
        height_px, width_px, source_height_px, source_width_px = sizes_px
        stamps = None if pts is None else np.array(pts, dtype=np.int64)
        return cls(height_px, width_px, source_height_px, source_width_px, stamps)

    @property
    def sizes_px(self) -> tuple[int, int, int, int]:
        """Height and width of the sample, then of the source."""
        return self.height_px, self.width_px, self.source_height_px, self.source_width_px

    @property
    def num_frames(self) -> int:
        return 1 if self.pts is None else len(self.pts)

    @property
    def latent_shape(self) -> LatentShape:
        return latent_shape(self.num_frames, self.height_px, self.width_px)


@dataclass(frozen=True)
class ImageInfo:
    """Size of a photo, upright."""

    width_px: int
    height_px: int


def probe_media(path: Path) -> ImageInfo | VideoInfo:
    """Tell a photo from a clip by its content, and read what a plan needs.

    A file of a picture format is never read as a video: one with several frames in time is an
    animation, any other is a photo.

    Raises:
        MediaError: when it is neither, or is damaged.
        DataError: when a package that decodes it is missing or too old.
    """
    try:
        if not path.stat().st_size:
            raise MediaError(path, "empty file", "it has 0 bytes")
    except OSError as error:
        raise MediaError(path, "cannot be read", first_line(error)) from error
    photo = _probe_photo(path)
    if photo is None:
        return probe_video(path)
    if photo.num_frames > 1:
        return probe_animation(path, photo)
    check_whole(path)
    _verify_checksums(path, photo)
    return ImageInfo(photo.width_px, photo.height_px)


def _probe_photo(path: Path) -> PhotoInfo | None:
    try:
        return probe_photo(path)
    except UnknownPictureError:
        return None
    except FaceError as error:
        raise MediaError(path, "does not decode", first_line(error)) from error


def _verify_checksums(path: Path, photo: PhotoInfo) -> None:
    """Those of PNG, at which decoding does not look."""
    if photo.format != "PNG":
        return
    try:
        with decoder_errors(path), open_picture(path) as picture:
            picture.verify()
    except FaceError as error:
        raise MediaError(path, "does not decode", first_line(error)) from error


def fit_size(width_px: int, height_px: int, max_px: int) -> tuple[int, int]:
    """Height and width of a sample: multiples of 16 px, at most `max_px` together, never enlarged.

    Of the sizes next to the source's own shape, the one that keeps most of the picture at most pixels.

    Raises:
        ValueError: when the source is under 16 px, or so narrow that its scaled side would be.
    """
    scale = min(1.0, math.sqrt(max_px / (width_px * height_px)))
    best, best_score = None, 0.0
    options = [
        [math.floor(size * scale / PX_PER_TOKEN) * PX_PER_TOKEN + more for more in (0, PX_PER_TOKEN)]
        for size in (width_px, height_px)
    ]
    for width, height in product(*options):
        if min(width, height) < PX_PER_TOKEN or width * height > max_px:
            continue
        if width > width_px or height > height_px:
            continue
        aspects = (width / height, width_px / height_px)
        score = min(aspects) / max(aspects) * width * height
        if score > best_score:
            best, best_score = (height, width), score
    if best is None:
        raise ValueError(
            f"{width_px}x{height_px} px leaves no side of {PX_PER_TOKEN} px within {max_px} pixels"
        )
    return best


def plan_clip(
    path: Path,
    info: ImageInfo | VideoInfo,
    config: DecodingConfig,
    frame_range: tuple[int, int] | None = None,
    source_fps: float | None = None,
) -> ClipPlan:
    """Frames and size of the sample that a probed file gives.

    Args:
        path: for messages.
        info: of `probe_media`.
        config: the settings.
        frame_range: first frame and the one after the last, of the file; all when None.
        source_fps: replaces the times of the file's frames.

    Raises:
        MediaError: for a range outside of the file, too short a clip, and too small a source.
    """
    try:
        height_px, width_px = fit_size(info.width_px, info.height_px, config.max_px)
    except ValueError as error:
        raise MediaError(path, "too small or too narrow", str(error)) from error
    pts = None
    if isinstance(info, VideoInfo):
        pts = info.pts[_choose_frames(path, info, config, frame_range, source_fps)]
    elif frame_range not in (None, (0, 1)):
        raise MediaError(path, "frame_range outside of the file", f"{frame_range}, but it is an image")
    num_frames = 1 if pts is None else len(pts)
    if num_frames < config.min_frames:
        raise MediaError(
            path, "too short", f"it gives {num_frames} frames, decoding.min_frames is {config.min_frames}"
        )
    return ClipPlan(height_px, width_px, info.height_px, info.width_px, pts)


def _choose_frames(
    path: Path,
    info: VideoInfo,
    config: DecodingConfig,
    frame_range: tuple[int, int] | None,
    source_fps: float | None,
) -> np.ndarray:
    start, end = frame_range or (0, info.num_frames)
    if end > info.num_frames:
        raise MediaError(
            path, "frame_range outside of the file", f"[{start}, {end}], but it has {info.num_frames} frames"
        )
    if source_fps is None:
        times, end_s = info.times, info.duration_s
    else:
        times, end_s = np.arange(info.num_frames) / source_fps, info.num_frames / source_fps
    if end < info.num_frames:
        end_s = float(times[end])
    if config.fps is None or end - start == 1:  # a single picture is an image, however long it is shown
        frames = np.arange(start, end)
    else:
        count = math.floor((end_s - times[start] + _TIME_TOLERANCE_S) * config.fps)
        moments = times[start] + np.arange(max(min(count, config.max_frames), 1)) / config.fps
        # The frame on screen at each moment.
        frames = np.searchsorted(times[:end], moments + _TIME_TOLERANCE_S, side="right") - 1
    usable = (min(len(frames), config.max_frames) - 1) // FRAMES_PER_LATENT * FRAMES_PER_LATENT + 1
    return frames[:usable]


def decode_clip(path: Path, plan: ClipPlan) -> np.ndarray:
    """The pixels of a sample, [frames, height, width, 3] uint8 RGB: scaled to cover, cropped at the centre.

    Raises:
        MediaError: when the file does not decode, breaks off, or is no longer the one that was planned.
    """
    scale = max(plan.height_px / plan.source_height_px, plan.width_px / plan.source_width_px)
    height_px = max(round(plan.source_height_px * scale), plan.height_px)
    width_px = max(round(plan.source_width_px * scale), plan.width_px)
    top, left = (height_px - plan.height_px) // 2, (width_px - plan.width_px) // 2
    window = (slice(top, top + plan.height_px), slice(left, left + plan.width_px))
    if plan.pts is None:
        return _decode_image(path, plan, height_px, width_px)[window][None]
    unique, places = np.unique(plan.pts, return_inverse=True)
    pixels = np.empty((len(unique), plan.height_px, plan.width_px, 3), dtype=np.uint8)
    read = read_frames if _probe_photo(path) is None else read_animation
    for number, (_, frame) in enumerate(read(path, unique, width_px, height_px)):
        pixels[number] = frame[window]
    return pixels[places]


def _decode_image(path: Path, plan: ClipPlan, height_px: int, width_px: int) -> np.ndarray:
    from PIL import Image

    # Twice the size that is needed, as Pillow's own thumbnails: a JPEG that is reduced less far keeps its detail.
    photo = decode_photo(path, (2 * width_px, 2 * height_px))
    source_px = (plan.source_height_px, plan.source_width_px)
    if photo.shape[:2] not in {tuple(-(-side // by) for side in source_px) for by in (1, 2, 4, 8)}:
        raise MediaError(path, "changed", f"it now has {photo.shape[1]}x{photo.shape[0]} px")
    resized = Image.fromarray(photo).resize((width_px, height_px), Image.Resampling.LANCZOS)
    return np.array(resized)


def decode_photo(path: Path, at_least_px: tuple[int, int] | None = None) -> np.ndarray:
    """A photo [H, W, 3] uint8 RGB, upright; at a part of its size where (width, height) `at_least_px` is enough.

    Raises:
        MediaError: when it does not decode.
    """
    try:
        return load_photo(path, at_least_px)
    except FaceError as error:
        raise MediaError(path, "does not decode", first_line(error)) from error


def convert_pixels(pixels_THWC: np.ndarray) -> Tensor:
    """uint8 RGB frames as what the VAE takes: [3, T, H, W] float32, -1 to 1."""
    return torch.from_numpy(np.ascontiguousarray(pixels_THWC)).permute(3, 0, 1, 2).float() / 127.5 - 1


def video_decoder_versions() -> dict[str, str]:
    """Name -> version of what decodes videos; FFmpeg's libraries as PyAV has them."""
    versions = _package_versions("av")
    try:
        import av
    except ImportError:
        return versions
    names = ("libavformat", "libavcodec", "libavfilter", "libswscale")
    libraries = {name: ".".join(map(str, av.library_versions[name])) for name in names}
    return {**versions, **libraries}


def photo_decoder_versions() -> dict[str, str]:
    """Name -> version of what decodes photos and animations, and converts their colours."""
    return _package_versions("pillow", "pillow-heif")


def _package_versions(*names: str) -> dict[str, str]:
    found = {}
    for name in names:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "absent"
    return found


@contextmanager
def opened_media(path: Path) -> Iterator[Path]:
    """Give the file to read for as long as the block runs; faults that the block finds in it name `path`.

    Raises:
        MediaError: when it is not there, or does not come from its bucket.
    """
    try:
        with fetched(path) as file:
            if not file.exists():
                raise FileNotFoundError(path)
            try:
                yield file
            except MediaError as error:
                raise MediaError(path, error.reason, error.detail.replace(str(file), str(path))) from error
    except FileNotFoundError as error:
        raise MediaError(
            path, "file is gone", "the cache has nothing for these settings; bring the file back"
        ) from error
    except OSError as error:
        if url_of(path) is None:
            raise
        raise MediaError(path, "cannot be fetched", f"{url_of(path)}: {first_line(error)}") from error


def check_unchanged(file: Path, path: Path, digest: str) -> None:
    """Notice a file that has changed since its hash was taken.

    Args:
        file: the copy that was read; `path` is its name.

    Raises:
        DataError: when it has.
        MediaError: when it cannot be read.
    """
    try:
        found = hash_file(file)
    except OSError as error:
        raise MediaError(path, "cannot be read", first_line(error)) from error
    if found != digest:
        raise DataError(f"{path} has changed since the run began; start again, so that plan and data agree")
