"""The manifest of a dataset: one row for each pair of a person's reference photos and a target.

Parquet, or JSONL with one object a line. Columns, in the words of a row:

    {"id": "a-17", "target": "clips/17.mp4", "references": ["faces/a.jpg"], "caption": "...",
     "kind": "single-scene", "face_similarity": 0.71, "frame_range": [0, 120], "fps": 25, "weight": 1.5}

The last four may be left out. Paths are relative to the manifest's folder, and may begin with `~` or
an environment variable. A bad row never stops a run: it is skipped with its line and reason, and
counted; the same holds for duplicates of an id (the first row stays).

pandas turns a column of whole numbers with a gap into floats and the gap into NaN, and Parquet has
decimals: 17.0 and Decimal("17") are the number 17 here, and NaN is an empty field. Byte order marks and
line ends around a text are stripped.
"""

from __future__ import annotations

import difflib
import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..buckets import is_url, place_of, url_of
from ..hashing import hash_values
from .errors import DataError, first_line
from .manifest_rows import BadRow, read_rows
from .quarantine import LOW_SIMILARITY, Rejection, describe_rejections
from .text_files import expand_path, find_file


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
    pairs: dict[str, Pair] = {}
    rejections: list[Rejection] = []
    warnings: list[Rejection] = []
    ignored: dict[str, None] = {}
    for line, row in read_rows(path):
        try:
            pair, notes = _use_row(row, line, path.parent, min_face_similarity, pairs)
        except BadRow as bad:
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


def _use_row(
    row: dict[str, Any] | BadRow,
    line: int,
    folder: Path,
    min_face_similarity: float | None,
    pairs: dict[str, Pair],
) -> tuple[Pair, list[Rejection]]:
    if isinstance(row, BadRow):
        raise row
    pair, notes = _parse_row(row, line, folder)
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


KINDS = ("single-scene", "multi-scene", "augmented")
"""How a pair was made: both from one scene; from different scenes; one scene, edited afterwards."""

_REQUIRED = ("id", "target", "references", "caption", "kind")
_OPTIONAL = ("face_similarity", "frame_range", "fps", "weight")
_PROVENANCE = (
    "person", "split", "raw_kind", "target_track", "caption_origin", "recogniser", "threshold", "augmenter",
    "augmenter_licence", "look_alike", "consent", "licence",
)  # fmt: skip
"""What `comfy-lynx curate` notes of a pair's origin: for people and queries, not for training."""


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
    weight: float | None = None
    """Its part of how often its kind is drawn, where the configuration gives no `data.kind_weights`."""
    row_hash: str = ""
    """Over the row as written, by which it is known again in another folder."""


def _parse_row(row: Mapping[str, Any], line: int, folder: Path) -> tuple[Pair, list[Rejection]]:
    """A pair, and what to know about it.

    Args:
        row: of `_clean_row`.
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
        weight=_parse_number(row, "weight", 0, 1e9),
        row_hash=hash_values([identity, *(str(row[name]) for name in _REQUIRED[1:])]),
    )
    detail = f"{empty} of the {empty + len(references)} references are empty; the others are used"
    return pair, [Rejection(identity, line, "empty reference", detail)] if empty else []


def _readable_id(row: Mapping[str, Any]) -> str:
    """The id of a row that could not be parsed, "" when that is no id either."""
    try:
        return _parse_id(row)[:200]
    except BadRow:
        return ""


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
    raise BadRow(f"missing {name}", f"{seen}; every row needs {', '.join(_REQUIRED)}")


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
    if is_url(value):
        try:
            return place_of(value)
        except ValueError as error:
            raise BadRow(f"bad {name}", first_line(error)) from error
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
