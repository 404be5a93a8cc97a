"""The manifest of a data set: one row for each pair of a person's reference photos and a target.

Parquet, or JSONL with one object a line. Columns, in the words of a row:

    {"id": "a-17", "target": "clips/17.mp4", "references": ["faces/a.jpg"], "caption": "...",
     "kind": "single-scene", "face_similarity": 0.71, "frame_range": [0, 120], "fps": 25}

The last three may be left out. Paths are relative to the manifest's folder, and may begin with `~` or
an environment variable. A bad row never stops a run: it is set aside with its line and reason, and
counted; the same holds for duplicates of an id (the first row stays).
"""

from __future__ import annotations

import importlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from .errors import DataError, first_line
from .manifest_row import (
    KINDS,
    OPTIONAL,
    REQUIRED,
    BadRow,
    Pair,
    Rejection,
    clean_row,
    parse_row,
    readable_id,
)
from .text_files import find_encoding, find_file

__all__ = ["KINDS", "Manifest", "Pair", "Rejection", "describe_rejections", "read_manifest"]

LOW_SIMILARITY = "face similarity too low"
_PARQUET_ROWS = 4096

_Rows = Iterator[tuple[int, "dict[str, Any] | BadRow"]]


@dataclass(frozen=True)
class Manifest:
    """The usable rows of a manifest, and the others with their reasons."""

    path: Path
    pairs: tuple[Pair, ...]
    rejections: tuple[Rejection, ...]
    ignored_columns: tuple[str, ...]
    """Columns that nothing reads; a misspelled optional column shows here."""
    warnings: tuple[Rejection, ...] = ()
    """What to know about rows that are used."""

    @property
    def num_rows(self) -> int:
        return len(self.pairs) + len(self.rejections)

    def summary(self) -> str:
        """Counts of kinds and of reasons, the first example of each reason."""
        return (
            f"{self.path}: {len(self.pairs)} pairs{count_kinds(self.pairs)}{self.describe_ignored()}"
            f"{describe_rejections(self.rejections)}"
        )

    def describe_ignored(self) -> str:
        """A line that names the columns nothing reads; empty when there are none."""
        names = ", ".join(self.ignored_columns)
        return f"\n  columns that nothing reads: {names}" if names else ""


def count_kinds(pairs: Iterable[Pair]) -> str:
    """As " (2 single-scene, 1 augmented)"; empty without pairs."""
    kinds = ", ".join(f"{n} {kind}" for kind, n in Counter(p.kind for p in pairs).most_common())
    return f" ({kinds})" if kinds else ""


def describe_rejections(rejections: Iterable[Rejection], word: str = "set aside") -> str:
    """A line for each reason: how many, and the first example; empty when there are none."""
    first: dict[str, Rejection] = {}
    counts: Counter[str] = Counter()
    for rejection in rejections:
        first.setdefault(rejection.reason, rejection)
        counts[rejection.reason] += 1
    lines = []
    for reason, count in counts.most_common():
        example = first[reason]
        name = f"line {example.line}" + (f", id {example.id}" if example.id else "")
        lines.append(f"\n  {count} {word}: {reason}; first: {name}: {example.detail}")
    return "".join(lines)


