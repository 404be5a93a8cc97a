"""Walks the header of a GGUF file before the package `gguf` reads it.

The package believes every count: a damaged one of 2^62 keeps it busy for ever. The layout is that of
https://github.com/ggml-org/ggml/blob/master/docs/gguf.md, version 2 and 3, little-endian.
"""

from __future__ import annotations

import mmap
import struct
from pathlib import Path

MOST_ITEMS = 1_000_000
"""Of an array: the package takes each in a step of Python. The largest vocabularies have 0.3 million."""
MOST_DIMENSIONS = 8

_SCALAR_BYTES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
_STRING, _ARRAY = 8, 9


def check_gguf_header(path: Path) -> None:
    """Check that all counts and lengths of the header stay within the file.

    Raises:
        ValueError: saying which one does not.
        OSError: when the file cannot be read.
    """
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        walk = _Walk(content)
        num_tensors, num_fields = walk.start()
        for _ in range(num_fields):
            walk.skip(walk.read_count("a field's name", 1))
            walk.skip_value(walk.read("I"))
        for _ in range(num_tensors):
            walk.skip(walk.read_count("a tensor's name", 1))
            dimensions = walk.read("I")
            if dimensions > MOST_DIMENSIONS:
                raise ValueError(f"a tensor has {dimensions} dimensions")
            walk.skip(8 * dimensions + 4 + 8)


class _Walk:
    """A place in the file."""

    def __init__(self, content: mmap.mmap) -> None:
        self.content, self.place = content, 0

    def start(self) -> tuple[int, int]:
        """Numbers of tensors and of fields."""
        self.skip(4)
        version = self.read("I")
        if version not in (2, 3):
            raise ValueError(f"its version is {version}, 2 and 3 are read")
        return self.read_count("the number of tensors", 24), self.read_count("the number of fields", 12)

    def skip(self, num_bytes: int) -> None:
        self.place += num_bytes
        if self.place > len(self.content):
            raise ValueError("its header is cut short")

    def read(self, kind: str) -> int:
        size = struct.calcsize("<" + kind)
        self.skip(size)
        return int(struct.unpack_from("<" + kind, self.content, self.place - size)[0])

    def read_count(self, what: str, each_bytes: int) -> int:
        """A count of things that take at least so many bytes each."""
        count = self.read("Q")
        if count * each_bytes > len(self.content) - self.place:
            raise ValueError(f"{what} is {count}, more than the file can hold")
        return count

    def skip_value(self, kind: int) -> None:
        if kind in _SCALAR_BYTES:
            self.skip(_SCALAR_BYTES[kind])
        elif kind == _STRING:
            self.skip(self.read_count("the length of a text", 1))
        elif kind == _ARRAY:
            self._skip_array()
        else:
            raise ValueError(f"a value is of kind {kind}, which GGUF does not have")

    def _skip_array(self) -> None:
        kind = self.read("I")
        count = self.read_count("the length of an array", _SCALAR_BYTES.get(kind, 8))
        if count > MOST_ITEMS:
            raise ValueError(f"an array has {count:,} items, at most {MOST_ITEMS:,} are read")
        if kind == _ARRAY:
            raise ValueError("an array holds arrays")
        if kind in _SCALAR_BYTES:
            self.skip(count * _SCALAR_BYTES[kind])
            return
        for _ in range(count):
            self.skip_value(kind)
