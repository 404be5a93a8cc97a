"""The ledger: what was made and what it scored, in Parquet parts that are whole or not there.

A part is written aside, flushed to disk and renamed, so a crash at any moment leaves finished parts only. A
row is told by its key; of two rows with one key the later one counts, so a merge that was cut short does no
harm. A score is a value or an error, never both and never neither.

    SELECT metric, model, avg(value) FROM 'runs/benchmark/ledger/scores/*.parquet' GROUP BY ALL   -- duckdb
"""

from __future__ import annotations

import json
import math
import time
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar, get_type_hints

import pyarrow as pa
import pyarrow.parquet as pq

from ..durable_file import write_aside
from .errors import LedgerError

Key = tuple[Any, ...]
LEDGER_VERSION = "1"
_VERSION_KEY = b"lynx_ledger"
MERGE_ABOVE = 200
"""Parts from which they are merged when the ledger is opened for writing."""
_MERGES_SEEN = 3


@dataclass(frozen=True)
class VideoRow:
    """One cell of the matrix: a video, or why there is none."""

    KEY: ClassVar[tuple[str, ...]] = ("method", "subject", "prompt")

    method: str
    subject: str
    prompt: str
    recipe: str
    """Hash of all that decides the video: workflow with its inputs filled in, photo, model files."""
    seed: int | None
    video_sha256: str | None
    """Of the file's bytes; the file is `videos/<video_sha256><suffix>`, or `source` where it lies elsewhere."""
    suffix: str
    error: str | None
    photo_sha256: str
    prompt_sha256: str
    workflow_sha256: str | None
    model_files: str
    """JSON: file name to its SHA-256, null where the server alone has the file."""
    attempts: int
    server: str | None
    latency_s: float | None
    peak_memory_gb: float | None
    memory_source: str | None
    parameters: int | None
    source: str | None = None
    """Path of a finished video that was brought along."""
    made_at: float = field(default_factory=time.time)


@dataclass(frozen=True)
class ScoreRow:
    """One figure of one video, or why there is none."""

    KEY: ClassVar[tuple[str, ...]] = (
        "video_sha256", "target_sha256", "metric", "metric_version", "model_sha256", "repeat",
    )  # fmt: skip

    video_sha256: str
    target_sha256: str
    """What it was compared with: the reference photo's or the prompt's hash; empty when with nothing."""
    metric: str
    metric_version: str
    model: str
    """Name of the network or judge that answered; empty for plain arithmetic."""
    model_sha256: str
    repeat: int
    value: float | None
    error: str | None
    detail: str = "{}"
    """JSON: scores of frames, raw answers, tokens."""
    made_at: float = field(default_factory=time.time)

    def __post_init__(self) -> None:
        if (self.value is None) == (self.error is None):
            raise ValueError(f"a score is a value or an error, got {self.value!r} and {self.error!r}")
        if self.value is not None and (isinstance(self.value, str) or not math.isfinite(self.value)):
            raise ValueError(f"the value of {self.metric} is a finite number, got {self.value!r}")

    @property
    def key(self) -> Key:
        """Tells the row in the ledger."""
        return tuple(getattr(self, name) for name in self.KEY)

    @property
    def details(self) -> dict[str, Any]:
        return json.loads(self.detail)


@dataclass(frozen=True)
class AnswerRow:
    """One answer of a rater."""

    KEY: ClassVar[tuple[str, ...]] = ("study", "rater", "task", "criterion")

    study: str
    rater: str
    task: str
    kind: str
    """rating, repeat or pair."""
    subject: str
    prompt: str
    method: str
    other_method: str | None
    """Of a pair: the one that was not chosen."""
    criterion: str
    value: float
    """1 to 5; 1 for the chosen method of a pair."""
    seconds: float
    made_at: float = field(default_factory=time.time)


Row = TypeVar("Row", VideoRow, ScoreRow, AnswerRow)
_ARROW = {str: pa.string(), int: pa.int64(), float: pa.float64()}


