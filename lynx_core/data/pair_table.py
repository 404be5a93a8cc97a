"""The pairs of a dataset as Arrow columns: read from memory or mapped from a file, a row at a time.

Two tables. `plan` is one batch of plain numbers, all that the planning of packs needs, so that its columns
are numpy arrays without a copy: 13 bytes a pair, and of a mapped file shared by all processes. `pairs` has
everything else in batches of `BATCH_ROWS`, of which a row is read when its sample is drawn.
"""

from __future__ import annotations

import json
import os
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..foreign_text import parse_json
from ..hashing import hash_file
from ..tokens import count_tokens
from .errors import MediaError
from .manifest import KINDS, Pair
from .media.decoding import ClipPlan

BATCH_ROWS = 1 << 14
_GONE = (-1, -1)


@dataclass(frozen=True, eq=False)
class IndexEntry:
    """A pair whose files can be used."""

    pair: Pair
    """With the paths as they are on the disk, and without references that cannot be read."""
    plan: ClipPlan
    target_hash: str
    reference_hashes: tuple[str, ...]
    file_states: tuple[tuple[int, int] | None, ...] = ()
    """Bytes and time of change in ns of the target and of each reference when they were hashed; None for one that
    is gone, and known from the cache alone."""

    @property
    def absent_files(self) -> int:
        """How many of its files are gone."""
        return sum(state is None for state in self.file_states)

    def check_files(self) -> None:
        """Notice a file that was changed after it was indexed; one that is gone is no fault, what was made of it holds.

        Raises:
            MediaError: when one has another content.
        """
        paths = (self.pair.target, *self.pair.references)
        digests = (self.target_hash, *self.reference_hashes)
        for path, digest, state in zip(paths, digests, self.file_states, strict=False):
            try:
                now = path.stat()
                if (now.st_size, now.st_mtime_ns) == state or hash_file(path) == digest:
                    continue
            except OSError:
                continue
            raise MediaError(
                path,
                "file has changed",
                "it is another one than when it was prepared; prepare the dataset again",
            )


