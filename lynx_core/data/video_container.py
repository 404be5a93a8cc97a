"""Opening of video files with PyAV: which version, which formats, which stream, which decoder.

FFmpeg gets an open file without a name and a list of formats that lie in one file. So a name never means
anything to it (`%03d`, `concat:`, `pipe:`), and a text that names other files opens none of them.
"""

from __future__ import annotations

import io
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from .errors import DataError, MediaError, first_line

MIN_PYAV = 17

FORMATS = (
    "mov", "matroska", "webm", "avi", "mpegts", "mpeg", "flv", "asf", "ogg", "mxf", "nut", "dv", "gxf", "rm",
    "ivf", "h264", "hevc", "vvc", "obu", "av1", "m4v", "mpegvideo", "vc1", "dirac", "cavsvideo", "mjpeg",
    "yuv4mpegpipe", "wtv", "nsv", "flic",
)  # fmt: skip
"""FFmpeg's names of the formats that are read: all of them hold the media in the one file."""

NUMBERED_FORMATS = frozenset(
    {"avi", "h264", "hevc", "vvc", "obu", "av1", "m4v", "mpegvideo", "vc1", "dirac", "cavsvideo", "mjpeg"}
)
"""These note no time of display, only the order of decoding: frames are known by their number."""

_ALPHA_DECODERS = {"vp8": "libvpx", "vp9": "libvpx-vp9"}
"""FFmpeg's own decoders of these leave the second picture out that WebM keeps the opacity in."""


def import_av() -> Any:
    """PyAV.

    Raises:
        DataError: when it is missing, or so old that it decodes HD colours with the matrix of SD.
    """
    way_out = f'python -m pip install -U "av>={MIN_PYAV}"'
    try:
        import av
    except ImportError as error:
        raise DataError(f"videos need the package av (PyAV): {way_out}") from error
    version = str(getattr(av, "__version__", "0"))
    major = version.split(".")[0]
    if not major.isdigit() or int(major) < MIN_PYAV:
        raise DataError(
            f"PyAV {version} decodes BT.709 with wrong colours; {MIN_PYAV} or newer is needed: {way_out}"
        )
    return av


@contextmanager
def open_video(path: Path) -> Iterator[tuple[Any, Any, Any]]:
    """Open the clip in a file: (container, stream, decoder), as PyAV's objects.

    Raises:
        MediaError: when it does not open, is in no format of `FORMATS`, or has no video stream that
            can be decoded. Errors of FFmpeg inside the block become one, too.
        DataError: when PyAV is missing or too old.
    """
    av = import_av()
    options = {"format_whitelist": ",".join(FORMATS), "protocol_whitelist": "none"}
    try:
        with (
            path.open("rb") as file,
            av.open(_Nameless(file), metadata_errors="replace", options=options) as container,
        ):
            stream = _choose_stream(path, container)
            yield container, stream, _choose_decoder(stream)
    except av.ArgumentError as error:
        raise MediaError(
            path,
            "no photo or video",
            "its content is in no format of one file; of a playlist or list of files make one first: "
            f"{ffmpeg_command(path, '-c copy', '.mkv')}",
        ) from error
    except (av.FFmpegError, OSError) as error:
        raise MediaError(path, "does not decode", first_line(error)) from error


def ffmpeg_command(path: Path, options: str, suffix: str = ".mp4") -> str:
    """A command line that makes a usable file of one that is set aside."""
    out = path.with_name(f"{path.stem}_converted{suffix}")
    return f"ffmpeg -i {shlex.quote(str(path))} {options} {shlex.quote(str(out))}"


class _Nameless(io.RawIOBase):
    """An open file whose name PyAV does not see and so does not hand to FFmpeg."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        return self._file.read(size)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()


def _choose_stream(path: Path, container: Any) -> Any:
    """The default and largest one, as ffmpeg chooses; cover pictures are none."""
    from av.stream import Disposition

    pictures = Disposition.attached_pic | Disposition.timed_thumbnails | Disposition.still_image
    streams = [s for s in container.streams.video if not s.disposition & pictures]
    if not streams:
        found = "only a cover picture" if container.streams.video else "no video stream"
        raise MediaError(path, "no video", f"it has {found}")
    streams = [s for s in streams if s.codec_context is not None]
    if not streams:
        raise MediaError(path, "does not decode", "its codec is not known to FFmpeg")
    return max(
        streams,
        key=lambda s: (
            s.codec_context.width * s.codec_context.height
            + 5_000_000 * bool(s.disposition & Disposition.default)
        ),
    )


def _choose_decoder(stream: Any) -> Any:
    import av

    context = stream.codec_context
    name = _ALPHA_DECODERS.get(context.codec.name.removeprefix("lib")) if _keeps_alpha_apart(stream) else None
    if name is None:
        return context
    decoder = av.CodecContext.create(name, "r")
    decoder.extradata = context.extradata
    return decoder


def _keeps_alpha_apart(stream: Any) -> bool:
    return {key.lower(): value for key, value in stream.metadata.items()}.get("alpha_mode") == "1"
