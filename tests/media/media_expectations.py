"""What has to become of a media file, and how that is checked.

Pixels are held beside ffmpeg's own, frame by frame. The limits let two versions of FFmpeg round in their
own ways, and no more: a wrong matrix, range, turn, field order or frame is beyond them
(`test_limits_are_tight`).
"""

from __future__ import annotations

import re
import shlex
import subprocess
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from media_files import Recipe, read_reference

from lynx_core.data.errors import MediaError
from lynx_core.data.media.decoding import DecodingConfig, ImageInfo, decode_clip, plan_clip, probe_media
from lynx_core.data.media.video_file import VideoInfo

MEAN_LIMIT = 0.5
"""Of the absolute differences of a frame, in steps of 1/255."""
LARGEST_LIMIT = 10
"""Of a single value; the median of such cases is 1."""
TIME_LIMIT_S = 0.0015

AS_IS = DecodingConfig(fps=None, max_frames=4 * 50 + 1, max_px=1024 * 1024)


def decode(path: Path) -> tuple[VideoInfo, np.ndarray]:
    """Probe, plan and decode, without another frame rate."""
    info = probe_media(path)
    assert isinstance(info, VideoInfo), f"{path.name} came out as a photo"
    return info, decode_clip(path, plan_clip(path, info, AS_IS))


def differs(pixels: np.ndarray, reference: np.ndarray) -> str | None:
    """How two clips differ beyond the limits; None when they do not."""
    if pixels.shape != reference.shape:
        return f"shape {pixels.shape}, expected {reference.shape}"
    for number, (frame, other) in enumerate(zip(pixels, reference, strict=True)):
        difference = np.abs(frame.astype(int) - other)
        if difference.mean() > MEAN_LIMIT or difference.max() > LARGEST_LIMIT:
            return f"frame {number}: {difference.mean():.2f} in the mean, {difference.max()} at most"
    return None


def composite(rgba: np.ndarray) -> np.ndarray:
    """RGBA on mid-grey, in floats."""
    alpha = rgba[..., 3:] / 255.0
    return (rgba[..., :3] * alpha + 127.5 * (1 - alpha)).round().astype(np.uint8)


@dataclass(frozen=True)
class Frames:
    """The pixels and times that ffmpeg gives with these options."""

    count: int | None = None
    """How many; as ffmpeg has them when None."""
    filters: str = ""
    inputs: str = ""
    outputs: str = ""
    alpha: bool = False
    has_times: bool = True
    """Whether ffmpeg knows the times, too; where not, they are 1/16 s apart."""
    time_limit_s: float = TIME_LIMIT_S

    def check(self, path: Path) -> None:
        """Compare."""
        pixels = "rgba" if self.alpha else "rgb24"
        reference, times = read_reference(path, self.filters, self.inputs, self.outputs, pixels)
        if self.alpha:
            reference = composite(reference)
        if self.count is not None:
            assert len(reference) == self.count, "ffmpeg itself gives another number of frames"
        info, decoded = decode(path)
        assert info.num_frames == len(reference)
        assert differs(decoded, reference[: len(decoded)]) is None
        if not self.has_times:
            times = np.arange(len(reference)) / 16
        assert np.abs(info.times - times).max() < self.time_limit_s, f"{info.times}, expected {times}"


@dataclass(frozen=True, eq=False)
class Drawn:
    """These frames at these times, for what ffmpeg does not decode."""

    frames: np.ndarray
    times: tuple[float, ...]
    mean_limit: float = 6.0

    def check(self, path: Path) -> None:
        """Compare."""
        info, decoded = decode(path)
        expected = composite(self.frames) if self.frames.shape[-1] == 4 else self.frames
        assert info.times.tolist() == pytest.approx(self.times, abs=TIME_LIMIT_S)
        differences = np.abs(decoded.astype(int) - expected[: len(decoded)]).mean((1, 2, 3))
        assert differences.max() < self.mean_limit, differences


@dataclass(frozen=True)
class Photo:
    """An image, never a video."""

    def check(self, path: Path) -> None:
        """Probe and decode."""
        info = probe_media(path)
        assert isinstance(info, ImageInfo)
        assert len(decode_clip(path, plan_clip(path, info, AS_IS))) == 1


@dataclass(frozen=True)
class SetAside:
    """Refused for this reason, with a command that makes a usable file where `remedy_frames` says how long."""

    reason: str
    """A regular expression over reason and detail."""
    remedy_frames: int | None = None
    remedy_colour: tuple[int, int, int] | None = None
    """In the middle of the lower right quadrant of the first frame, within 12."""

    def check(self, path: Path) -> None:
        """See the refusal; do what it says."""
        with pytest.raises(MediaError) as caught:
            decode_clip(path, plan_clip(path, probe_media(path), AS_IS))
        message = f"{caught.value.reason} ({caught.value.detail})"
        assert re.search(self.reason, message), message
        if self.remedy_frames is None:
            return
        command = re.search(r"ffmpeg -i .*", caught.value.detail)
        assert command, f"no remedy in: {message}"
        arguments = shlex.split(command[0])
        done = subprocess.run(
            [arguments[0], "-v", "error", "-y", *arguments[1:]],
            stdin=subprocess.DEVNULL, capture_output=True, timeout=60, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr.decode()
        info, decoded = decode(Path(arguments[-1]))
        assert info.num_frames == self.remedy_frames
        if self.remedy_colour:
            height, width = decoded.shape[1:3]
            found = decoded[0, height * 5 // 8, width * 7 // 8].astype(int)
            assert np.abs(found - self.remedy_colour).max() <= 12, found


@dataclass(frozen=True)
class Case:
    """One file of the matrix."""

    kind: str
    name: str
    make: Recipe
    expected: Frames | Drawn | Photo | SetAside

    def __str__(self) -> str:
        return f"{self.kind}-{self.name}"
