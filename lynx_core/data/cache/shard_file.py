"""A shard: many cache entries in one safetensors file, any of which can be read by offset and length alone.

An entry lies in it byte for byte as `tensor_cache` wrote it. The shard's own header calls the tensors of the entry
`KIND/HASH/NAME`, so other programs read them, and the bytes before them, the entry's header, `KIND/HASH#header`.
"""

from __future__ import annotations

import json
import mmap
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from ...durable_file import write_aside
from ...foreign_text import parse_json

SUFFIX = ".safetensors"
ABOUT = "lynx"
"""What the header of an entry says beside its tensors: their hash, and what they were made of. One text, since
safetensors writes several in any order, and equal entries have equal bytes."""
_HEADER = "#header"
_ALIGNMENT = 8
_CHUNK_BYTES = 16 << 20
_MAX_HEADER_BYTES = 100 << 20
"""Of the format."""


@dataclass(frozen=True)
class ShardEntry:
    """Where an entry lies in its shard."""

    name: str
    """As `name_entry` gives it."""
    source: str
    """What it was made of, 64 hex digits, or ""."""
    offset: int
    length: int


@dataclass(frozen=True)
class Piece:
    """The bytes of an entry, in a file of its own or within a shard."""

    name: str
    path: Path
    length: int
    offset: int = 0

    def read(self, start: int, length: int) -> bytes:
        """Some of its bytes.

        Raises:
            OSError: as the system says.
        """
        with self.path.open("rb") as file:
            file.seek(self.offset + start)
            return file.read(length)


def write_shard(path: Path, pieces: Sequence[Piece]) -> list[ShardEntry]:
    """Write entries as one shard, whole or not at all; one whose header is no header is left out.

    Raises:
        OSError: as the system says.
    """
    header: dict[str, Any] = {}
    places: list[tuple[Piece, int, str]] = []  # piece, start of its bytes, source
    end = 0
    for piece in pieces:
        try:
            own, header_bytes = _read_whole_header(piece)
        except ValueError:
            continue
        start = -(-end // _ALIGNMENT) * _ALIGNMENT
        stem = _stem(piece.name)
        data = start + header_bytes
        header[stem + _HEADER] = {"dtype": "U8", "shape": [data - end], "data_offsets": [end, data]}
        for name, tensor in own.items():
            if name != "__metadata__":
                first, last = tensor["data_offsets"]
                header[f"{stem}/{name}"] = {**tensor, "data_offsets": [data + first, data + last]}
        places.append((piece, start, read_source(own)))
        end = start + piece.length
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _ALIGNMENT)
    with write_aside(path) as (aside,), aside.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for piece, start, _ in places:
            file.write(b"\0" * (8 + len(text) + start - file.tell()))
            for at in range(0, piece.length, _CHUNK_BYTES):
                file.write(piece.read(at, min(_CHUNK_BYTES, piece.length - at)))
    base = 8 + len(text)
    return [ShardEntry(piece.name, source, base + start, piece.length) for piece, start, source in places]


def read_piece_source(piece: Piece) -> str:
    """What an entry was made of, by its header alone.

    Raises:
        OSError, ValueError: when it has none.
    """
    return read_source(_read_header(piece.read, piece.length)[0])


def _read_header(read: Callable[[int, int], bytes], length: int) -> tuple[dict[str, Any], int]:
    """The header of an entry of so many bytes, and how many of them come before its tensors.

    Args:
        read: gives bytes of the entry by start and number.
    """
    end = 8 + int.from_bytes(read(0, 8), "little")
    if end > length:
        raise ValueError("cut short")
    return parse_header(read(0, end)), end


def _read_whole_header(piece: Piece) -> tuple[dict[str, Any], int]:
    header, length = _read_header(piece.read, piece.length)
    ends = [tensor["data_offsets"][1] for name, tensor in header.items() if name != "__metadata__"]
    if length + max(ends, default=0) != piece.length:
        raise ValueError("cut short")
    return header, length


def read_entries(file: IO[bytes]) -> list[ShardEntry]:
    """What a shard holds, from its header and those of its entries.

    Raises:
        OSError, ValueError: when it is no whole shard.
    """
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    length = int.from_bytes(file.read(8), "little")
    if not 0 < length <= _MAX_HEADER_BYTES:
        raise ValueError("no header of a shard")
    header = parse_header(length.to_bytes(8, "little") + file.read(length))
    base = 8 + length
    ends: dict[str, int] = {}
    starts: dict[str, int] = {}
    for name, tensor in header.items():
        stem = name.removesuffix(_HEADER) if name.endswith(_HEADER) else name.rpartition("/")[0]
        first, last = (base + at for at in tensor["data_offsets"])
        ends[stem] = max(ends.get(stem, 0), last)
        if name.endswith(_HEADER):
            starts[stem] = -(-first // _ALIGNMENT) * _ALIGNMENT
    if max(ends.values(), default=base) != size:
        raise ValueError(f"it has {size} bytes, its header says {max(ends.values(), default=base)}")

    def read_source_of(start: int, length: int) -> str:
        def read(offset: int, number: int) -> bytes:
            file.seek(start + offset)
            return file.read(number)

        return read_source(_read_header(read, length)[0])

    lengths = {stem: ends[stem] - start for stem, start in starts.items()}
    return [
        ShardEntry(_name(stem), read_source_of(start, lengths[stem]), start, lengths[stem])
        for stem, start in starts.items()
    ]


def _stem(name: str) -> str:
    kind, _, file = name.split("/")
    return f"{kind}/{file.removesuffix(SUFFIX)}"


def _name(stem: str) -> str:
    kind, digest = stem.split("/")
    return f"{kind}/{digest[:2]}/{digest}{SUFFIX}"


class MappedShard:
    """A shard in the address space of the process.

    Raises:
        OSError: when it cannot be mapped.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with path.open("rb") as file:
            self._handle = os.dup(file.fileno())
            self._map = mmap.mmap(self._handle, 0, access=mmap.ACCESS_READ)

    def __del__(self) -> None:
        if hasattr(self, "_handle"):
            os.close(self._handle)

    @property
    def num_bytes(self) -> int:
        """As it is now: to touch a mapped page that was cut off would end the process."""
        return min(len(self._map), os.fstat(self._handle).st_size)

    def read(self, offset: int, length: int) -> bytes:
        """A copy of some of its bytes, fewer where it ends before."""
        return self._map[offset : min(offset + length, self.num_bytes)]


def parse_header(raw: bytes) -> dict[str, Any]:
    """The header of a safetensors document, by the name of the tensor.

    Raises:
        ValueError: when there is none.
    """
    length = int.from_bytes(raw[:8], "little")
    header = parse_json(raw[8 : 8 + length]) if len(raw) >= 8 + length > 8 else None
    if not isinstance(header, dict):
        raise ValueError("no header of a safetensors file")
    return header


def read_source(header: Mapping[str, Any]) -> str:
    """What the entry of a header was made of, as `encode_entry` took it."""
    try:
        return str(read_about(header)["source"])
    except (ValueError, KeyError, TypeError):
        return ""


def read_about(header: Mapping[str, Any]) -> dict[str, str]:
    """Hash and source of an entry.

    Raises:
        ValueError, KeyError, TypeError: when its header has none.
    """
    return dict(parse_json(header["__metadata__"][ABOUT]))
