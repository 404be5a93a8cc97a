"""Opening of video files: whether one is whole, and its format, stream and decoder in PyAV.

FFmpeg gets an open file without a name and a list of formats that lie in one file. So a name never means
anything to it (`%03d`, `concat:`, `pipe:`), and a text that names other files opens none of them.

Players show what is left of a truncated file, and demuxers end early without an error, so the size that the
header promises is the only sign. Each container says in its own way how far it reaches; the walks below
read headers only, never the media data.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from ..errors import DataError, MediaError, first_line
from .foreign_content import describe_foreign

_MIN_PYAV = 17

FORMATS = (
    "mov", "matroska", "webm", "avi", "mpegts", "mpeg", "flv", "asf", "ogg", "mxf", "nut", "dv", "gxf", "rm",
    "ivf", "h264", "hevc", "vvc", "obu", "av1", "m4v", "mpegvideo", "vc1", "dirac", "cavsvideo",
    "yuv4mpegpipe", "wtv", "nsv", "flic",
)  # fmt: skip
"""FFmpeg's names of the formats that are read: all of them hold the media in the one file. "mjpeg" is none: it
takes any file that a JPEG lies in somewhere, such as a PDF, for a video."""

NUMBERED_FORMATS = frozenset(
    {"avi", "h264", "hevc", "vvc", "obu", "av1", "m4v", "mpegvideo", "vc1", "dirac", "cavsvideo"}
)
"""These note no time of display, only the order of decoding: frames are known by their number."""

_PICTURE_CODECS = frozenset({"mjpeg", "png", "bmp", "gif", "webp", "tiff", "jpegls", "jpeg2000", "jpegxl"})
"""Beside another stream, one of these is a cover, even where nothing says so."""

_ALPHA_DECODERS = {"vp8": "libvpx", "vp9": "libvpx-vp9"}
"""FFmpeg's own decoders of these leave the second picture out that WebM keeps the opacity in."""


