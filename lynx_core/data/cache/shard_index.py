"""Which shard holds a cache entry, and where: sorted columns of an Arrow file, mapped into memory.

A row is 84 bytes on the disk. A process keeps the first key of each batch; a look-up touches a few pages of the file,
which all processes of a machine share.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ...durable_file import write_aside
from ..errors import DataError, first_line
from .shard_file import ShardEntry

ROW = np.dtype([("key", "S32"), ("source", "S32"), ("shard", "<i4"), ("offset", "<i8"), ("length", "<i8")])
"""Key and source are hashes; numpy takes the zeros at their end for padding, and equal ones stay equal."""
_FORMAT = 1
_BATCH_ROWS = 1 << 20


class ShardIndex:
    """The index of a folder of shards, opened; attributes are plain.

    Attributes:
        shards: name and bytes of each.
        generation: another one when entries have got lost, and what was done is to be looked at again.
    """

    def __init__(
        self, shards: Mapping[str, int], generation: str, columns: Sequence[Mapping[str, Any]]
    ) -> None:
        self.shards = dict(shards)
        self.generation = generation
        self._names = list(self.shards)
        self._columns = [some for some in columns if len(some["key"])]
        self._first_keys = np.array([some["key"][0] for some in self._columns], "S32")

    @classmethod
    def empty(cls) -> ShardIndex:
        """That of a cache which never had one; it has no generation."""
        return cls({}, "", [])

    @property
    def num_entries(self) -> int:
        return sum(len(some["key"]) for some in self._columns)

    def find(self, key: bytes) -> tuple[str, int, int] | None:
        """Shard, offset and length of the entry whose hash this is."""
        batch = int(np.searchsorted(self._first_keys, np.array(key, "S32"), "right")) - 1
        if batch < 0:
            return None
        columns = self._columns[batch]
        row = int(np.searchsorted(columns["key"], np.array(key, "S32")))
        if row == len(columns["key"]) or columns["key"][row].ljust(32, b"\0") != key:
            return None
        return self._names[columns["shard"][row]], int(columns["offset"][row]), int(columns["length"][row])

    def rows(self) -> np.ndarray:
        """All of them, [n] `ROW`."""
        rows = np.zeros(self.num_entries, ROW)
        start = 0
        for columns in self._columns:
            end = start + len(columns["key"])
            for name in ROW.names or ():
                rows[name][start:end] = columns[name]
            start = end
        return rows


def make_rows(entries: Sequence[ShardEntry], shard: int) -> np.ndarray:
    """The rows of a shard's entries, [n] `ROW`."""
    rows = np.zeros(len(entries), ROW)
    for row, entry in enumerate(entries):
        source = bytes.fromhex(entry.source)
        rows[row] = (key_of(entry.name), source, shard, entry.offset, entry.length)
    return rows


def key_of(name: str) -> bytes:
    """The hash in an entry's name."""
    return bytes.fromhex(name.rpartition("/")[2].partition(".")[0])


def sort_rows(rows: np.ndarray) -> np.ndarray:
    """Rows by key; of equal keys the last stays."""
    order = np.argsort(rows["key"], kind="stable")
    keys = rows["key"][order]
    is_last = np.ones(len(rows), bool)
    is_last[:-1] = keys[1:] != keys[:-1]
    return rows[order[is_last]]


def write_shard_index(path: Path, rows: np.ndarray, shards: Mapping[str, int], generation: str) -> None:
    """Write an index, whole or not at all.

    Args:
        rows: of `sort_rows`; their shards are places in `shards`.

    Raises:
        OSError: as the system says.
    """
    import pyarrow as pa

    stated = {"format": _FORMAT, "generation": generation or uuid.uuid4().hex, "shards": dict(shards)}
    types = {"S32": pa.binary(32), "<i4": pa.int32(), "<i8": pa.int64()}
    schema = pa.schema([(name, types[ROW[name].str.lstrip("|")]) for name in ROW.names or ()])
    schema = schema.with_metadata({"lynx": json.dumps(stated)})
    with (
        write_aside(path) as (aside,),
        pa.OSFile(str(aside), "wb") as sink,
        pa.ipc.new_file(sink, schema) as file,
    ):
        for start in range(0, len(rows), _BATCH_ROWS):
            some = rows[start : start + _BATCH_ROWS]
            arrays = []
            for field in schema:
                values = pa.py_buffer(np.ascontiguousarray(some[field.name]))
                arrays.append(pa.Array.from_buffers(field.type, len(some), [None, values]))
            file.write_batch(pa.record_batch(arrays, schema=schema))


def open_shard_index(path: Path) -> ShardIndex:
    """Map an index, an empty one when there is none.

    Raises:
        DataError: when it cannot be read, with the way out.
    """
    import pyarrow as pa

    way_out = "; delete it, and run comfy-lynx prepare: it is made anew from the shards"
    try:
        file = pa.ipc.open_file(pa.memory_map(str(path)))
        stated = json.loads(file.schema.metadata[b"lynx"])
        if stated["format"] != _FORMAT:
            raise DataError(f"{path} has format {stated['format']!r}, this version reads {_FORMAT}{way_out}")
        batches = [file.get_batch(number) for number in range(file.num_record_batches)]
        columns = [{name: _view(batch.column(name), name) for name in ROW.names or ()} for batch in batches]
        return ShardIndex(stated["shards"], stated["generation"], columns)
    except FileNotFoundError:
        return ShardIndex.empty()
    except (pa.ArrowException, OSError, KeyError, TypeError, ValueError) as error:
        raise DataError(f"{path} cannot be read ({first_line(error)}){way_out}") from error


def _view(column: Any, name: str) -> np.ndarray:
    """The values of a column where they lie."""
    kind = ROW[name]
    return np.frombuffer(column.buffers()[1], kind, len(column), column.offset * kind.itemsize)
