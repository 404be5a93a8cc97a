"""The page of a dataset: what it says, that it needs no network, and what the manifest's weights do."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from small_encoders import make_small_encoders
from small_media import write_image, write_rows

from lynx_core.cli.main import main
from lynx_core.data.manifest import read_manifest
from lynx_core.data.media.decoding import DecodingConfig
from lynx_core.data.prepare import prepare_dataset
from lynx_core.data.prepared_index import open_index
from lynx_core.offline_page import draw_histogram, make_histogram

Row = dict[str, Any]


def read_page(folder: Path, *arguments: str) -> str:
    out = folder / "page.html"
    assert main(["inspect", *arguments, "--out", str(out)]) == 0
    html = out.read_text(encoding="utf-8")
    assert not re.findall(r"(?:src|href)=[\"'](?!data:)", html), "it needs no network"
    return html


def find_figures(html: str) -> dict[str, str]:
    return {what: number for number, what in re.findall(r"<b>([\d,]+)</b>([a-z- ]+)", html)}


def test_a_prepared_set_on_a_page(
    folder: Path, rows: list[Row], models_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_image(folder / "face_d.png", (100, 60))
    for number, row in enumerate(rows):
        row |= {"face_similarity": 0.5 + number / 10, "caption": f"<b>{row['caption']}</b>"}
    write_rows(folder / "pairs.jsonl", [*rows, "no row"])
    manifest = read_manifest(folder / "pairs.jsonl")
    prepare_dataset(
        manifest,
        folder / "cache",
        make_small_encoders(models_dir),
        None,
        DecodingConfig(max_px=64 * 64, max_frames=5),
    )
    html = read_page(folder, str(folder / "pairs.jsonl"), "--cache", str(folder / "cache"))
    assert find_figures(html) | {"rows": "5", "pairs to train on": "3", "clips": "2"} == find_figures(html)
    assert "Quarantine: 2" in html and "no face" in html and "unreadable row" in html
    assert html.count("data:image/jpeg") == 6, "a reference and a target of each pair"
    assert "&lt;b&gt;a man a" in html and "<b>a man a" not in html
    assert html.count("<svg") == 2 and "Similarity of reference and target" in html
    assert "3 of 3" in html and "0.500" in html
    legends = re.findall(r'<p class="legend">(.*?)</p>', html)
    colours = [re.findall(r"background: (#\w+)\"></i>([\w-]+)", legend) for legend in legends]
    assert colours[0] == colours[1], "a kind has one colour"


@pytest.mark.parametrize("values", [[12, 14, 15, 15, 16], [5], [1, 2, 33_600], [0.1, 0.45, 0.5], []])
def test_a_histogram_has_all_values_and_whole_numbers_stay_whole(values: list[float]) -> None:
    histogram = make_histogram("tokens", {"images": values}, {})
    assert sum(sum(counts) for counts in histogram["series"].values()) == len(values)
    labels = re.findall(r">([^<]+)</text>", draw_histogram(histogram))
    if values and all(value == int(value) for value in values):
        assert (
            labels[0] == str(values[0]) and labels[-1] == str(values[-1]) and len(set(labels)) == len(labels)
        )
    else:
        assert len(labels) == 6 and all("." in label for label in labels)


def test_a_set_that_is_not_prepared(
    folder: Path, rows: list[Row], capsys: pytest.CaptureFixture[str]
) -> None:
    write_rows(folder / "train.jsonl", rows)
    (folder / "a.mp4").unlink()
    html = read_page(folder, str(folder))
    assert find_figures(html)["pairs to train on"] == "3" and "Not prepared" in html
    assert "target not found" in html and "Similarity of reference" not in html
    (folder / "empty").mkdir()
    assert main(["inspect", str(folder / "empty")]) == 1
    assert "has none of train.parquet, train.jsonl; name the manifest" in capsys.readouterr().err
    assert main(["inspect", str(folder / "none.jsonl")]) == 1
    assert "there is no manifest at" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("weights", "expected"),
    [
        ((2.0, 1.0, 0.5, 0.0), {"single-scene": 2.5, "multi-scene": 1.0, "augmented": 0.0}),
        ((3, None, "", None), {"single-scene": 4.0, "multi-scene": 1.0, "augmented": 1.0}),
        ((None, None, None, None), None),
    ],
)
def test_the_weights_of_a_manifest_are_those_of_its_kinds(
    folder: Path,
    rows: list[Row],
    models_dir: Path,
    weights: tuple[Any, ...],
    expected: dict[str, float] | None,
) -> None:
    for row, weight in zip(rows, weights, strict=True):
        if weight is not None:
            row["weight"] = weight
    manifest = read_manifest(write_rows(folder / "pairs.jsonl", rows))
    prepare_dataset(manifest, folder / "cache", make_small_encoders(models_dir))
    (path,) = (folder / "cache" / "index").glob("*.json")
    index = open_index(path, folder / "pairs.jsonl")
    assert index is not None and index.items.kind_weights == expected


def test_a_weight_that_is_no_number_is_named(folder: Path, rows: list[Row]) -> None:
    rows[0]["weight"], rows[1]["weight"] = "much", -1
    manifest = read_manifest(write_rows(folder / "pairs.jsonl", rows))
    assert [(r.id, r.reason) for r in manifest.rejections] == [("a", "bad weight"), ("b", "bad weight")]
    assert json.loads((folder / "pairs.jsonl").read_text().splitlines()[0])["weight"] == "much"
