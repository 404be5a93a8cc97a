"""One row of a manifest as a `Pair`, from whatever a table program made of its values.

pandas turns a column of whole numbers with a gap into floats and the gap into NaN, and Parquet has
decimals: 17.0 and Decimal("17") are the number 17 here, and NaN is an empty field. Byte order marks and
line ends around a text are cut off.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

from ..hashing import hash_values
from .text_files import expand_path

KINDS = ("single-scene", "multi-scene", "augmented")
"""How a pair was made: both from one scene; from different scenes; one scene, edited afterwards."""

REQUIRED = ("id", "target", "references", "caption", "kind")
OPTIONAL = ("face_similarity", "frame_range", "fps")
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


@dataclass(frozen=True)
class Rejection:
    """A row or sample that was set aside, or something to know about one that was kept."""

    id: str
    """Of the row, or "" when it has none that can be read."""
    line: int
    """In the manifest, from 1."""
    reason: str
    """In few words, the same for all rejections of a sort."""
    detail: str
    """The value seen, and the way out."""


class BadRow(Exception):
    """A row that cannot be used."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(reason, detail)
        self.reason = reason
        self.detail = detail


def clean_row(row: Mapping[Any, Any]) -> dict[str, Any]:
    """The values of a row without the traces of the program that wrote them."""
    return {str(name).strip(_AROUND_TEXT): _clean_value(value) for name, value in row.items()}


def parse_row(row: Mapping[str, Any], line: int, folder: Path) -> tuple[Pair, list[Rejection]]:
    """A pair, and what to know about it.

    Args:
        row: of `clean_row`.
        folder: of the manifest, to which paths are relative.

    Raises:
        BadRow: for a row that cannot be used.
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
        row_hash=hash_values([identity, *(str(row[name]) for name in REQUIRED[1:])]),
    )
    detail = f"{empty} of the {empty + len(references)} references are empty; the others are used"
    return pair, [Rejection(identity, line, "empty reference", detail)] if empty else []


def readable_id(row: Mapping[str, Any]) -> str:
    """The id of a row that could not be parsed, "" when that is no id either."""
    try:
        return _parse_id(row)[:200]
    except BadRow:
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
    raise BadRow(f"missing {name}", f"{seen}; every row needs {', '.join(REQUIRED)}")


def _parse_id(row: Mapping[str, Any]) -> str:
    value = _require(row, "id")
    if isinstance(value, str):
        return value
    number = _whole_number(value)
    if number is None:
        raise BadRow("bad id", f"{value!r}, a {type(value).__name__}; an id is text or a whole number")
    return str(number)


def _parse_caption(row: Mapping[str, Any]) -> str:
    value = _require(row, "caption")
    if not isinstance(value, str):
        raise BadRow("bad caption", f"a {type(value).__name__}; a caption is text")
    return value


def _parse_kind(row: Mapping[str, Any]) -> str:
    value = _require(row, "kind")
    if value in KINDS:
        return str(value)
    close = difflib.get_close_matches(str(value), KINDS, n=1, cutoff=0.3)
    hint = f"did you mean '{close[0]}'? " if close else ""
    raise BadRow("unknown kind", f"'{value}'; {hint}the kinds are {', '.join(KINDS)}")


def _parse_file(row: Mapping[str, Any], name: str, value: Any, folder: Path) -> Path:
    if not isinstance(value, str):
        raise BadRow(f"bad {name}", f"a {type(value).__name__}; it is the path of a file")
    if "\0" in value:
        raise BadRow(f"bad {name}", f"{value[:200]!r} is no path: it holds a null byte")
    path, unset = expand_path(value, folder)
    if unset:
        raise BadRow(f"bad {name}", f"'{value[:200]}' names the variable {unset[0]}, which is not set")
    return path


def _parse_references(row: Mapping[str, Any], folder: Path) -> tuple[tuple[Path, ...], int]:
    """The paths, and how many entries of the list are empty."""
    value = _require(row, "references")
    entries = [value] if isinstance(value, str) else value
    if not isinstance(entries, list):
        raise BadRow("bad references", f"a {type(value).__name__}; it is a list of paths")
    filled = [entry for entry in entries if entry not in (None, "")]
    if not filled:
        raise BadRow("missing references", f"all {len(entries)} entries of the list are empty")
    paths = tuple(_parse_file(row, "reference", entry, folder) for entry in filled)
    return paths, len(entries) - len(filled)


def _parse_number(
    row: Mapping[str, Any], name: str, least: float, most: float, *, above: bool = False
) -> float | None:
    value = row.get(name)
    if value is None or value == "":
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise BadRow(f"bad {name}", f"{value!r}; it is a number")
    if value > most or value < least or (above and value == least):
        raise BadRow(f"bad {name}", f"{value}; it lies between {least} and {most}")
    return float(value)


def _parse_frame_range(row: Mapping[str, Any]) -> tuple[int, int] | None:
    value = row.get("frame_range")
    if value is None or value in ("", [None, None]):
        return None
    ends = [_whole_number(entry) for entry in value] if isinstance(value, list) else []
    if len(ends) != 2 or ends[0] is None or ends[1] is None:
        raise BadRow("bad frame_range", f"{value!r}; it is [first frame, frame after the last]")
    if not 0 <= ends[0] < ends[1]:
        raise BadRow("bad frame_range", f"{value}; it holds no frame, the end is after the start")
    return ends[0], ends[1]
