"""Manifests: bad rows are skipped with their line and reason, good ones survive them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from small_media import write_rows

from lynx_core.data.errors import DataError
from lynx_core.data.manifest import read_manifest

Row = dict[str, Any]


def test_rows_become_pairs(folder: Path, rows: list[Row]) -> None:
    rows[0] |= {"face_similarity": 0.7, "frame_range": [1, 6], "fps": 25, "references": "face_a.png"}
    rows[1]["references"] = ["face_a.png", "face_b.png"]
    manifest = read_manifest(write_rows(folder / "pairs.jsonl", rows))
    assert [pair.id for pair in manifest.pairs] == ["a", "b", "c", "d"]
    first, second = manifest.pairs[:2]
    assert (first.target, first.references) == (folder / "a.mp4", (folder / "face_a.png",))
    assert (first.face_similarity, first.frame_range, first.fps, first.line) == (0.7, (1, 6), 25.0, 1)
    assert second.references == (folder / "face_a.png", folder / "face_b.png")
    assert manifest.rejections == ()
    assert "4 pairs (2 single-scene, 1 multi-scene, 1 augmented)" in manifest.summary()


def test_parquet_gives_the_same_pairs(folder: Path, rows: list[Row]) -> None:
    import pyarrow
    import pyarrow.parquet

    rows[0]["frame_range"] = [0, 5]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), folder / "pairs.parquet")
    parquet = read_manifest(folder / "pairs.parquet")
    assert parquet.pairs == read_manifest(write_rows(folder / "pairs.jsonl", rows)).pairs


FAULTS: dict[str, tuple[Any, str, str]] = {
    "no json": ('{"id": "x", ', "unreadable row", "one JSON object a line"),
    "no object": ("[1, 2]", "unreadable row", "a list instead"),
    "no id": ({"id": None}, "missing id", "it is empty"),
    "bad id": ({"id": ["x"]}, "bad id", "a list"),
    "duplicate": ({"id": "a"}, "duplicate id", "line 1 has it too"),
    "no caption": ({"caption": " "}, "missing caption", "it is empty"),
    "bad caption": ({"caption": 3}, "bad caption", "a int"),
    "no kind": ({"kind": ""}, "missing kind", "every row needs"),
    "unknown kind": ({"kind": "singel-scene"}, "unknown kind", "did you mean 'single-scene'"),
    "null byte": ({"target": "a\0.mp4"}, "bad target", "null byte"),
    "unset variable": ({"target": "$LYNX_UNSET/a.mp4"}, "bad target", "LYNX_UNSET, which is not set"),
    "no references": ({"references": []}, "missing references", "it is empty"),
    "bad references": ({"references": 7}, "bad references", "a int"),
    "similarity": ({"face_similarity": "high"}, "bad face_similarity", "'high'; it is a number"),
    "similarity range": ({"face_similarity": 3}, "bad face_similarity", "between -1 and 1"),
    "infinite": ({"face_similarity": float("inf")}, "bad face_similarity", "inf"),
    "empty photos": ({"references": [None, ""]}, "missing references", "all 2 entries"),
    "empty range": ({"frame_range": [5, 5]}, "bad frame_range", "holds no frame"),
    "bad range": ({"frame_range": [5]}, "bad frame_range", "frame after the last"),
    "fps": ({"fps": 0}, "bad fps", "between 0 and 1000"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_bad_rows_are_skipped(folder: Path, rows: list[Row], fault: str) -> None:
    change, reason, detail = FAULTS[fault]
    bad = change if isinstance(change, str) else {**rows[0], "id": "new", **change}
    manifest = read_manifest(write_rows(folder / "pairs.jsonl", [*rows[:2], bad, *rows[2:]]))
    assert [pair.id for pair in manifest.pairs] == ["a", "b", "c", "d"]
    (rejection,) = manifest.rejections
    assert rejection.line == 3
    assert rejection.reason.startswith(reason)
    assert detail in rejection.detail
    assert f"1 skipped: {rejection.reason}; first: line 3" in manifest.summary()


def test_misspelled_columns_are_named(folder: Path, rows: list[Row]) -> None:
    rows[1]["captoin"] = rows[1].pop("caption")
    rows[2]["face_similarty"] = 0.4
    manifest = read_manifest(write_rows(folder / "pairs.jsonl", rows))
    assert "the row has 'captoin'" in manifest.rejections[0].detail
    assert manifest.ignored_columns == ("captoin", "face_similarty")
    assert "columns that nothing reads: captoin, face_similarty" in manifest.summary()


def test_undecodable_bytes_are_one_bad_row(folder: Path, rows: list[Row]) -> None:
    path = write_rows(folder / "pairs.jsonl", rows)
    path.write_bytes(b'{"id": "\xff\xfe"}\n\n' + path.read_bytes())
    manifest = read_manifest(path)
    assert len(manifest.pairs) == 4
    assert [(r.line, r.reason) for r in manifest.rejections] == [(1, "unreadable row")]
    assert manifest.pairs[0].line == 3, "empty lines count"


def test_threshold_of_face_similarity(folder: Path, rows: list[Row]) -> None:
    rows[0]["face_similarity"], rows[1]["face_similarity"] = 0.9, 0.2
    manifest = read_manifest(write_rows(folder / "pairs.jsonl", rows), min_face_similarity=0.5)
    assert [pair.id for pair in manifest.pairs] == ["a"]
    assert {(r.reason, r.detail) for r in manifest.rejections} == {
        ("face similarity too low", "0.200, the threshold is 0.5"),
        ("no face_similarity", "the field is empty, and data.min_face_similarity = 0.5"),
    }


def test_nothing_left_says_why(folder: Path, rows: list[Row]) -> None:
    rows[0]["kind"] = rows[1]["kind"] = "video"
    rows[2]["caption"] = rows[3]["target"] = ""
    with pytest.raises(DataError) as caught:
        read_manifest(write_rows(folder / "pairs.jsonl", rows))
    text = str(caught.value)
    assert "no usable pair is left of" in text
    assert "2 skipped: unknown kind; first: line 1, id a: 'video'" in text
    assert "1 skipped: missing caption; first: line 3, id c" in text
    assert "1 skipped: missing target; first: line 4, id d" in text


def test_manifests_that_are_none(folder: Path) -> None:
    for name, content, message in [
        ("gone.jsonl", None, "there is no manifest"),
        ("pairs.csv", b"id", "ends in .parquet or .jsonl"),
        ("empty.jsonl", b"\n", "has no rows"),
        ("broken.parquet", b"PAR1 but not really", "cannot be read as Parquet beyond row 0"),
    ]:
        if content is not None:
            (folder / name).write_bytes(content)
        with pytest.raises(DataError, match=message):
            read_manifest(folder / name)
