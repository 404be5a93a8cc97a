"""Taking a person out of a finished set: pairs, photos, embeddings, pictures, and the page."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..data.forgetting import forget_files
from ..engine.parts import erase_records
from ..foreign_text import parse_json
from .buckets import find_published, publish
from .curation import hold_output
from .errors import CurationError
from .files import write_json, write_table
from .forgotten import describe_place, read_forgotten
from .manifests import (
    FIGURES_NAME,
    FORGOTTEN_NAME,
    REFERENCES_DIR,
    REJECTIONS_NAME,
    TARGETS_DIR,
    WORK_DIR,
    name_folder,
)
from .page import read_page_data, write_page
from .records import Membership, TrackFacts
from .splits import HELDOUT, TRAIN
from .stored import find_stored

_NAMED_COLUMNS = ("id", "track", "pair", "person")
"""Columns of the stages by which their records are known as someone's."""


@dataclass(frozen=True)
class Forgotten:
    """What was removed."""

    name: str
    num_pairs: int
    num_others: int
    """Pairs of others whose targets show the person."""
    num_records: int
    num_files: int
    num_entries: int = 0
    """Of the caches that were named."""

    def __str__(self) -> str:
        others = (
            f", {self.num_others} of them of others whose targets show {self.name}" if self.num_others else ""
        )
        return (
            f"{self.name}: removed {self.num_pairs} pairs{others}, {self.num_files} reference photos, {self.num_records} records "
            f"of the work folder and {self.num_entries} entries of caches. The source files are untouched. Caches of "
            f"`prepare` that --cache did not name, and checkpoints that were made with this person, still hold them: "
            f"train anew."
        )


def forget(output: Path, name: str, caches: Sequence[Path] = ()) -> Forgotten:
    """Remove a person.

    The list of the forgotten is written first, so that a run that is killed on the way brings nobody back; the
    same command then finishes the work.

    Args:
        caches: folders of `prepare`, from which everything made of the person's pairs goes too.

    Raises:
        CurationError: when the folder is no curation's, or nobody has this name.
        DataError: when a cache is none, or cannot be written.
    """
    work = output / WORK_DIR
    if not work.is_dir():
        raise CurationError(f"{output} is no output folder of a curation: it has no folder '{WORK_DIR}'")
    with hold_output(output):
        members = [member for member in find_stored(work, "people", Membership) if member.person == name]
        doomed = {member.track for member in members}
        rows = {split: _read_rows(output / f"{split}.parquet") for split in (TRAIN, HELDOUT)}
        own = [row for some in rows.values() for row in some if row["person"] == name]
        page = read_page_data(output)
        was_begun = page is not None and any(person["name"] == name for person in page["people"])
        if not doomed and not own and not was_begun:
            raise CurationError(_say_unknown(name, rows.values()))
        doomed |= {row["target_track"] for row in own}
        seen = _find_tracks(output, doomed, name)
        places = [describe_place(track) for track in seen]
        kept = read_forgotten(output)
        write_json(output / FORGOTTEN_NAME, [*kept, *(place for place in places if place not in kept)])
        doomed |= {track.id for track in seen}
        spans = [(track.path, track.shot_start, track.shot_end) for track in seen]
        sources = {track.id: track.path for track in find_stored(work, "scan", TrackFacts)}
        gone, others = _choose_rows(rows, name, spans, sources)
        # Before the rows, which know what to look for there.
        num_entries = sum(_forget_in_cache(output, Path(cache), rows, gone) for cache in caches)
        _remove_rows(output, rows, gone)
        names = doomed | gone | {name}
        num_records = erase_records(work, _NAMED_COLUMNS, ("runner_up",), names)
        num_files = _remove_pictures(output, name, gone)
        _remove_from_page(output, name, doomed, gone)
        if url := find_published(output):
            publish(output, url, lambda *count: None)
    return Forgotten(name, len(gone), others, num_records, num_files, num_entries)


def _read_rows(path: Path) -> list[dict[str, Any]]:
    from pyarrow import parquet

    return parquet.read_table(path).to_pylist() if path.is_file() else []


def _say_unknown(name: str, rows: Iterable[list[dict[str, Any]]]) -> str:
    import difflib

    people = sorted({row["person"] for some in rows for row in some})
    close = difflib.get_close_matches(name, people, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(close)}?" if close else f"there is: {', '.join(people[:20])}"
    return f"nobody is called {name!r} in this set; {hint}"


def _find_tracks(output: Path, known: set[str], name: str) -> list[TrackFacts]:
    """All tracks of the person, also those that were rejected: copies, blurred ones, and those left out as rare.

    Of tracks that are nobody else's, one with a look at or above the threshold counts as the person's.
    """
    work = output / WORK_DIR
    others = {m.track for m in find_stored(work, "people", Membership) if m.person != name} - known
    tracks = {track.id: track for track in find_stored(work, "scan", TrackFacts)}
    mean = np.sum(
        [sample.embedding for track in known & set(tracks) for sample in tracks[track].samples], axis=0
    )
    length = float(np.linalg.norm(mean))
    threshold = parse_json((output / FIGURES_NAME).read_text(encoding="utf-8"))["threshold"]
    alike = {
        track.id
        for track in tracks.values()
        if length and max(float(sample.embedding @ mean) / length for sample in track.samples) >= threshold
    }
    return [tracks[track] for track in sorted((known | (alike - others)) & set(tracks))]