def _schema(kind: type[Any]) -> pa.Schema:
    hints = get_type_hints(kind)
    columns = []
    for entry in fields(kind):
        hint = hints[entry.name]
        options = getattr(hint, "__args__", ())
        base = next((option for option in options if option is not type(None)), hint)
        columns.append(pa.field(entry.name, _ARROW[base], nullable=type(None) in options))
    return pa.schema(columns, metadata={_VERSION_KEY: LEDGER_VERSION.encode()})


class Ledger(Generic[Row]):
    """One table of the ledger.

    Args:
        folder: of its parts.
        kind: the dataclass of a row.
    """

    def __init__(self, folder: Path, kind: type[Row]) -> None:
        self.folder = folder
        self.kind: type[Row] = kind
        self._schema = _schema(kind)

    def append(self, rows: Sequence[Row]) -> None:
        """Add rows; they are on disk when this returns.

        Raises:
            LedgerError: when the disk is full or refuses.
        """
        if rows:
            self._write([asdict(row) for row in rows])

    def _write(self, rows: Sequence[Mapping[str, Any]]) -> Path:
        table = pa.Table.from_pylist(list(rows), schema=self._schema)
        path = self.folder / f"{time.time_ns():020d}-{uuid.uuid4().hex[:8]}.parquet"
        try:
            with write_aside(path) as (aside,):
                pq.write_table(table, aside, compression="zstd")
        except OSError as error:
            raise LedgerError(
                f"the ledger {self.folder} cannot be written ({error.strerror or error}); make room, then run the "
                "same command again: what is in it stays"
            ) from error
        return path

    def read(self) -> list[Row]:
        """All rows, the latest of each key, in the order they were made.

        Raises:
            LedgerError: when a part is damaged, or of another version of the ledger.
        """
        for _ in range(_MERGES_SEEN):
            try:
                return self._latest(self._read_part(path) for path in self._parts())
            except FileNotFoundError:
                continue  # another process is merging: its new part is there
        raise LedgerError(f"parts of {self.folder} go away while they are read; is something deleting them?")

    def _latest(self, parts: Iterable[list[Row]]) -> list[Row]:
        rows: dict[tuple[Any, ...], Row] = {}
        for part in parts:
            for row in part:
                key = tuple(getattr(row, name) for name in self.kind.KEY)
                known = rows.get(key)
                if known is None or row.made_at >= known.made_at:
                    rows.pop(key, None)
                    rows[key] = row
        return list(rows.values())

    def merge(self) -> None:
        """Make one part of many; a crash on the way leaves rows twice on disk, which `read` does not mind."""
        parts = self._parts()
        if len(parts) <= MERGE_ABOVE:
            return
        self._write([asdict(row) for row in self._latest(self._read_part(path) for path in parts)])
        for path in parts:
            path.unlink()

    def _parts(self) -> list[Path]:
        return sorted(self.folder.glob("*.parquet"))

    def _read_part(self, path: Path) -> list[Row]:
        try:
            # Not through the dataset layer: a column that is missing must be an error, not nulls.
            table = pq.ParquetFile(path).read()
        except FileNotFoundError:
            raise
        except (OSError, pa.ArrowException) as error:
            raise LedgerError(
                f"the part {path} is damaged ({str(error).splitlines()[0][:200]}); move it away, and the same command "
                "does again what it held"
            ) from error
        version = (table.schema.metadata or {}).get(_VERSION_KEY, b"none").decode()
        if version != LEDGER_VERSION:
            raise LedgerError(
                f"{path} is of ledger version {version!r}, this program reads and writes {LEDGER_VERSION!r}; name another "
                "output folder, or use the program that wrote it"
            )
        try:
            return [self.kind(**row) for row in table.to_pylist()]
        except (TypeError, ValueError) as error:
            raise LedgerError(f"{path} holds rows that are none ({error}); move it away") from error


def open_videos(output: Path) -> Ledger[VideoRow]:
    return Ledger(output / "ledger" / "videos", VideoRow)


def open_scores(output: Path) -> Ledger[ScoreRow]:
    return Ledger(output / "ledger" / "scores", ScoreRow)


def open_answers(output: Path) -> Ledger[AnswerRow]:
    return Ledger(output / "ledger" / "people", AnswerRow)