def import_av() -> Any:
    """PyAV.

    Raises:
        DataError: when it is missing, or so old that it decodes HD colours with the matrix of SD.
    """
    way_out = f'python -m pip install -U "av>={_MIN_PYAV}"'
    try:
        import av
    except ImportError as error:
        raise DataError(f"videos need the package av (PyAV): {way_out}") from error
    version = str(getattr(av, "__version__", "0"))
    major = version.split(".")[0]
    if not major.isdigit() or int(major) < _MIN_PYAV:
        raise DataError(
            f"PyAV {version} decodes BT.709 with wrong colours; {_MIN_PYAV} or newer is needed: {way_out}"
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
    try:
        with path.open("rb") as file, _open_container(path, file) as container:
            stream = _choose_stream(path, container)
            yield container, stream, _choose_decoder(stream)
    except (av.FFmpegError, OSError) as error:
        raise MediaError(path, "does not decode", first_line(error)) from error


def _open_container(path: Path, file: BinaryIO) -> Any:
    av = import_av()
    options = {"format_whitelist": ",".join(FORMATS), "protocol_whitelist": "none"}
    try:
        return av.open(_Nameless(file), metadata_errors="replace", options=options)
    except av.ArgumentError as error:  # FFmpeg knows the format, but it is not in the list
        raise MediaError(path, "no photo or video", describe_foreign(path)) from error
    except av.InvalidDataError as error:
        raise MediaError(path, "does not decode", describe_foreign(path)) from error


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
    """The default and largest one, as ffmpeg chooses; cover pictures are none.

    An unmarked picture beside another video counts as a cover here, though ffmpeg may show it.
    """
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
            s.codec_context.codec.name not in _PICTURE_CODECS,
            s.codec_context.width * s.codec_context.height
            + 5_000_000 * bool(s.disposition & Disposition.default),
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


_SEGMENT, _CLUSTER = 0x18538067, 0x1F43B675
_ASF_FILE_PROPERTIES = bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365")
_ASF_BROADCAST = 1
_TS_PACKET_BYTES = (188, 192, 204)
_TS_SYNC = 0x47


def check_whole(path: Path) -> None:
    """Refuse a file that is shorter than its structure promises; formats without a promise pass.

    Raises:
        MediaError: when bytes are missing, and when the file cannot be read.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            walk = _choose_walk(file.read(1024))
            end = size if walk is None else walk(file, size)
    except OSError as error:
        raise MediaError(path, "cannot be read", first_line(error)) from error
    except _BrokenStructureError as error:
        raise MediaError(path, "damaged", f"{error}; copy or download it again") from error
    except struct.error as error:
        raise MediaError(
            path,
            "truncated",
            f"it ends after {size} bytes in the middle of a header; copy or download it again",
        ) from error
    if end > size:
        raise MediaError(
            path,
            "truncated",
            f"it has {size} bytes, and its own headers promise {end} or more; copy or download it again",
        )


class _BrokenStructureError(Exception):
    """Bytes that are no part of the container, where a part of it has to begin."""


def _choose_walk(head: bytes) -> Callable[[BinaryIO, int], int] | None:
    if head[4:8] in (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip", b"styp", b"pnot"):
        return _end_of_boxes
    if head[:4] == b"\x1aE\xdf\xa3":
        return _end_of_matroska
    if head[:4] == b"RIFF":
        return _end_of_riff
    if head[:4] == b"OggS":
        return _end_of_ogg
    if head[:3] == b"FLV":
        return _end_of_flv
    if head[:4] == b"\x30\x26\xb2\x75":
        return _end_of_asf
    for packet_bytes in _TS_PACKET_BYTES:
        offset = 4 if packet_bytes == 192 else 0
        sync = head[offset::packet_bytes]
        if len(sync) >= 4 and set(sync) == {_TS_SYNC}:
            return partial(_end_of_packets, packet_bytes, offset)
    return None


def _end_of_packets(packet_bytes: int, offset: int, file: BinaryIO, size: int) -> int:
    """MPEG-TS: packets of one length, each with its mark."""
    file.seek(0)
    at = 0
    while block := file.read(packet_bytes * 16_384):
        marks = np.frombuffer(block, np.uint8)[offset::packet_bytes]
        if (marks != _TS_SYNC).any():
            raise _BrokenStructureError(
                f"there is no packet at byte {at + int((marks != _TS_SYNC).argmax()) * packet_bytes}"
            )
        at += len(block)
    return -(-size // packet_bytes) * packet_bytes


def _end_of_boxes(file: BinaryIO, size: int) -> int:
    """ISO base media (mp4, mov, 3gp, heic, avif): where its last top-level box ends."""
    position = 0
    while position < size:
        file.seek(position)
        header = file.read(16)
        if len(header) < 8:
            # QuickTime ends some files with four zero bytes.
            return position if not any(header) else position + 8
        length = int(struct.unpack(">I", header[:4])[0])
        if length == 1 and len(header) == 16:
            length = int(struct.unpack(">Q", header[8:])[0])
        elif length == 0:
            return size  # to the end of the file
        if length < 8:
            return size  # no box: something was appended
        position += length
    return position


def _end_of_matroska(file: BinaryIO, size: int) -> int:
    """Matroska and WebM: where the last element ends; segments and clusters of a live recording have no size."""
    position = end_of_segment = 0
    while position < size:
        file.seek(position)
        header = file.read(12)
        id_bytes = _vint_bytes(header[0])
        size_bytes = _vint_bytes(header[id_bytes]) if len(header) > id_bytes else 0
        if id_bytes > 4 or size_bytes > 8:
            if position < end_of_segment:
                raise _BrokenStructureError(f"there is no element at byte {position}")
            return max(position, end_of_segment)  # something was appended
        start = id_bytes + size_bytes
        if len(header) < start or not size_bytes:
            return position + start + 1
        element = int.from_bytes(header[:id_bytes], "big")
        length = int.from_bytes(header[id_bytes:start], "big") & ((1 << 7 * size_bytes) - 1)
        unknown = length == (1 << 7 * size_bytes) - 1
        position += start
        if element == _SEGMENT:
            end_of_segment = size if unknown else position + length
        elif element != _CLUSTER:  # into segments and clusters, past all others
            position += length
    return max(position, end_of_segment)


def _vint_bytes(first: int) -> int:
    """Length of an EBML number by its first byte; 9 when it is none."""
    return 9 - first.bit_length()


def _end_of_riff(file: BinaryIO, size: int) -> int:
    """AVI and WebP: where the last RIFF chunk ends; large AVI have several."""
    position = 0
    while position < size:
        file.seek(position)
        header = file.read(8)
        if header[:4] != b"RIFF":
            return position  # something was appended
        length = int(struct.unpack("<I", header[4:])[0])
        if length == 0:
            return size  # the writer did not come to fill it in
        position += 8 + length + length % 2
        if position == size + 1:
            return size  # the padding of the last chunk is often left out
    return position


def _end_of_ogg(file: BinaryIO, size: int) -> int:
    """Ogg: where the last page ends. A page takes at most 65,307 bytes."""
    start = max(size - 2 * 65_307, 0)
    file.seek(start)
    tail = file.read()
    found = tail.rfind(b"OggS")
    if found < 0:
        return size
    page = tail[found:]
    if len(page) < 27 or len(page) < 27 + page[26]:
        return size + 1
    return start + found + 27 + page[26] + sum(page[27 : 27 + page[26]])


def _end_of_flv(file: BinaryIO, size: int) -> int:
    """FLV: each tag is followed by its own length, so the last four bytes tell whether it is whole."""
    file.seek(max(size - 4, 0))
    length = int.from_bytes(file.read(4), "big")
    tag = size - 4 - length
    if tag >= 13:
        file.seek(tag)
        header = file.read(4)
        if header[0] & 0x1F in (8, 9, 18) and int.from_bytes(header[1:], "big") + 11 == length:
            return size
    return size + 1


def _end_of_asf(file: BinaryIO, size: int) -> int:
    """ASF (WMV): the size of the file stands in its header, but for a broadcast."""
    file.seek(0)
    head = file.read(65_536)
    found = head.find(_ASF_FILE_PROPERTIES)
    if found < 0 or len(head) < found + 92:
        return size + 1
    promised, flags = struct.unpack("<Q", head[found + 40 : found + 48])[0], head[found + 88]
    return size if flags & _ASF_BROADCAST else int(promised)