def read_manifest(path: Path | str, min_face_similarity: float | None = None) -> Manifest:
    """Read and check a manifest row by row. Media files are not looked at.

    Args:
        path: a `.parquet` or `.jsonl` file.
        min_face_similarity: pairs below it are set aside, and so are pairs without a figure.

    Raises:
        DataError: when the file is missing or is no such file, and when no usable row is left, with
            the counts by reason and the first example of each.
    """
    path = find_file(Path(path))
    if not path.is_file():
        raise DataError(f"there is no manifest at {path}; name a .parquet or .jsonl file of pairs")
    readers = {".parquet": _read_parquet, ".jsonl": _read_jsonl}
    if path.suffix.lower() not in readers:
        raise DataError(f"{path.name} is no manifest: expected a name that ends in .parquet or .jsonl")
    pairs: dict[str, Pair] = {}
    rejections: list[Rejection] = []
    warnings: list[Rejection] = []
    ignored: dict[str, None] = {}
    for line, row in readers[path.suffix.lower()](path):
        try:
            pair, notes = _use_row(row, line, path.parent, min_face_similarity, pairs)
        except BadRow as bad:
            name = readable_id(row) if isinstance(row, dict) else ""
            rejections.append(Rejection(name, line, bad.reason, bad.detail))
        else:
            pairs[pair.id] = pair
            warnings += notes
        if isinstance(row, dict):
            ignored |= dict.fromkeys(name for name in row if name not in REQUIRED + OPTIONAL)
    if not pairs:
        if not rejections:
            raise DataError(f"{path} has no rows; write one row for each pair")
        raise DataError(f"no usable pair is left of {path}:{describe_rejections(rejections)}")
    return Manifest(path, tuple(pairs.values()), tuple(rejections), tuple(ignored), tuple(warnings))


def _use_row(
    row: dict[str, Any] | BadRow,
    line: int,
    folder: Path,
    min_face_similarity: float | None,
    pairs: dict[str, Pair],
) -> tuple[Pair, list[Rejection]]:
    if isinstance(row, BadRow):
        raise row
    pair, notes = parse_row(row, line, folder)
    if min_face_similarity is not None:
        if pair.face_similarity is None:
            raise BadRow(
                "no face_similarity",
                f"the field is empty, and data.min_face_similarity = {min_face_similarity}",
            )
        if pair.face_similarity < min_face_similarity:
            raise BadRow(
                LOW_SIMILARITY, f"{pair.face_similarity:.3f}, the threshold is {min_face_similarity}"
            )
    if pair.id in pairs:
        raise BadRow("duplicate id", f"line {pairs[pair.id].line} has it too; give each row its own")
    return pair, notes


def _read_jsonl(path: Path) -> _Rows:
    try:
        with path.open("rb") as file:
            encoding = find_encoding(file.read(4))
        # Read as bytes where it can be, so that one line of bad bytes is one bad row.
        is_utf8 = encoding.startswith("utf-8")
        lines: IO[Any] = path.open("rb") if is_utf8 else path.open(encoding=encoding)
        with lines:
            for line, raw in enumerate(lines, start=1):
                if raw.strip():
                    yield line, _parse_json(raw)
    except UnicodeError as error:
        raise DataError(f"{path} is not in the {encoding} that it begins with; save it in UTF-8") from error
    except OSError as error:
        raise DataError(f"{path} cannot be read ({first_line(error)})") from error


def _parse_json(raw: bytes | str) -> dict[str, Any] | BadRow:
    try:
        row = json.loads(raw.decode("utf-8-sig") if isinstance(raw, bytes) else raw)
    except (ValueError, RecursionError) as error:
        return BadRow("unreadable row", f"{first_line(error)}; write one JSON object a line")
    if isinstance(row, dict):
        return clean_row(row)
    return BadRow("unreadable row", f"a {type(row).__name__} instead of an object")


def _read_parquet(path: Path) -> _Rows:
    try:
        pyarrow: Any = importlib.import_module("pyarrow")
        parquet: Any = importlib.import_module("pyarrow.parquet")
    except ImportError as error:
        raise DataError(
            "Parquet needs the package pyarrow: python -m pip install pyarrow, or write the manifest as .jsonl"
        ) from error
    line = 0
    try:
        with parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=_PARQUET_ROWS):
                for position in range(batch.num_rows):
                    line += 1
                    yield line, _parquet_row(batch, position)
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(
            f"{path} cannot be read as Parquet beyond row {line} ({first_line(error)}); write it again"
        ) from error


def _parquet_row(batch: Any, position: int) -> dict[str, Any] | BadRow:
    try:
        values = (column[position].as_py() for column in batch.columns)
        return clean_row(dict(zip(batch.schema.names, values, strict=True)))
    except (ValueError, OverflowError) as error:  # text that is no UTF-8, dates out of range
        return BadRow("unreadable row", first_line(error))
