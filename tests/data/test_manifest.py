"""The manifest: every bad row is skipped with its reason, every good one read, whatever program wrote it."""

from __future__ import annotations

import json
import unicodedata
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from small_media import write_image, write_rows

from lynx_core.data.dataset import PairDataset
from lynx_core.data.encoders import Encoders
from lynx_core.data.errors import DataError
from lynx_core.data.manifest import Manifest, read_manifest
from lynx_core.data.media.decoding import DecodingConfig

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


Row = dict[str, Any]


def read_parquet_of(folder: Path, rows: list[Row]) -> Manifest:
    import pyarrow
    import pyarrow.parquet

    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), folder / "pairs.parquet")
    return read_manifest(folder / "pairs.parquet")


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le with mark", "utf-32"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_byte_order_marks_and_line_ends(folder: Path, rows: list[Row], encoding: str, end: str) -> None:
    rows[0]["caption"] = "un été\nà la mer"
    text = end.join(json.dumps(row, ensure_ascii=False) for row in rows) + end
    if encoding == "utf-16-le with mark":
        raw = b"\xff\xfe" + text.encode("utf-16-le")
    else:
        raw = text.encode(encoding)
    (folder / "pairs.jsonl").write_bytes(raw)
    manifest = read_manifest(folder / "pairs.jsonl")
    assert [(pair.id, pair.line) for pair in manifest.pairs] == [("a", 1), ("b", 2), ("c", 3), ("d", 4)]
    assert manifest.pairs[0].caption == "un été\nà la mer"


def test_marks_in_column_names_and_values(folder: Path, rows: list[Row]) -> None:
    """As a table has them that was read from a CSV of Excel or of another system."""
    changed = [
        {"\ufeffid": row.pop("id") + "\r", **row, "caption": "\ufeff" + row["caption"]} for row in rows
    ]
    for row in changed:
        row["target"] += "\r\n"
        row["kind"] += "\r"
    manifest = read_parquet_of(folder, changed)
    assert [pair.id for pair in manifest.pairs] == ["a", "b", "c", "d"]
    assert manifest.pairs[0].caption == "a man a" and manifest.pairs[0].target == folder / "a.mp4"
    assert manifest.ignored_columns == ()


def test_floats_decimals_and_gaps_of_table_programs(folder: Path, rows: list[Row]) -> None:
    """Whole numbers come as floats where a column has a gap, gaps as NaN."""
    nan = float("nan")
    for number, row in enumerate(rows):
        row |= {
            "id": Decimal(number + 17),
            "face_similarity": Decimal("0.71") if number else None,
            "frame_range": [Decimal(0), Decimal(3)] if number else None,
            "fps": 25.0 if number else nan,
        }
    first, second, *_ = read_parquet_of(folder, rows).pairs
    assert (first.id, second.id) == ("17", "18")
    assert (first.face_similarity, first.frame_range, first.fps) == (None, None, None)
    assert (second.face_similarity, second.frame_range, second.fps) == (0.71, (0, 3), 25.0)
    assert isinstance(second.frame_range[0], int)  # type: ignore[index]

    for number, row in enumerate(rows):
        row |= {"id": float(number + 17), "face_similarity": nan, "fps": 25, "frame_range": [0.0, 3.0]}
    manifest = read_manifest(write_rows(folder / "pairs.jsonl", rows))
    assert [pair.id for pair in manifest.pairs] == ["17", "18", "19", "20"]
    assert manifest.pairs[0].frame_range == (0, 3) and manifest.pairs[0].face_similarity is None


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"id": 1.5}, "bad id"),
        ({"id": float("inf")}, "bad id"),
        ({"id": float("nan")}, "missing id"),
        ({"frame_range": [0.5, 3]}, "bad frame_range"),
        ({"frame_range": [0, float("inf")]}, "bad frame_range"),
        ({"caption": float("nan")}, "missing caption"),
        ({"target": float("nan")}, "missing target"),
    ],
)
def test_numbers_that_mean_nothing_are_bad_rows(
    folder: Path, rows: list[Row], change: Row, reason: str
) -> None:
    bad = {**rows[0], "id": "new", **change}
    (rejection,) = read_manifest(write_rows(folder / "pairs.jsonl", [*rows, bad])).rejections
    assert (rejection.reason, rejection.line) == (reason, 5) and rejection.detail


