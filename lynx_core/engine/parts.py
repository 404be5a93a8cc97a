"""Results of a stage on disk: Parquet parts, each named by the hash of the keys of its input.

A part is written aside, flushed and renamed, so that one that can be seen is whole; a process killed at any
moment loses the batches it had in hand and nothing else. Beside the record, each row has the key of the
input it comes of, its own key (a hash of its content, by which the next stage knows it), and where there is
no record, the reason.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..durable_file import write_aside
from .parts_index import PartsIndex, RowRef, pack_keys
from .records import arrow_fields, as_row, from_row, hash_record, hash_texts, list_hints
from .stage import EngineError, Rejected

INPUT, KEY, REASON, DETAIL, SUBJECT, RETRY = "_input", "_key", "_reason", "_detail", "_subject", "_retry"
_OPEN_TABLES = 4
_WRITING_S = 600
"""How long the writing of a part may take; it is a matter of seconds."""


def write_part(path: Path, kind: type, outcomes: Iterable[tuple[str, Sequence[Any | Rejected]]]) -> None:
    """Write what became of inputs, (key, records and rejections), as one part."""
    import pyarrow
    from pyarrow import parquet

    names = list_hints(kind)
    rows = []
    for input_key, results in outcomes:
        for result in results:
            if isinstance(result, Rejected):
                said: tuple[Any, ...] = (None, result.reason, result.detail, result.subject, result.retry)
                values: dict[str, Any] = dict.fromkeys(names)
            else:
                said = (hash_record(result), None, None, None, False)
                values = as_row(result)
            rows.append(
                dict(zip((KEY, REASON, DETAIL, SUBJECT, RETRY), said, strict=True))
                | {INPUT: input_key}
                | values
            )
    text = pyarrow.string()
    fields = [pyarrow.field(name, text) for name in (INPUT, KEY, REASON, DETAIL, SUBJECT)]
    schema = pyarrow.schema([*fields, pyarrow.field(RETRY, pyarrow.bool_()), *arrow_fields(kind)])
    with write_aside(path) as (aside,):
        parquet.write_table(pyarrow.Table.from_pylist(rows, schema), aside, compression="zstd")


class PartsFolder:
    """The parts of one stage and version."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def name_part(self, input_keys: Sequence[str]) -> Path:
        """Where the part of these inputs lies."""
        return self.path / f"{hash_texts(input_keys)}.parquet"

    def read_index(self) -> PartsIndex:
        """What became of each input that was seen so far; a part that does not open is removed."""
        found = [
            (str(part), *columns)
            for part in (sorted(self.path.glob("*.parquet")) if self.path.is_dir() else [])
            if (columns := _index_part(part)) is not None
        ]
        if not found:
            return PartsIndex.empty()
        names, inputs, keys, retries = zip(*found, strict=True)
        lengths = [len(each) for each in keys]
        part = np.repeat(np.arange(len(names)), lengths)
        row = np.concatenate([np.arange(length) for length in lengths])
        places = np.column_stack([part, row]).astype(np.int32)
        return PartsIndex(
            names, np.concatenate(inputs), np.concatenate(keys), places, np.concatenate(retries)
        )

    def remove_leftovers(self) -> None:
        """Delete what a killed process left half-written, and not what another one writes now."""
        left = list(self.path.glob(".*.part")) if self.path.is_dir() else []
        if not left:
            return
        # The time of the disk, as the clocks of the machines may differ.
        with tempfile.NamedTemporaryFile(dir=self.path) as stamp:
            now_s = Path(stamp.name).stat().st_mtime
        for path in left:
            with contextlib.suppress(OSError):
                if now_s - path.stat().st_mtime > _WRITING_S:
                    path.unlink()


def _index_part(part: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
    """Keys of inputs and of records, and whether an input is to be tried again; None for a broken part."""
    import pyarrow
    from pyarrow import parquet

    try:
        table = parquet.read_table(part, columns=[INPUT, KEY, RETRY], partitioning=None)
    except (pyarrow.ArrowException, OSError):
        part.unlink(missing_ok=True)  # its inputs are done again
        return None
    inputs = pack_keys(table[INPUT].to_pylist())
    # One row that is to be tried again makes all rows of its input so.
    again = np.unique(inputs[table[RETRY].to_numpy(zero_copy_only=False).astype(bool)])
    return inputs, pack_keys(table[KEY].to_pylist()), np.isin(inputs, again)


class RecordReader:
    """Reads records by reference; a few parts stay open, so that neighbours come cheap.

    Args:
        kind: record class; only its columns are read.
    """

    def __init__(self, kind: type) -> None:
        self.kind = kind
        self._columns = list(list_hints(kind))
        self._tables: OrderedDict[str, Any] = OrderedDict()

    def read(self, ref: RowRef) -> Any:
        """The record.

        Raises:
            EngineError: when its part is gone.
        """
        return from_row(self.kind, self._read_row(ref.part, ref.row, self._columns))

    def read_rejected(self, part: str, row: int) -> Rejected:
        """The rejection at a place."""
        values = self._read_row(part, row, [REASON, DETAIL, SUBJECT, RETRY])
        return Rejected(values[REASON], values[DETAIL], values[SUBJECT] or "", values[RETRY])

    def _read_row(self, part: str, row: int, columns: list[str]) -> dict[str, Any]:
        from pyarrow import parquet

        name = f"{part}\0{columns[0]}"
        if name not in self._tables:
            try:
                self._tables[name] = parquet.read_table(part, columns=columns, partitioning=None)
            except OSError as error:
                raise EngineError(
                    f"{part} is gone or broken ({error}); run the same command again"
                ) from error
            if len(self._tables) > _OPEN_TABLES:
                self._tables.popitem(last=False)
        table = self._tables[name]
        return {column: table[column][row].as_py() for column in columns}


def erase_records(work: Path, columns: Sequence[str], mentions: Sequence[str], values: set[str]) -> int:
    """Take records out of every part of a work folder, for good; gives how many.

    A rejection stands in the place of each, so that its input counts as done and is not done again.

    Args:
        columns: a record goes when one of these holds one of `values`, or one of them before a colon.
        mentions: columns of text in which a value is blanked, and the record stays.
    """
    return sum(_erase_in_part(part, columns, mentions, values) for part in sorted(work.glob("*/*.parquet")))


def _erase_in_part(part: Path, columns: Sequence[str], mentions: Sequence[str], values: set[str]) -> int:
    import pyarrow
    from pyarrow import parquet

    known = parquet.read_schema(part).names
    names = [name for name in (*columns, *mentions) if name in known]
    if not names:
        return 0

    def holds(value: object) -> bool:
        return value in values or str(value).split(":")[0] in values

    table = parquet.read_table(part, columns=names, partitioning=None)
    if not any(holds(value) for name in names for value in table[name].to_pylist()):
        return 0
    whole = parquet.read_table(part, partitioning=None)
    rows = whole.to_pylist()
    count = 0
    for row in rows:
        if any(holds(row[name]) for name in columns if name in row):
            row.update(dict.fromkeys(set(known) - {INPUT}))
            row.update({REASON: "forgotten", DETAIL: "erased", SUBJECT: "", RETRY: False})
            count += 1
        else:
            row.update({name: "" for name in mentions if name in row and holds(row[name])})
    with write_aside(part) as (aside,):
        parquet.write_table(pyarrow.Table.from_pylist(rows, whole.schema), aside, compression="zstd")
    return count
