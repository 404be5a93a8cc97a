"""Whether a media file is all there, by the sizes that its own structure promises.

Players show what is left of a cut file, and demuxers end early without an error, so the header's promise
is the only sign. Each container says in its own way how far it reaches; the walks below read headers
only, never the media data.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from .errors import MediaError, first_line

_MATROSKA_MASTERS = (0x18538067, 0x1F43B675)  # Segment and Cluster: the elements that may have no size
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
    if end > size:
        raise MediaError(
            path,
            "truncated",
            f"it has {size} bytes, and its own headers promise {end} or more; copy or download it again",
        )


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
    for packet_bytes in _TS_PACKET_BYTES:
        offset = 4 if packet_bytes == 192 else 0
        sync = head[offset::packet_bytes]
        if len(sync) >= 4 and set(sync) == {_TS_SYNC}:
            return lambda file, size: -(-size // packet_bytes) * packet_bytes
    return None


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
    position = 0
    while position < size:
        file.seek(position)
        header = file.read(12)
        id_bytes = _vint_bytes(header[0])
        if id_bytes > 4 or len(header) <= id_bytes:
            return size if id_bytes > 4 else position + id_bytes + 1
        size_bytes = _vint_bytes(header[id_bytes])
        start = id_bytes + size_bytes
        if size_bytes > 8:
            return size
        if len(header) < start:
            return position + start
        element = int.from_bytes(header[:id_bytes], "big")
        length = int.from_bytes(header[id_bytes:start], "big") & ((1 << 7 * size_bytes) - 1)
        unknown = length == (1 << 7 * size_bytes) - 1
        if unknown and element not in _MATROSKA_MASTERS:
            return size
        # Into those without a size; past all others.
        position += start if unknown else start + length
    return position


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