def test_an_empty_entry_costs_that_photo(folder: Path, rows: list[Row]) -> None:
    rows[0]["references"] = ["face_a.png", None, "", "face_b.png"]
    manifest = read_manifest(write_rows(folder / "pairs.jsonl", rows))
    assert manifest.pairs[0].references == (folder / "face_a.png", folder / "face_b.png")
    (warning,) = manifest.warnings
    assert (warning.id, warning.line, warning.reason) == ("a", 1, "empty reference")
    assert "2 of the 4 references" in warning.detail


def test_home_and_environment_in_paths(
    folder: Path, rows: list[Row], tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    monkeypatch.setenv("HOME", str(folder))
    monkeypatch.setenv("LYNX_MEDIA", str(folder))
    rows[0]["target"], rows[1]["target"] = "~/a.mp4", "$LYNX_MEDIA/b.mp4"
    rows[2]["references"] = ["${LYNX_MEDIA}/face_c.png"]
    rows[3]["target"] = str(folder / "d.png")
    (elsewhere / "cost$5.png").write_bytes((folder / "face_d.png").read_bytes())
    rows[3]["references"] = ["cost$5.png"]
    for row in rows[:2]:
        row["references"] = [str(folder / name) for name in row["references"]]
    rows[2]["target"] = str(folder / "c.png")
    manifest = read_manifest(write_rows(elsewhere / "pairs.jsonl", rows))
    assert [pair.target.name for pair in manifest.pairs] == ["a.mp4", "b.mp4", "c.png", "d.png"]
    assert all(path.is_file() for pair in manifest.pairs for path in (pair.target, *pair.references))


@pytest.mark.parametrize(("written", "on_disk"), [("NFC", "NFD"), ("NFD", "NFC")])
def test_names_in_the_other_unicode_form(
    folder: Path, rows: list[Row], encoders: Encoders, written: str, on_disk: str
) -> None:
    """A folder and a file, as macOS hands them out and other programs write them."""
    parts = ["été", "Zoë.png"]
    place = folder.joinpath(*(unicodedata.normalize(on_disk, part) for part in parts))
    place.parent.mkdir()
    write_image(place)
    rows[2]["target"] = "/".join(unicodedata.normalize(written, part) for part in parts)
    manifest = read_manifest(write_rows(folder / "pairs.jsonl", rows))
    source = PairDataset(manifest, encoders, DecodingConfig(max_px=64 * 64))
    assert len(source.quarantine) == 0
    assert source.items[2].pair.target.samefile(place)
    assert source.load(2).latents.shape[1] == 1


def test_columns_of_other_programs_are_read_or_named(tmp_path: Path) -> None:
    """Dictionary columns, nulls, small integers, structs and maps."""
    pa, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    columns = {
        "id": pa.array(["a", "b", "c"]).dictionary_encode(),
        "target": pa.array(["x.mp4", "y.mp4", "z.mp4"]).dictionary_encode(),
        "references": pa.array([["f.png", None], None, ["h.png"]]),
        "caption": pa.array(["one", "two", None]).dictionary_encode(),
        "kind": pa.array(["single-scene"] * 3).dictionary_encode(),
        "weight": pa.array([2, None, None], pa.int8()),
        "origin": pa.array([{"a": [1]}, None, None]),
        "tags": pa.array([[("k", 1)], [], None], pa.map_(pa.string(), pa.int64())),
    }
    parquet.write_table(pa.table(columns), tmp_path / "pairs.parquet")
    manifest = read_manifest(tmp_path / "pairs.parquet")
    assert [(pair.id, pair.weight, len(pair.references)) for pair in manifest.pairs] == [("a", 2.0, 1)]
    assert [(r.id, r.reason) for r in manifest.rejections] == [
        ("b", "missing references"),
        ("c", "missing caption"),
    ]
    assert manifest.ignored_columns == ("origin", "tags")
    nested = pa.array([[{"path": "f.png"}]] * 3)
    parquet.write_table(pa.table({**columns, "references": nested}), tmp_path / "nested.parquet")
    with pytest.raises(
        DataError, match="bad reference; first: line 1, id a: a dict; it is the path of a file"
    ):
        read_manifest(tmp_path / "nested.parquet")