class PairTable(Sequence[IndexEntry]):
    """The usable pairs of a dataset, in the order of the manifest.

    Args:
        pairs: the bytes of the first table, as an Arrow input.
        plan: of the second.
        folder: that relative paths are in.

    Attributes:
        lines: of the manifest, rising.
        tokens: of the target.
        latent_frames, latent_heights, latent_widths: of the target.
        kinds: places in `KINDS`.
        num_absent: files that are gone.
        kind_weights: how often each kind is drawn as the manifest has it, the sum over the kind's pairs; None where no
            pair has a weight, and 1 for one that has none beside others that do.
    """

    def __init__(self, pairs: Any, plan: Any, folder: Path) -> None:
        import pyarrow

        self.folder = folder
        self._pairs = pyarrow.ipc.open_file(pairs)
        self._open_batches: dict[int, Any] = {}
        batch = pyarrow.ipc.open_file(plan).get_batch(0)
        columns = {name: batch.column(name).to_numpy(zero_copy_only=True) for name in batch.schema.names}
        self.lines, self.tokens, self.kinds = columns["line"], columns["tokens"], columns["kind"]
        self.latent_frames = columns["latent_frames"]
        self.latent_heights, self.latent_widths = columns["latent_height"], columns["latent_width"]
        self.num_absent = int(batch.schema.metadata[b"num_absent"])
        self.kind_weights: dict[str, float] | None = parse_json(batch.schema.metadata[b"kind_weights"])
        self.ids = IdColumn(self)

    def __len__(self) -> int:
        return len(self.lines)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        row = self.read_row(index)
        return self._make_entry(row)

    def read_row(self, index: int, columns: Sequence[str] = ()) -> dict[str, Any]:
        """The plain values of a row, or some of them."""
        index = range(len(self))[index]
        batch = self._batch(index // BATCH_ROWS)
        return {name: batch.column(name)[index % BATCH_ROWS].as_py() for name in columns or _COLUMNS}

    def find_files(self, digests: set[str]) -> Iterator[tuple[int, str]]:
        """Rows that have a file of one of these hashes as target or reference, and which."""
        return _find_files(self._pairs, digests)

    def find_long_captions(self, num_bytes: int) -> Iterator[int]:
        """Rows whose caption has at least so many bytes."""
        from pyarrow import compute

        for number in range(self._pairs.num_record_batches):
            sizes = compute.binary_length(self._pairs.get_batch(number).column("caption")).to_numpy()
            yield from (number * BATCH_ROWS + int(row) for row in np.flatnonzero(sizes >= num_bytes))

    def _batch(self, number: int) -> Any:
        found = self._open_batches.get(number)
        if found is None:
            if len(self._open_batches) >= 16:
                self._open_batches.clear()
            found = self._open_batches[number] = self._pairs.get_batch(number)
        return found

    def _make_entry(self, row: dict[str, Any]) -> IndexEntry:
        target, *references = (self.folder / path for path in row["paths"])
        target_hash, *reference_hashes = (digest.hex() for digest in row["hashes"])
        pair = Pair(
            id=row["id"],
            target=target,
            references=tuple(references),
            caption=row["caption"],
            kind=row["kind"],
            line=row["line"],
            face_similarity=row["face_similarity"],
            frame_range=None if row["frame_range"] is None else tuple(row["frame_range"]),
            fps=row["fps"],
            weight=row["weight"],
            row_hash=row["row_hash"],
        )
        states = zip(row["file_bytes"], row["file_times"], strict=True)
        return IndexEntry(
            pair,
            ClipPlan.restore(row["sizes_px"], row["pts"]),
            target_hash,
            tuple(reference_hashes),
            tuple(None if state == _GONE else state for state in states),
        )


def _find_files(pairs: Any, digests: set[str]) -> Iterator[tuple[int, str]]:
    import pyarrow
    from pyarrow import compute

    wanted = pyarrow.array([bytes.fromhex(digest) for digest in sorted(digests)], pyarrow.binary(32))
    for number in range(pairs.num_record_batches):
        hashes = pairs.get_batch(number).column("hashes")
        hits = compute.is_in(hashes.flatten(), value_set=wanted)
        if not hits.true_count:
            continue
        rows = compute.list_parent_indices(hashes).filter(hits).to_pylist()
        found = hashes.flatten().filter(hits).to_pylist()
        yield from (
            (number * BATCH_ROWS + row, digest.hex()) for row, digest in zip(rows, found, strict=True)
        )


def list_holders(path: Path, digests: set[str]) -> set[str]:
    """Ids of the rows of a `pairs` table's file that name one of these hashes.

    Raises:
        ValueError, OSError: when the file does not open.
    """
    import pyarrow

    with pyarrow.memory_map(str(path)) as mapped:
        pairs = pyarrow.ipc.open_file(mapped)
        rows = [row for row, _ in _find_files(pairs, digests)]
        return {pairs.get_batch(row // BATCH_ROWS).column("id")[row % BATCH_ROWS].as_py() for row in rows}


class IdColumn(Sequence[str]):
    """The ids of a table's pairs."""

    def __init__(self, table: PairTable) -> None:
        self._table = table

    def __len__(self) -> int:
        return len(self._table)

    def __getitem__(self, index: Any) -> Any:
        return str(self._table.read_row(int(index), ("id",))["id"])


_COLUMNS = (
    "id", "line", "kind", "caption", "face_similarity", "frame_range", "fps", "row_hash", "paths", "hashes",
    "file_bytes", "file_times", "sizes_px", "pts", "weight",
)  # fmt: skip


def _pairs_schema() -> Any:
    import pyarrow as pa

    text, number, real = pa.string(), pa.int64(), pa.float64()
    kinds = (
        text, number, text, text, real, pa.list_(number), real, text, pa.list_(text), pa.list_(pa.binary(32)),
        pa.list_(number), pa.list_(number), pa.list_(pa.int32()), pa.list_(number), real,
    )  # fmt: skip
    return pa.schema(list(zip(_COLUMNS, kinds, strict=True)))


class TableWriter:
    """Writes the two tables, entry after entry; holds one batch, and 13 bytes of each pair.

    Args:
        pairs, plan: places to write to, as pyarrow takes them.
        folder: paths within it are kept relative to it, so that both may be moved together.
    """

    def __init__(self, pairs: Any, plan: Any, folder: Path) -> None:
        import pyarrow

        self.folder = folder
        self._plan_sink = plan
        self._schema = _pairs_schema()
        self._pairs = pyarrow.ipc.new_file(pairs, self._schema)
        self._rows: list[dict[str, Any]] = []
        self._numbers = {name: array(code) for name, code in _PLAN_TYPES.items()}
        self._num_absent = 0
        self._weights: dict[str, float] = {}
        self._is_weighted = False

    def add(self, entry: IndexEntry) -> None:
        """Take a pair."""
        pair, plan = entry.pair, entry.plan
        states = entry.file_states or (None,) * (1 + len(pair.references))
        values = (
            pair.id,
            pair.line,
            pair.kind,
            pair.caption,
            pair.face_similarity,
            pair.frame_range,
            pair.fps,
            pair.row_hash,
            [self._shorten(path) for path in (pair.target, *pair.references)],
            [bytes.fromhex(digest) for digest in (entry.target_hash, *entry.reference_hashes)],
            [(state or _GONE)[0] for state in states],
            [(state or _GONE)[1] for state in states],
            plan.sizes_px,
            None if plan.pts is None else plan.pts.tolist(),
            pair.weight,
        )
        self._rows.append(dict(zip(_COLUMNS, values, strict=True)))
        self._is_weighted |= pair.weight is not None
        weight = 1.0 if pair.weight is None else pair.weight
        self._weights[pair.kind] = self._weights.get(pair.kind, 0.0) + weight
        shape = plan.latent_shape
        numbers = (pair.line, count_tokens(shape), KINDS.index(pair.kind), *shape)
        for column, number in zip(self._numbers.values(), numbers, strict=True):
            column.append(number)
        self._num_absent += entry.absent_files
        if len(self._rows) == BATCH_ROWS:
            self._flush()

    def close(self) -> None:
        """Write what is left."""
        import pyarrow as pa

        self._flush()
        self._pairs.close()
        columns = {
            name: pa.array(
                np.frombuffer(column, dtype=column.typecode) if column else [], _arrow_type(column)
            )
            for name, column in self._numbers.items()
        }
        batch = pa.record_batch(columns)
        weights = json.dumps(self._weights if self._is_weighted else None)
        schema = batch.schema.with_metadata({"num_absent": str(self._num_absent), "kind_weights": weights})
        with pa.ipc.new_file(self._plan_sink, schema) as file:
            file.write_batch(batch.replace_schema_metadata(schema.metadata))

    def _flush(self) -> None:
        import pyarrow

        if self._rows:
            self._pairs.write_batch(pyarrow.RecordBatch.from_pylist(self._rows, self._schema))
            self._rows = []

    def _shorten(self, path: Path) -> str:
        # Not relative_to: it refuses "..", and costs ten times as much.
        text, start = str(path), str(self.folder) + os.sep
        return text.removeprefix(start)


_PLAN_TYPES = {
    "line": "i", "tokens": "i", "kind": "b", "latent_frames": "h", "latent_height": "h", "latent_width": "h",
}  # fmt: skip
"""Type codes of `array`."""


def _arrow_type(column: array[int]) -> Any:
    import pyarrow

    return {"i": pyarrow.int32(), "h": pyarrow.int16(), "b": pyarrow.int8()}[column.typecode]


def make_table(entries: Iterable[IndexEntry], folder: Path) -> PairTable:
    """A table in memory."""
    import pyarrow

    pairs, plan = pyarrow.BufferOutputStream(), pyarrow.BufferOutputStream()
    writer = TableWriter(pairs, plan, folder)
    for entry in entries:
        writer.add(entry)
    writer.close()
    return PairTable(pairs.getvalue(), plan.getvalue(), folder)
