"""Clips by frame, through PyAV.

A probe decodes the whole file once, so that the number of frames, the time of each and their wholeness
are known exactly, not as the header or the packets claim: packets are no frames in AVI with packed
B-frames, in files cut by copying, with edit lists or hidden frames. That takes the time of decoding
once more, and the probe is cached. Frames are then asked for by their timestamps, from the keyframe
before the first; one that the decoder does not give back whole is an error, because a plan of packs
rests on these numbers. Who needs every frame anyway takes `read_whole_video`, which decodes the file once and
probes on the way.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import MediaError, first_line
from .foreign_content import ffmpeg_command
from .video_container import NUMBERED_FORMATS, check_whole, open_video
from .video_frames import FrameFormat, RGBConverter, deinterlace


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

    @property
    def fps(self) -> float:
        """Mean over the clip; 0 where nothing tells how long it lasts."""
        return self.num_frames / self.duration_s if self.duration_s > 0 else 0.0


Fit = Callable[[int, int], tuple[int, int]]
"""Gives width and height of scaled frames for those of the file, upright."""


@dataclass(frozen=True)
class ClipHeader:
    """What a clip says of itself before its frames are decoded."""

    width_px: int
    height_px: int
    """As displayed."""
    fps: float
    """0 where it says nothing."""


def probe_video(path: Path) -> VideoInfo:
    """Size, and time of every frame.

    Raises:
        MediaError: for a file that does not open, is cut short, has no video, no frame or no timestamps,
            has a frame that does not decode whole, changes its format on the way, or is HDR.
        DataError: when PyAV is missing or too old.
    """
    scan = _Scan(path)
    for _ in _scan_video(scan):
        pass
    return scan.describe()


def peek_video(path: Path) -> ClipHeader:
    """What its header and its first frame say.

    Raises:
        MediaError, DataError: as `probe_video`, as far as the first frame shows it.
    """
    scan = _Scan(path)
    next(_scan_video(scan), None)
    return ClipHeader(*scan.find_size(), scan.rate)


def read_whole_video(path: Path, fit: Fit) -> Generator[np.ndarray, None, VideoInfo]:
    """Every frame, [height, width, 3] uint8 RGB, and at the end what `probe_video` finds, in one decoding.

    Raises:
        MediaError, DataError: as `probe_video`, when decoding comes to the fault; frames before it have been given.
    """
    scan = _Scan(path)
    converter: RGBConverter | None = None
    for _, frame in deinterlace(enumerate(_scan_video(scan))):
        if converter is None:
            assert scan.format is not None
            converter = RGBConverter(path, scan.format, *fit(*scan.find_size()))
        yield converter.convert(frame)
    return scan.describe()


def _scan_video(scan: _Scan) -> Iterator[Any]:
    """The whole frames of a file in order; each is noted before it is given."""
    check_whole(scan.path)
    with open_video(scan.path) as (container, stream, decoder):
        decoder.thread_type = "SLICE"  # with threads by frame, PyAV loses frames and errors of a damaged file
        if decoder.name == "libdav1d":
            decoder.thread_count = 1
        scan.note_stream(container, stream)
        for packet in _list_packets(container, stream):
            yield from scan.decode(packet, decoder)


class _Scan:
    """What decoding a file from start to end shows."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.format: FrameFormat | None = None
        """Of all frames; None until one comes whole."""
        self.error: str | None = None
        """The last error before the first whole frame, which the cut of a clip may leave behind."""
        self.rate = 0.0
        """Frames a second that the stream claims; 0 where it claims none."""
        self._last_duration = 0
        self._time_base, self._pixel_aspect, self._numbered = 0.0, 1.0, False
        self._pts: list[int | None] = []
        self._dts: list[int | None] = []

    def note_stream(self, container: Any, stream: Any) -> None:
        """Take what the container says."""
        self._numbered = container.format.name in NUMBERED_FORMATS
        self._time_base = float(stream.time_base)
        self.rate = float(stream.average_rate or stream.guessed_rate or 0)
        self._pixel_aspect = float(stream.sample_aspect_ratio or 1)

    def decode(self, packet: Any | None, decoder: Any) -> Iterator[Any]:
        """The whole frames of a packet, or at the end of None; a decoder gives errors and frames only when it comes
        to them.

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
            if self._add_frame(frame):
                yield frame

    def _add_frame(self, frame: Any) -> bool:
        """Note a frame; whether it is whole."""
        if frame.is_corrupt:
            self._note_damage("a frame decodes only in part")
            return False
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
        self._last_duration = int(frame.duration or 0)
        return True

    def _note_damage(self, detail: str) -> None:
        if self._pts:
            raise MediaError(
                self.path, "damaged", f"after frame {len(self._pts) - 1}, {detail}; get the file again"
            )
        self.error = detail

    def find_size(self) -> tuple[int, int]:
        """Width and height as displayed: upright, with square pixels.

        Raises:
            MediaError: when no frame came.
        """
        if self.format is None:
            detail = self.error or "no frame of its video stream decodes"
            raise MediaError(self.path, "no frames", detail)
        width_px, height_px = max(round(self.format.width * self._pixel_aspect), 1), self.format.height
        return (height_px, width_px) if self.format.orientation[0] else (width_px, height_px)

    def describe(self) -> VideoInfo:
        """What all frames together show.

        Raises:
            MediaError: when none came, or when they carry no usable timestamps.
        """
        width_px, height_px = self.find_size()
        stamps, times = self._read_times()
        last_s = 0.0 if self._numbered else self._last_duration * self._time_base
        if last_s <= 0:
            one_s = 1 / self.rate if self.rate > 0 else 0.0
            last_s = float(np.median(np.diff(times))) if len(times) > 1 else one_s
        return VideoInfo(width_px, height_px, stamps, times, float(times[-1] + last_s))

    def _read_times(self) -> tuple[np.ndarray, np.ndarray]:
        """Stamps of the frames, and their times in seconds from the first.

        Raises:
            MediaError: when frames carry no timestamps, or such as do not rise.
        """
        count = len(self._pts)
        if self._numbered:
            stamps = np.arange(count, dtype=np.int64)
            dts = sorted(value for value in self._dts if value is not None)
            if len(dts) == count and len(set(dts)) == count:  # keeps the gaps of frames left out
                return stamps, (np.array(dts) - dts[0]) * self._time_base
            return stamps, stamps / (self.rate or 25.0)
        known = [value for value in self._pts if value is not None]
        stamps = np.array(known, dtype=np.int64)
        if len(known) < count or (np.diff(stamps) <= 0).any():
            found = (
                f"{count - len(known)} of {count} frames carry none"
                if len(known) < count
                else "they do not rise"
            )
            even = f"-vf 'setpts=N/({self.rate or 25:.6g}*TB)' -fps_mode passthrough -crf 12"
            command = ffmpeg_command(self.path, even)
            raise MediaError(self.path, "no usable timestamps", f"{found}; write them evenly: {command}")
        return stamps, (stamps - stamps[0]) * self._time_base


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