def _choose_rows(
    rows: dict[str, list[dict[str, Any]]],
    name: str,
    spans: list[tuple[str, int, int]],
    sources: dict[str, str],
) -> tuple[set[str], int]:
    """Gives the ids of the rows to take out, and how many of them are other people's.

    Args:
        spans: path and frames that show the person.
        sources: path of the footage of each track; a target that was cut out of it lies elsewhere.
    """
    own = {row["id"] for some in rows.values() for row in some if row["person"] == name}
    others = {
        row["id"]
        for some in rows.values()
        for row in some
        if row["id"] not in own and any(_meets(row, sources, span) for span in spans)
    }
    return own | others, len(others)


def _forget_in_cache(output: Path, cache: Path, rows: dict[str, list[dict[str, Any]]], gone: set[str]) -> int:
    """Erase what a cache holds of rows; gives how many entries."""
    doomed = [row for some in rows.values() for row in some if row["id"] in gone]
    kept = [row for some in rows.values() for row in some if row["id"] not in gone]

    captions = {row["caption"] for row in doomed} - {row["caption"] for row in kept}
    files = {output / path for row in doomed for path in (row["target"], *row["references"])}
    return forget_files(cache, files, captions, gone)


def _remove_rows(output: Path, rows: dict[str, list[dict[str, Any]]], gone: set[str]) -> None:
    from pyarrow import parquet

    for split, some in rows.items():
        kept = [row for row in some if row["id"] not in gone]
        path = output / f"{split}.parquet"
        if len(kept) == len(some):
            continue
        if kept:
            write_table(path, kept, parquet.read_schema(path))
        else:
            path.unlink()


def _meets(row: dict[str, Any], sources: dict[str, str], span: tuple[str, int, int]) -> bool:
    path, start, end = span
    if sources.get(row["target_track"], row["target"]) != path:
        return False
    first, last = row["frame_range"] or (0, end)
    return first < end and start < last


def _remove_pictures(output: Path, name: str, pairs: set[str]) -> int:
    """References and cut targets of the person, and the references of pairs that are gone; gives how many."""
    count = 0
    for root in (output / REFERENCES_DIR, output / TARGETS_DIR):
        folder = root / name_folder(name)
        count += sum(1 for path in folder.rglob("*") if path.is_file())
        shutil.rmtree(folder, ignore_errors=True)
    for path in (output / REFERENCES_DIR).rglob("*"):
        if path.is_file() and path.stem.removesuffix("-aligned") in pairs:
            path.unlink()
            count += 1
    return count + _remove_cut_targets(output)


def _remove_cut_targets(output: Path) -> int:
    """Cut targets that no row names any more."""
    used = {row["target"] for split in (TRAIN, HELDOUT) for row in _read_rows(output / f"{split}.parquet")}
    strays = [
        path
        for path in (output / TARGETS_DIR).rglob("*")
        if path.is_file() and path.relative_to(output).as_posix() not in used
    ]
    for path in strays:
        path.unlink()
    return len(strays)


def _remove_from_page(output: Path, name: str, doomed: set[str], pairs: set[str]) -> None:
    data = read_page_data(output)
    if data is None:
        return

    def stays(pair: dict[str, Any]) -> bool:
        return pair["person"] != name and pair["id"] not in pairs and not doomed.intersection(pair["tracks"])

    data["people"] = [person for person in data["people"] if person["name"] != name]
    data["num_people"] -= 1
    data["look_alikes"] = [
        item for item in data["look_alikes"] if name not in (item["person"], item["other"])
    ]
    for person in data["people"]:
        person["look_alike"] = "" if person["look_alike"] == name else person["look_alike"]
    left = _count_kinds(output)
    total = max(sum(left.values()), 1)
    known = data["facts"]["kinds"]
    data["facts"]["kinds"] = {
        kind: {**known[kind], "pairs": count, "share": count / total} for kind, count in left.items()
    }
    for kind, some in list(data["kinds"].items()):
        some["pairs"], some["count"] = [pair for pair in some["pairs"] if stays(pair)], left.get(kind, 0)
        if not some["count"]:
            del data["kinds"][kind]
    for part in ("worst", "best"):
        data[part] = [pair for pair in data[part] if stays(pair)]
    write_page(output, data)
    write_json(output / FIGURES_NAME, data["facts"])
    _remove_rejections(output, name)


def _count_kinds(output: Path) -> dict[str, int]:
    counts: dict[str, int] = {}
    for split in (TRAIN, HELDOUT):
        for row in _read_rows(output / f"{split}.parquet"):
            counts[row["kind"]] = counts.get(row["kind"], 0) + 1
    return counts


def _remove_rejections(output: Path, name: str) -> None:
    """Rejections name people in their details."""
    from pyarrow import parquet

    path = output / REJECTIONS_NAME
    if path.is_file():
        rows = [row for row in _read_rows(path) if name not in row["detail"]]
        write_table(path, rows, parquet.read_schema(path))
