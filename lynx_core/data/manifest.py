"""The manifest of a data set: one row for each pair of a person's reference photos and a target.

Parquet, or JSONL with one object a line. Columns, in the words of a row:

    {"id": "a-17", "target": "clips/17.mp4", "references": ["faces/a.jpg"], "caption": "...",
     "kind": "single-scene", "face_similarity": 0.71, "frame_range": [0, 120], "fps": 25}

The last three may be left out. Paths are relative to the manifest's folder. A bad row never stops a
run: it is set aside with its line and reason, and counted; the same holds for duplicates of an id
(the first row stays) and for files that are not there.
"""

from __future__ import annotations

import difflib
import importlib
import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .errors import DataError, first_line

KINDS = ("single-scene", "multi-scene", "augmented")
"""How a pair was made: both from one scene; from different scenes; one scene, edited afterwards."""

REQUIRED = ("id", "target", "references", "caption", "kind")
OPTIONAL = ("face_similarity", "frame_range", "fps")
_PARQUET_ROWS = 4096


@dataclass(frozen=True)
class Pair:
    """One row: who, and what to make of it."""

    id: str
    target: Path
    """Image or video that the model learns to make."""
    references: tuple[Path, ...]
    """Photos of the person's face; the embedding is their mean, the reference crop comes of the first."""
    caption: str
    kind: str
    """One of `KINDS`."""
    line: int
    """Of the row in the manifest, from 1."""
    face_similarity: float | None = None
    """Cosine between reference and target as measured when the data were made."""
    frame_range: tuple[int, int] | None = None
    """First frame and the one after the last, in frames of the target's file."""
    fps: float | None = None
    """Frame rate of the target that replaces the one its file claims."""


@dataclass(frozen=True)
class Rejection:
    """A row or sample that was set aside."""

    id: str
    """Of the row, or "" when it has none that can be read."""
    line: int
    """In the manifest, from 1."""
    reason: str
    """In few words, the same for all rejections of a sort."""
    detail: str
    """The value seen, and the way out."""


@dataclass(frozen=True)
class Manifest:
    """The usable rows of a manifest, and the others with their reasons."""

    path: Path
    pairs: tuple[Pair, ...]
    rejections: tuple[Rejection, ...]
    ignored_columns: tuple[str, ...]
    """Columns that nothing reads; a misspelled optional column shows here."""

    def summary(self) -> str:
        """Counts of kinds and of reasons, the first example of each reason."""
        kinds = ", ".join(f"{n} {kind}" for kind, n in Counter(p.kind for p in self.pairs).most_common())
        text = f"{self.path}: {len(self.pairs)} pairs" + (f" ({kinds})" if kinds else "")
        if self.ignored_columns:
            text += f"\n  columns that nothing reads: {', '.join(self.ignored_columns)}"
        return text + describe_rejections(self.rejections)


def describe_rejections(rejections: tuple[Rejection, ...] | list[Rejection]) -> str:
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
        lines.append(f"\n  {count} set aside: {reason}; first: {name}: {example.detail}")
    return "".join(lines)


