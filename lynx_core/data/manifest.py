"""The manifest of a dataset: one row for each pair of a person's reference photos and a target.

Parquet, or JSONL with one object a line. Columns, in the words of a row:

    {"id": "a-17", "target": "clips/17.mp4", "references": ["faces/a.jpg"], "caption": "...",
     "kind": "single-scene", "face_similarity": 0.71, "frame_range": [0, 120], "fps": 25}

The last three may be left out. Paths are relative to the manifest's folder, and may begin with `~` or
an environment variable. A bad row never stops a run: it is skipped with its line and reason, and
counted; the same holds for duplicates of an id (the first row stays).

pandas turns a column of whole numbers with a gap into floats and the gap into NaN, and Parquet has
decimals: 17.0 and Decimal("17") are the number 17 here, and NaN is an empty field. Byte order marks and
line ends around a text are stripped.
"""

from __future__ import annotations

import difflib
import importlib
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import IO, Any

from ..buckets import fetched, is_url, place_of, url_of
from ..foreign_text import parse_json
from ..hashing import hash_values
from .errors import DataError, first_line
from .quarantine import LOW_SIMILARITY, Rejection, describe_rejections
from .text_files import expand_path, find_encoding, find_file

_PARQUET_ROWS = 4096

_Rows = Iterator[tuple[int, "dict[str, Any] | _BadRow"]]


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
    min_face_similarity: float | None = None
    """The threshold that they were read with."""

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


def read_manifest(path: Path | str, min_face_similarity: float | None = None) -> Manifest:
    """Read and check a manifest row by row. Media files are not opened.

    Args:
        path: a `.parquet` or `.jsonl` file.
        min_face_similarity: pairs below it are skipped, and so are pairs without a figure.

    Raises:
        DataError: when the file is missing or is no such file, and when no usable row is left, with
            the counts by reason and the first example of each.
    """
    path = find_file(Path(path))
    if url_of(path) is None and not path.is_file():
        raise DataError(f"there is no manifest at {path}; name a .parquet or .jsonl file of pairs")
    readers = {".parquet": _read_parquet, ".jsonl": _read_jsonl}
    if path.suffix.lower() not in readers:
        raise DataError(f"{path.name} is no manifest: expected a name that ends in .parquet or .jsonl")
    pairs: dict[str, Pair] = {}
    rejections: list[Rejection] = []
    warnings: list[Rejection] = []
    ignored: dict[str, None] = {}
    for line, row in _read_rows(path, readers[path.suffix.lower()]):
        try:
            pair, notes = _use_row(row, line, path.parent, min_face_similarity, pairs)
        except _BadRow as bad:
            name = _readable_id(row) if isinstance(row, dict) else ""
            rejections.append(Rejection(name, line, bad.reason, bad.detail))
        else:
            pairs[pair.id] = pair
            warnings += notes
        if isinstance(row, dict):
            ignored |= dict.fromkeys(name for name in row if name not in _REQUIRED + _OPTIONAL + _PROVENANCE)
    if not pairs:
        if not rejections:
            raise DataError(f"{path} has no rows; write one row for each pair")
        raise DataError(f"no usable pair is left of {path}:{describe_rejections(rejections)}")
    return Manifest(
        path,
        tuple(pairs.values()),
        tuple(rejections),
        tuple(ignored),
        tuple(warnings),
        min_face_similarity,
    )


def _read_rows(path: Path, reader: Callable[[Path], _Rows]) -> _Rows:
    try:
        with fetched(path) as file:
            yield from reader(file)
    except OSError as error:
        raise DataError(
            f"the manifest {url_of(path) or path} cannot be read ({first_line(error)})"
        ) from error


def _use_row(
    row: dict[str, Any] | _BadRow,
    line: int,
    folder: Path,
    min_face_similarity: float | None,
    pairs: dict[str, Pair],
) -> tuple[Pair, list[Rejection]]:
    if isinstance(row, _BadRow):
        raise row
    pair, notes = _parse_row(row, line, folder)
    if min_face_similarity is not None:
        if pair.face_similarity is None:
            raise _BadRow(
                "no face_similarity",
                f"the field is empty, and data.min_face_similarity = {min_face_similarity}",
            )
        if pair.face_similarity < min_face_similarity:
            raise _BadRow(
                LOW_SIMILARITY, f"{pair.face_similarity:.3f}, the threshold is {min_face_similarity}"
            )
    if pair.id in pairs:
        raise _BadRow("duplicate id", f"line {pairs[pair.id].line} has it too; give each row its own")
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


def _parse_json(raw: bytes | str) -> dict[str, Any] | _BadRow:
    try:
        row = parse_json(raw.decode("utf-8-sig") if isinstance(raw, bytes) else raw)
    except (ValueError, RecursionError) as error:
        return _BadRow("unreadable row", f"{first_line(error)}; write one JSON object a line")
    if isinstance(row, dict):
        return _clean_row(row)
    return _BadRow("unreadable row", f"a {type(row).__name__} instead of an object")


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


def _parquet_row(batch: Any, position: int) -> dict[str, Any] | _BadRow:
    try:
        values = (column[position].as_py() for column in batch.columns)
        return _clean_row(dict(zip(batch.schema.names, values, strict=True)))
    except (ValueError, OverflowError) as error:  # text that is no UTF-8, dates out of range
        return _BadRow("unreadable row", first_line(error))


KINDS = ("single-scene", "multi-scene", "augmented")
"""How a pair was made: both from one scene; from different scenes; one scene, edited afterwards."""

