"""A complete cache does without the media, and a changed file is noticed when it is there."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from small_encoders import make_small_encoders
from small_media import list_ids, write_image, write_rows, write_video

from lynx_core.data.dataset import PairDataset
from lynx_core.data.encoders import Encoders
from lynx_core.data.errors import DataError
from lynx_core.data.manifest import read_manifest
from lynx_core.data.media.decoding import DecodingConfig
from lynx_core.data.prepare import prepare_dataset

DECODING = DecodingConfig(max_px=64 * 64, max_frames=5)
Row = dict[str, Any]


@pytest.fixture
def prepared(folder: Path, rows: list[Row], encoders: Encoders) -> Path:
    """The folder of a prepared dataset; its cache stands apart."""
    place = folder / "set"
    place.mkdir()
    for path in [*folder.glob("*.mp4"), *folder.glob("*.png")]:
        path.rename(place / path.name)
    manifest = read_manifest(write_rows(place / "pairs.jsonl", rows))
    prepare_dataset(manifest, folder / "cache", encoders, None, DECODING)
    return place


def remove_media(place: Path) -> None:
    for path in [*place.glob("*.mp4"), *place.glob("*.png")]:
        path.unlink()


def open_source(place: Path, encoders: Encoders, cache: Path | None = None) -> PairDataset:
    manifest = read_manifest(place / "pairs.jsonl")
    return PairDataset(manifest, encoders, DECODING, cache_dir=cache or place.parent / "cache")


def latents(source: PairDataset) -> list[torch.Tensor]:
    return [source.load(index).latents for index in range(len(source))]


def test_media_that_are_gone_come_from_the_cache(
    prepared: Path, encoders: Encoders, models_dir: Path
) -> None:
    before = open_source(prepared, encoders)
    expected = latents(before)
    remove_media(prepared)
    source = open_source(prepared, make_small_encoders(models_dir))
    assert all(torch.equal(a, b) for a, b in zip(latents(source), expected, strict=True))
    assert source.features.cache.counts.made == 0
    assert source.fingerprints == before.fingerprints
    assert "8 files are gone; what the cache has made of them is used" in source.describe()
    report = prepare_dataset(
        read_manifest(prepared / "pairs.jsonl"), prepared.parent / "cache", encoders, None, DECODING
    )
    assert (report.num_pairs, report.made) == (4, 0) and "8 files are gone" in str(report)


def test_manifest_and_cache_may_move_without_the_media(
    prepared: Path, encoders: Encoders, tmp_path_factory: pytest.TempPathFactory
) -> None:
    expected = latents(open_source(prepared, encoders))
    machine = tmp_path_factory.mktemp("other machine")
    shutil.copy(prepared / "pairs.jsonl", machine / "pairs.jsonl")
    (prepared.parent / "cache").rename(machine / "cache")
    shutil.rmtree(prepared)
    source = open_source(machine, encoders, machine / "cache")
    assert all(torch.equal(a, b) for a, b in zip(latents(source), expected, strict=True))


def test_another_row_of_the_same_names_is_not_taken_for_it(
    prepared: Path, rows: list[Row], encoders: Encoders, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Two datasets with numbered files, one cache; the second one's disk is not there."""
    other = tmp_path_factory.mktemp("other set")
    for row in rows:
        row["caption"] = "a man of the other set"
    write_rows(other / "pairs.jsonl", rows)
    with pytest.raises(DataError, match="4 skipped: target not found"):
        open_source(other, encoders, prepared.parent / "cache")


def test_a_changed_file_is_noticed_when_it_is_there(prepared: Path, encoders: Encoders) -> None:
    before = open_source(prepared, encoders)
    old = before.load(0).latents
    write_video(prepared / "a.mp4", num_frames=6, size=(64, 64), seed=9)
    source = open_source(prepared, encoders)
    assert source.load(0).latents.shape != old.shape
    changed = [name for name, value in before.fingerprints.items() if source.fingerprints[name] != value]
    assert changed == ["dataset"]
    remove_media(prepared)
    assert torch.equal(open_source(prepared, encoders).load(0).latents, source.load(0).latents)


def test_files_that_the_cache_never_saw_are_skipped(
    prepared: Path, rows: list[Row], encoders: Encoders
) -> None:
    write_rows(prepared / "pairs.jsonl", [*rows, {**rows[0], "id": "new", "target": "new.mp4"}])
    remove_media(prepared)
    source = open_source(prepared, encoders)
    assert list_ids(source) == ["a", "b", "c", "d"]
    assert [(r.id, r.line, r.reason) for r in source.quarantine.rejections] == [
        ("new", 5, "target not found")
    ]


def test_a_caption_may_change_after_the_media_are_gone(
    prepared: Path, rows: list[Row], encoders: Encoders
) -> None:
    remove_media(prepared)
    rows[0]["caption"] = "a man b"
    write_rows(prepared / "pairs.jsonl", rows)
    source = open_source(prepared, encoders)
    assert source.load(0).caption == "a man b"


def test_what_was_not_prepared_needs_the_file(prepared: Path, encoders: Encoders) -> None:
    remove_media(prepared)
    manifest = read_manifest(prepared / "pairs.jsonl")
    source = PairDataset(
        manifest, encoders, DecodingConfig(max_px=32 * 32), cache_dir=prepared.parent / "cache"
    )
    with pytest.raises(DataError, match=r"4 skipped: file is gone.*a.mp4: the cache has nothing"):
        source.load_pack([0])


def test_an_index_cut_short_by_a_kill(prepared: Path, rows: list[Row], encoders: Encoders) -> None:
    index = prepared.parent / "cache" / "files.jsonl"
    index.write_bytes(index.read_bytes()[:-20])
    write_image(prepared / "e.png", seed=5)
    write_rows(prepared / "pairs.jsonl", [*rows, {**rows[3], "id": "e", "target": "e.png"}])
    open_source(prepared, encoders).load(4)
    remove_media(prepared)
    assert list_ids(open_source(prepared, encoders)) == ["a", "b", "c", "d", "e"]
