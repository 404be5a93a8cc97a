"""Clips by frame: videos through PyAV, animated pictures (GIF, APNG, WebP, AVIF) through Pillow.

A probe decodes the whole file once, so that the number of frames, the time of each and their wholeness
are known exactly, not as the header or the packets claim: packets are no frames in AVI with packed
B-frames, in files cut by copying, with edit lists or hidden frames. That takes the time of decoding
once more, and the probe is cached. Frames are then asked for by their timestamps, from the keyframe
before the first; one that the decoder does not give back whole is an error, because a plan of packs
rests on these numbers.

FFmpeg decodes no animated WebP, and of AVIF the cover alone, so Pillow reads all four. Their timestamps
are milliseconds from the first frame.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..faces.errors import FaceError
from ..faces.picture_file import PhotoInfo, decode_picture, decoder_errors, open_picture
from .errors import MediaError, first_line
from .foreign_content import ffmpeg_command
from .video_container import NUMBERED_FORMATS, check_whole, open_video
from .video_frames import FrameFormat, RGBConverter, deinterlace, flatten_picture

if TYPE_CHECKING:
    from PIL import Image


@dataclass(frozen=True, eq=False)
class VideoInfo:
    """What a probe found."""

    width_px: int
    height_px: int
    """As displayed: upright, with square pixels."""
    pts: np.ndarray
    """Timestamps of the frames in the order of display, [frames] int64, units of the stream; in formats
    that note none (AVI), their numbers."""
    times: np.ndarray
    """In seconds from the first frame, [frames] float64."""
    duration_s: float
    """Until the last frame has been shown."""

    @property
    def num_frames(self) -> int:
        return len(self.pts)


def probe_video(path: Path) -> VideoInfo:
    """Size, and time of every frame.

    Raises:
        MediaError: for a file that does not open, is cut short, has no video, no frame or no timestamps,
            has a frame that does not decode whole, changes its format on the way, or is HDR.
        DataError: when PyAV is missing or too old.
    """
    check_whole(path)
    with open_video(path) as (container, stream, decoder):
        decoder.thread_type = "SLICE"  # with threads by frame, PyAV loses frames and errors of a damaged file
        if decoder.name == "libdav1d":
            decoder.thread_count = 1
        numbered = container.format.name in NUMBERED_FORMATS
        scan = _Scan(path)
        for packet in _list_packets(container, stream):
            scan.add_packet(packet, decoder)
        time_base = float(stream.time_base)
        rate = float(stream.average_rate or stream.guessed_rate or 0)
        pixel_aspect = float(stream.sample_aspect_ratio or 1)
    if scan.format is None:
        raise MediaError(path, "no frames", scan.error or "no frame of its video stream decodes")
    stamps, times = scan.read_times(time_base, rate, numbered)
    last_s = 0.0 if numbered else scan.last_duration * time_base
    if last_s <= 0:
        last_s = float(np.median(np.diff(times))) if len(times) > 1 else (1 / rate if rate > 0 else 0.0)
    width_px, height_px = max(round(scan.format.width * pixel_aspect), 1), scan.format.height
    if scan.format.orientation[0]:
        width_px, height_px = height_px, width_px
    return VideoInfo(width_px, height_px, stamps, times, float(times[-1] + last_s))


class _Scan:
    """What decoding a file from start to end shows."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.format: FrameFormat | None = None
        """Of all frames; None until one comes whole."""
        self.error: str | None = None
        """The last error before the first whole frame, which the cut of a clip may leave behind."""
        self.last_duration = 0
        self._pts: list[int | None] = []
        self._dts: list[int | None] = []

    def add_packet(self, packet: Any | None, decoder: Any) -> None:
        """Decode a packet, or at the end None; a decoder gives errors and frames only when it comes to them.

        Raises:
            MediaError: when something is not whole after the first whole frame.
        """
        import av

        if packet is not None:
            self._dts.append(packet.dts)
            if packet.is_corrupt:
                self._note_damage("a part of its data is missing or broken")
        try:
            frames = decoder.decode(packet)
        except av.EOFError:
            return
        except av.FFmpegError as error:
            self._note_damage(first_line(error))
            return
        for frame in frames:
            self._add_frame(frame)

    def _add_frame(self, frame: Any) -> None:
        if frame.is_corrupt:
            self._note_damage("a frame decodes only in part")
            return
        format = FrameFormat.of(frame)
        if self.format is None:
            format.check(self.path)
            self.format = format
        elif format != self.format:
            command = ffmpeg_command(self.path, f"-vf scale={self.format.width}:{self.format.height} -crf 12")
            raise MediaError(
                self.path,
                "format changes on the way",
                f"{self.format.find_change(format)} at frame {len(self._pts)}; cut it there, or convert it: {command}",
            )
        self._pts.append(frame.pts)
        self.last_duration = int(frame.duration or 0)

    def _note_damage(self, detail: str) -> None:
        if self._pts:
            raise MediaError(
                self.path, "damaged", f"after frame {len(self._pts) - 1}, {detail}; get the file again"
            )
        self.error = detail

    def read_times(self, time_base: float, rate: float, numbered: bool) -> tuple[np.ndarray, np.ndarray]:
        """Stamps of the frames, and their times in seconds from the first.

        Raises:
            MediaError: when frames carry no timestamps, or such as do not rise.
        """
        count = len(self._pts)
        if numbered:
            stamps = np.arange(count, dtype=np.int64)
            dts = sorted(value for value in self._dts if value is not None)
            if len(dts) == count and len(set(dts)) == count:  # keeps the gaps of frames left out
                return stamps, (np.array(dts) - dts[0]) * time_base
            return stamps, stamps / (rate or 25.0)
        known = [value for value in self._pts if value is not None]
        stamps = np.array(known, dtype=np.int64)
        if len(known) < count or (np.diff(stamps) <= 0).any():
            found = (
                f"{count - len(known)} of {count} frames carry none"
                if len(known) < count
                else "they do not rise"
            )
            even = f"-vf 'setpts=N/({rate or 25:.6g}*TB)' -fps_mode passthrough -crf 12"
            command = ffmpeg_command(self.path, even)
            raise MediaError(self.path, "no usable timestamps", f"{found}; write them evenly: {command}")
        return stamps, (stamps - stamps[0]) * time_base


