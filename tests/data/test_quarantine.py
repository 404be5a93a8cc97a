"""What a dataset leaves out is counted, kept and limited."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from small_media import quarantine_sample, write_rows

from lynx_core.data.dataset import PairDataset
from lynx_core.data.encoders import Encoders
from lynx_core.data.errors import DataError
from lynx_core.data.manifest import read_manifest
from lynx_core.data.media.decoding import DecodingConfig
from lynx_core.data.quarantine import Rejection, RejectionFile

DECODING = DecodingConfig(max_px=64 * 64, max_frames=5)
Row = dict[str, Any]


def open_source(folder: Path, rows: list[Any], encoders: Encoders, **options: Any) -> PairDataset:
    threshold = options.pop("min_face_similarity", None)
    manifest = read_manifest(write_rows(folder / "pairs.jsonl", rows), threshold)
    return PairDataset(manifest, encoders, DECODING, **options)


FILE_FAULTS = {
    "no file": ("gone.mp4", "target not found", "gone.mp4: paths are relative to the manifest"),
    "a folder": (".", "target not found", "not a file"),
    "a pipe": ("pipe.mp4", "target not found", "not a file"),
    "empty file": ("empty.mp4", "target is empty", "0 bytes"),
    "no folder": ("a.mp4/b.mp4", "target not found", "relative to the manifest"),
    "long name": ("x" * 300 + ".mp4", "target cannot be read", "too long"),
}


@pytest.mark.parametrize("fault", FILE_FAULTS)
def test_files_that_are_none_are_skipped(
    folder: Path, rows: list[Row], encoders: Encoders, fault: str
) -> None:
    (folder / "empty.mp4").touch()
    os.mkfifo(folder / "pipe.mp4")
    target, reason, detail = FILE_FAULTS[fault]
    rows[1]["target"] = target
    source = open_source(folder, rows, encoders)
    (rejection,) = source.quarantine.rejections
    assert (rejection.id, rejection.line, rejection.reason) == ("b", 2, reason)
    assert detail in rejection.detail
    assert f"4 rows, 3 to train on (2 single-scene, 1 augmented), 1 skipped\n  1 skipped: {reason}" in (
        source.describe()
    )


def test_a_run_stops_at_its_start_when_too_many_rows_are_skipped(
    folder: Path, rows: list[Row], encoders: Encoders
) -> None:
    rows[0]["target"] = "gone.mp4"
    open_source(folder, [*rows, "no row"], encoders, max_quarantined=0.4)
    with pytest.raises(
        DataError, match=r"2 of 5 rows .* are quarantined, 40% .*max_quarantined allows 39%"
    ) as caught:
        open_source(folder, [*rows, "no row"], encoders, max_quarantined=0.39)
    assert "1 skipped: unreadable row; first: line 5" in str(caught.value)
    assert "1 skipped: target not found; first: line 1, id a" in str(caught.value)


def test_a_run_stops_when_too_many_files_fail_later(
    folder: Path, rows: list[Row], encoders: Encoders
) -> None:
    source = open_source(folder, rows, encoders, max_quarantined=0.3)
    (folder / "c.png").unlink()
    assert [sample.id for sample in source.load_pack([0, 2])] == ["a", "d"]
    (folder / "b.mp4").unlink()
    with pytest.raises(DataError, match=r"2 of 4 rows .* are quarantined, 50%"):
        source.load_pack([1, 3])


def test_rows_below_a_threshold_are_no_faults(folder: Path, rows: list[Row], encoders: Encoders) -> None:
    for row, similarity in zip(rows, (0.9, 0.1, 0.1, 0.1), strict=True):
        row["face_similarity"] = similarity
    source = open_source(folder, rows, encoders, min_face_similarity=0.5, max_quarantined=0.0)
    assert "1 to train on (1 single-scene), 3 skipped" in source.describe()
    del rows[1]["face_similarity"]
    with pytest.raises(DataError, match=r"1 of 4 rows .*, 50% of those wanted"):
        open_source(folder, rows, encoders, min_face_similarity=0.5, max_quarantined=0.4)


def test_draws_that_went_to_others_are_counted(folder: Path, rows: list[Row], encoders: Encoders) -> None:
    source = open_source(folder, rows, encoders)
    quarantine_sample(source, 3, "nan at step 3")
    assert [sample.id for sample in source.load_pack([0, 3, 3])] == ["a", "c", "c"]
    assert (source.draws.replaced, source.draws.empty) == (2, 0)
    quarantine_sample(source, 2, "nan at step 4")
    assert [sample.id for sample in source.load_pack([0, 3])] == ["a"]
    assert (source.draws.replaced, source.draws.empty) == (2, 1)


def test_processes_of_a_run_come_to_know_the_same(folder: Path, rows: list[Row], encoders: Encoders) -> None:
    path = folder / "run" / "pairs-quarantine.jsonl"
    first, second = (open_source(folder, [*rows, "no row"], encoders, quarantine_path=path) for _ in range(2))
    assert len(path.read_text().splitlines()) == 1, "known from the start, and written once"
    quarantine_sample(first, 0, "nan at step 3")
    quarantine_sample(second, 0, "nan at step 3")
    quarantine_sample(second, 1, "nan at step 4")
    assert [len(source.skipped_rows().rejections) for source in (first, second)] == [3, 3]
    entries = [json.loads(line) for line in path.read_text().splitlines()]
    assert [entry["line"] for entry in entries] == [5, 1, 2]
    assert entries[1].items() >= {"id": "a", "reason": "does not decode", "detail": "nan at step 3"}.items()


def test_a_line_cut_short_is_no_line(tmp_path: Path) -> None:
    path = tmp_path / "quarantine.jsonl"
    RejectionFile(path, "x").add(Rejection("a", 1, "no face", "a.png"))
    path.write_bytes(path.read_bytes() + b'{"id": "b", "line": 2, "rea')
    again = RejectionFile(path, "x")
    assert [rejection.id for rejection in again.rejections] == ["a"]
    again.begin([Rejection("c", 3, "no face", "c.png")])
    again.add(Rejection("b", 2, "no face", "b.png"))
    assert [rejection.id for rejection in RejectionFile(path, "x").rejections] == ["c", "a", "b"]


def test_full_disk_is_named(
    folder: Path, rows: list[Row], encoders: Encoders, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = open_source(folder, rows, encoders, quarantine_path=folder / "quarantine.jsonl")
    monkeypatch.setattr("lynx_core.data.quarantine.os.write", lambda handle, raw: len(raw) // 2)
    with pytest.raises(DataError, match=r"No space left on device.*free some space"):
        quarantine_sample(source, 0, "nan at step 3")