_REQUIRED = ("id", "target", "references", "caption", "kind")
_OPTIONAL = ("face_similarity", "frame_range", "fps")
_PROVENANCE = (
    "person", "split", "raw_kind", "weight", "target_track", "caption_origin", "recogniser", "threshold", "augmenter",
    "augmenter_licence", "look_alike", "consent", "licence",
)  # fmt: skip
"""What `comfy-lynx curate` notes of a pair's origin: for people and queries, not for training."""
_AROUND_TEXT = "\ufeff\r\n"


@dataclass(frozen=True)
class Pair:
    """One row: who, and what to make of it. Whether its files are there is found when they are opened."""

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
    row_hash: str = ""
    """Over the row as written, by which it is known again in another folder."""


class _BadRow(Exception):
    """A row that cannot be used."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(reason, detail)
        self.reason = reason
        self.detail = detail


def _clean_row(row: Mapping[Any, Any]) -> dict[str, Any]:
    """The values of a row without the traces of the program that wrote them."""
    return {str(name).strip(_AROUND_TEXT): _clean_value(value) for name, value in row.items()}


def _parse_row(row: Mapping[str, Any], line: int, folder: Path) -> tuple[Pair, list[Rejection]]:
    """A pair, and what to know about it.

    Args:
        row: of `_clean_row`.
        folder: of the manifest, to which paths are relative.

    Raises:
        _BadRow: for a row that cannot be used.
    """
    identity = _parse_id(row)
    references, empty = _parse_references(row, folder)
    pair = Pair(
        id=identity,
        target=_parse_file(row, "target", _require(row, "target"), folder),
        references=references,
        caption=_parse_caption(row),
        kind=_parse_kind(row),
        line=line,
        face_similarity=_parse_number(row, "face_similarity", -1, 1),
        frame_range=_parse_frame_range(row),
        fps=_parse_number(row, "fps", 0, 1000, above=True),
        row_hash=hash_values([identity, *(str(row[name]) for name in _REQUIRED[1:])]),
    )
    detail = f"{empty} of the {empty + len(references)} references are empty; the others are used"
    return pair, [Rejection(identity, line, "empty reference", detail)] if empty else []


def _readable_id(row: Mapping[str, Any]) -> str:
    """The id of a row that could not be parsed, "" when that is no id either."""
    try:
        return _parse_id(row)[:200]
    except _BadRow:
        return ""


def _clean_value(value: Any) -> Any:
    if isinstance(value, str):
        return value.strip(_AROUND_TEXT)
    if isinstance(value, (list, tuple)):
        return [_clean_value(entry) for entry in value]
    if isinstance(value, Decimal):
        value = int(value) if value.is_finite() and value == value.to_integral_value() else float(value)
    return None if isinstance(value, float) and math.isnan(value) else value


def _whole_number(value: Any) -> int | None:
    """17 of 17 and of 17.0; None for what is no whole number."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _require(row: Mapping[str, Any], name: str) -> Any:
    value = row.get(name)
    if value is not None and value != [] and not (isinstance(value, str) and not value.strip()):
        return value
    close = [] if name in row else difflib.get_close_matches(name, list(row), n=1)
    seen = "it is empty" if name in row else f"the row has '{close[0]}'" if close else "the row has none"
    raise _BadRow(f"missing {name}", f"{seen}; every row needs {', '.join(_REQUIRED)}")


def _parse_id(row: Mapping[str, Any]) -> str:
    value = _require(row, "id")
    if isinstance(value, str):
        return value
    number = _whole_number(value)
    if number is None:
        raise _BadRow("bad id", f"{value!r}, a {type(value).__name__}; an id is text or a whole number")
    return str(number)


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
    if "\0" in value:
        raise _BadRow(f"bad {name}", f"{value[:200]!r} is no path: it holds a null byte")
    if is_url(value):
        try:
            return place_of(value)
        except ValueError as error:
            raise _BadRow(f"bad {name}", first_line(error)) from error
    path, unset = expand_path(value, folder)
    if unset:
        raise _BadRow(f"bad {name}", f"'{value[:200]}' names the variable {unset[0]}, which is not set")
    return path


def _parse_references(row: Mapping[str, Any], folder: Path) -> tuple[tuple[Path, ...], int]:
    """The paths, and how many entries of the list are empty."""
    value = _require(row, "references")
    entries = [value] if isinstance(value, str) else value
    if not isinstance(entries, list):
        raise _BadRow("bad references", f"a {type(value).__name__}; it is a list of paths")
    filled = [entry for entry in entries if entry not in (None, "")]
    if not filled:
        raise _BadRow("missing references", f"all {len(entries)} entries of the list are empty")
    paths = tuple(_parse_file(row, "reference", entry, folder) for entry in filled)
    return paths, len(entries) - len(filled)


def _parse_number(
    row: Mapping[str, Any], name: str, least: float, most: float, *, above: bool = False
) -> float | None:
    value = row.get(name)
    if value is None or value == "":
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise _BadRow(f"bad {name}", f"{value!r}; it is a number")
    if value > most or value < least or (above and value == least):
        raise _BadRow(f"bad {name}", f"{value}; it lies between {least} and {most}")
    return float(value)


def _parse_frame_range(row: Mapping[str, Any]) -> tuple[int, int] | None:
    value = row.get("frame_range")
    if value is None or value in ("", [None, None]):
        return None
    ends = [_whole_number(entry) for entry in value] if isinstance(value, list) else []
    if len(ends) != 2 or ends[0] is None or ends[1] is None:
        raise _BadRow("bad frame_range", f"{value!r}; it is [first frame, frame after the last]")
    if not 0 <= ends[0] < ends[1]:
        raise _BadRow("bad frame_range", f"{value}; it holds no frame, the end is after the start")
    return ends[0], ends[1]