def read_frames(
    path: Path, pts: np.ndarray, width_px: int, height_px: int
) -> Iterator[tuple[int, np.ndarray]]:
    """Frames by timestamp, scaled to fit: (timestamp, [height, width, 3] uint8 RGB), in order.

    Args:
        path: the video, which `probe_video` takes.
        pts: timestamps as `VideoInfo.pts`, rising.
        width_px, height_px: of the scaled frames, upright.

    Raises:
        MediaError: when one of the frames does not come, or comes damaged.
    """
    wanted = iter(pts.tolist())
    target = next(wanted, None)
    if target is None:
        return
    converter: RGBConverter | None = None
    for stamp, frame in deinterlace(_decode(path, target)):
        if stamp < target:
            continue
        if stamp > target:
            break
        if converter is None:
            format = FrameFormat.of(frame)
            format.check(path)
            converter = RGBConverter(path, format, width_px, height_px)
        yield target, converter.convert(frame)
        target = next(wanted, None)
        if target is None:
            return
    raise MediaError(path, "damaged", f"the frame with timestamp {target} does not decode")


def _decode(path: Path, first_pts: int) -> Iterator[tuple[int, Any]]:
    """Whole frames with their stamps, from `first_pts` or before it, to the end."""
    # Deinterlacing the first frame takes the one before it, so one more keyframe back if need be.
    for seek_to in (first_pts, first_pts - 1, None):
        with open_video(path) as (container, stream, decoder):
            decoder.thread_type = "AUTO"
            numbered = container.format.name in NUMBERED_FORMATS
            if seek_to is not None:
                if numbered:
                    continue
                container.seek(seek_to, stream=stream, backward=True)
            frames = _decode_on(container, stream, decoder)
            first = next(frames, None)
            if first is None or (seek_to is not None and not _can_start(first, first_pts)):
                continue
            for number, frame in enumerate(_check_frames(path, first, frames)):
                yield (number if numbered else frame.pts), frame
            return
    raise MediaError(path, "damaged", "no frame of it decodes")


def _list_packets(container: Any, stream: Any) -> Iterator[Any | None]:
    """The packets of a stream, and at the end None, which makes a decoder give what it holds back."""
    for packet in container.demux(stream):
        if packet.size:  # AVI has empty ones where a frame stays; to a decoder they are the end
            yield packet
    yield None


def _can_start(frame: Any, first_pts: int) -> bool:
    """Whether decoding that begins with this frame gives the same pixels as from the start of the file."""
    if frame.pts is None or frame.pts > first_pts or frame.is_corrupt or not frame.key_frame:
        return False
    return not (frame.interlaced_frame and frame.pts == first_pts)


def _decode_on(container: Any, stream: Any, decoder: Any) -> Iterator[Any]:
    import av

    begun = False
    for packet in _list_packets(container, stream):
        try:
            for frame in decoder.decode(packet):
                begun = begun or not frame.is_corrupt
                if begun:
                    yield frame
        except av.EOFError:
            return
        except av.FFmpegError:
            if begun:
                raise


def _check_frames(path: Path, first: Any, frames: Iterator[Any]) -> Iterator[Any]:
    yield first
    for frame in frames:
        if frame.is_corrupt:
            raise MediaError(path, "damaged", f"the frame at {frame.time} s is corrupt")
        yield frame


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
    check_whole(path)
    durations_ms = []
    with _media_errors(path), open_picture(path) as picture:
        for _ in _list_frames(picture, path):
            decode_picture(picture, path)
            durations_ms.append(_read_duration(picture))
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