def read_manifest(path: Path | str, min_face_similarity: float | None = None) -> Manifest:
    """Read and check a manifest row by row.

    Args:
        path: a `.parquet` or `.jsonl` file.
        min_face_similarity: pairs below it are set aside, and so are pairs without a figure.

    Raises:
        DataError: when the file is missing or is no such file, and when no usable row is left, with
            the counts by reason and the first example of each.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(f"there is no manifest at {path}; name a .parquet or .jsonl file of pairs")
    readers = {".parquet": _read_parquet, ".jsonl": _read_jsonl}
    if path.suffix.lower() not in readers:
        raise DataError(f"{path.name} is no manifest: expected a name that ends in .parquet or .jsonl")
    pairs: dict[str, Pair] = {}
    rejections: list[Rejection] = []
    ignored: dict[str, None] = {}
    for line, row in readers[path.suffix.lower()](path):
        found = row if isinstance(row, _BadRow) else _parse_row(row, line, path.parent, min_face_similarity)
        if isinstance(found, Pair) and found.id in pairs:
            found = _BadRow("duplicate id", f"line {pairs[found.id].line} has it too; give each row its own")
        if isinstance(found, _BadRow):
            rejections.append(Rejection(_readable_id(row), line, found.reason, found.detail))
        else:
            pairs[found.id] = found
        if isinstance(row, dict):
            ignored |= dict.fromkeys(str(name) for name in row if name not in REQUIRED + OPTIONAL)
    manifest = Manifest(path, tuple(pairs.values()), tuple(rejections), tuple(ignored))
    if not pairs:
        if not rejections:
            raise DataError(f"{path} has no rows; write one row for each pair")
        raise DataError(f"no usable pair is left of {path}:{describe_rejections(rejections)}")
    return manifest


class _BadRow(Exception):
    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(reason, detail)
        self.reason = reason
        self.detail = detail


def _read_jsonl(path: Path) -> Iterator[tuple[int, dict[str, Any] | _BadRow]]:
    with path.open("rb") as file:
        for line, raw in enumerate(file, start=1):
            if not raw.strip():
                continue
            try:
                row = json.loads(raw.decode("utf-8-sig"))
            except (ValueError, RecursionError) as error:
                yield line, _BadRow("unreadable row", f"{first_line(error)}; write one JSON object a line")
                continue
            if isinstance(row, dict):
                yield line, row
            else:
                yield line, _BadRow("unreadable row", f"a {type(row).__name__} instead of an object")


def _read_parquet(path: Path) -> Iterator[tuple[int, dict[str, Any] | _BadRow]]:
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


def _parquet_row(batch: Any, position: int) -> dict[str, Any] | _BadRow:
    try:
        return dict(
            zip(batch.schema.names, (column[position].as_py() for column in batch.columns), strict=True)
        )
    except (ValueError, OverflowError) as error:  # text that is no UTF-8, dates out of range
        return _BadRow("unreadable row", first_line(error))


def _readable_id(row: dict[str, Any] | _BadRow) -> str:
    found = row.get("id") if isinstance(row, dict) else None
    return str(found)[:200] if isinstance(found, str | int) else ""


def _parse_row(
    row: dict[str, Any], line: int, folder: Path, min_face_similarity: float | None
) -> Pair | _BadRow:
    try:
        similarity = _parse_number(row, "face_similarity", -1, 1)
        pair = Pair(
            id=_parse_id(row),
            target=_parse_file(row, "target", _require(row, "target"), folder),
            references=_parse_references(row, folder),
            caption=_parse_caption(row),
            kind=_parse_kind(row),
            line=line,
            face_similarity=similarity,
            frame_range=_parse_frame_range(row),
            fps=_parse_number(row, "fps", 0, 1000, above=True),
        )
    except _BadRow as bad:
        return bad
    if min_face_similarity is not None and (similarity is None or similarity < min_face_similarity):
        seen = "no face_similarity" if similarity is None else f"{similarity:.3f}"
        return _BadRow("face similarity too low", f"{seen}, the threshold is {min_face_similarity}")
    return pair


def _require(row: Mapping[str, Any], name: str) -> Any:
    value = row.get(name)
    if value is not None and value != [] and not (isinstance(value, str) and not value.strip()):
        return value
    close = [] if name in row else difflib.get_close_matches(name, [str(key) for key in row], n=1)
    seen = "it is empty" if name in row else f"the row has '{close[0]}'" if close else "the row has none"
    raise _BadRow(f"missing {name}", f"{seen}; every row needs {', '.join(REQUIRED)}")


def _parse_id(row: Mapping[str, Any]) -> str:
    value = _require(row, "id")
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise _BadRow("bad id", f"a {type(value).__name__}; an id is text or a whole number")
    return str(value)


def _parse_caption(row: Mapping[str, Any]) -> str:
    value = _require(row, "caption")
    if not isinstance(value, str):
        raise _BadRow("bad caption", f"a {type(value).__name__}; a caption is text")
    return value


def _parse_kind(row: Mapping[str, Any]) -> str:
    value = _require(row, "kind")
    if value in KINDS:
        return str(value)
    close = difflib.get_close_matches(str(value), KINDS, n=1, cutoff=0.3)
    hint = f"did you mean '{close[0]}'? " if close else ""
    raise _BadRow("unknown kind", f"'{value}'; {hint}the kinds are {', '.join(KINDS)}")


def _parse_file(row: Mapping[str, Any], name: str, value: Any, folder: Path) -> Path:
    if not isinstance(value, str):
        raise _BadRow(f"bad {name}", f"a {type(value).__name__}; it is the path of a file")
    path = folder / value
    try:
        size = path.stat().st_size if path.is_file() else None
    except (OSError, ValueError) as error:  # a name too long, a null byte
        raise _BadRow(f"bad {name}", f"'{value[:200]}' is no path ({first_line(error)})") from error
    if size is None:
        raise _BadRow(f"{name} not found", f"{path}; paths are relative to the manifest")
    if not size:
        raise _BadRow(f"{name} is empty", f"{path} has 0 bytes")
    return path


def _parse_references(row: Mapping[str, Any], folder: Path) -> tuple[Path, ...]:
    value = _require(row, "references")
    entries = [value] if isinstance(value, str) else value
    if not isinstance(entries, list):
        raise _BadRow("bad references", f"a {type(value).__name__}; it is a list of paths")
    return tuple(_parse_file(row, "reference", entry, folder) for entry in entries)


def _parse_number(
    row: Mapping[str, Any], name: str, least: float, most: float, *, above: bool = False
) -> float | None:
    value = row.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise _BadRow(f"bad {name}", f"{value!r}; it is a number")
    if value > most or value < least or (above and value == least):
        raise _BadRow(f"bad {name}", f"{value}; it lies between {least} and {most}")
    return float(value)


def _parse_frame_range(row: Mapping[str, Any]) -> tuple[int, int] | None:
    value = row.get("frame_range")
    if value is None:
        return None
    is_pair = isinstance(value, list) and len(value) == 2
    if not is_pair or not all(isinstance(n, int) and not isinstance(n, bool) for n in value):
        raise _BadRow("bad frame_range", f"{value!r}; it is [first frame, frame after the last]")
    if not 0 <= value[0] < value[1]:
        raise _BadRow("bad frame_range", f"{value}; it holds no frame, the end is after the start")
    return value[0], value[1]
