"""The index of a preparation: opened without a look at any file, and refused when it is not what it was."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from small_encoders import make_small_encoders
from small_media import write_image, write_rows

from lynx_core.data import dataset_index
from lynx_core.data.cache.tensor_cache import TensorCache
from lynx_core.data.dataset import PairDataset
from lynx_core.data.dataset_index import DatasetIndex, build_index
from lynx_core.data.encoders import Encoders
from lynx_core.data.errors import DataError, MediaError
from lynx_core.data.manifest import read_manifest
from lynx_core.data.media.decoding import DecodingConfig
from lynx_core.data.prepare import prepare_dataset
from lynx_core.data.prepared_index import name_index, open_index

DECODING = DecodingConfig(max_px=64 * 64, max_frames=5)
Row = dict[str, Any]


def name_of(folder: Path, encoders: Encoders) -> Path:
    fingerprints = {"decoding": DECODING.fingerprint(), "encoders": encoders.fingerprint()}
    return name_index(folder / "cache", folder / "pairs.jsonl", fingerprints, None)


@pytest.fixture
def prepared(folder: Path, rows: list[Row], encoders: Encoders) -> Callable[[], DatasetIndex | None]:
    """Prepare four pairs, one of them without a face; gives what opens their index."""
    write_image(folder / "face_d.png", (100, 60))
    manifest = read_manifest(write_rows(folder / "pairs.jsonl", [*rows, "no row"]))
    prepare_dataset(manifest, folder / "cache", encoders, None, DECODING)
    return lambda: open_index(name_of(folder, encoders), folder / "pairs.jsonl")


def test_it_holds_what_looking_at_all_files_gives(
    folder: Path, prepared: Callable[[], DatasetIndex], encoders: Encoders
) -> None:
    found = prepared()
    built = build_index(read_manifest(folder / "pairs.jsonl"), DECODING, TensorCache(folder / "cache"))
    assert found.fingerprint == built.fingerprint and len(found.items) == len(built.items) == 4
    for ours, theirs in zip(found.items, built.items, strict=True):
        assert ours.pair == theirs.pair and ours.file_states == theirs.file_states
        assert str(ours.plan) == str(theirs.plan)
        assert (ours.target_hash, ours.reference_hashes) == (theirs.target_hash, theirs.reference_hashes)
    assert {(one.id, one.reason) for one in found.rejections} == {("", "unreadable row"), ("d", "no face")}
    assert found.num_rows == built.num_rows == 5


def test_it_opens_without_its_files_and_in_another_place(
    folder: Path, prepared: Callable[[], DatasetIndex], models_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise AssertionError("a file was looked at")

    monkeypatch.setattr(dataset_index, "hash_file", refuse)
    monkeypatch.setattr(dataset_index, "probe_media", refuse)
    assert len(prepared().items) == 4
    moved = folder.parent / f"{folder.name}-moved"
    shutil.copytree(folder, moved)  # with other dates
    encoders = make_small_encoders(models_dir)
    index = open_index(name_of(moved, encoders), moved / "pairs.jsonl")
    assert index is not None
    source = PairDataset(index, encoders, DECODING, cache_dir=moved / "cache")
    assert source.items[0].pair.target.parent == moved
    for file in moved.glob("*.png"):
        file.unlink()
    assert source.load(0).id == "a" and source.features.cache.counts.made == 0


def test_a_changed_file_is_noticed_when_it_is_read(
    folder: Path, prepared: Callable[[], DatasetIndex], encoders: Encoders
) -> None:
    source = PairDataset(prepared(), encoders, DECODING, cache_dir=folder / "cache")
    photo = source.items[0].pair.references[0]
    os.utime(photo, ns=(1, 1))
    assert source.load(0).id == "a", "another date alone is no change"
    write_image(photo, (100, 100), seed=77)
    with pytest.raises(MediaError, match="another one than when it was prepared; prepare the dataset again"):
        source.load(0)
    assert [one.reason for one in source.quarantine.rejections if one.id == "a"] == ["file has changed"]


def test_a_changed_manifest_is_another_dataset(
    folder: Path, rows: list[Row], prepared: Callable[[], DatasetIndex | None]
) -> None:
    path = folder / "pairs.jsonl"
    raw = path.read_bytes()
    os.utime(path, ns=(1, 1))
    assert prepared() is not None
    path.write_bytes(raw.replace(b"a man", b"A man"))
    assert prepared() is None
    path.write_bytes(raw)
    assert prepared() is not None


def _truncate(folder: Path) -> None:
    file = next(folder.glob("*-pairs.arrow"))
    file.write_bytes(file.read_bytes()[:-9])


def _age(folder: Path) -> None:
    file = next(folder.glob("*.json"))
    file.write_text(json.dumps({**json.loads(file.read_text()), "format": 0}))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (_age, r"has format 0, this version reads 2; run comfy-lynx prepare again"),
        (_truncate, r"pairs\.arrow of the index .* bytes instead of \d+; run comfy-lynx prepare again"),
        (
            lambda folder: next(folder.glob("*-plan.arrow")).unlink(),
            r"plan\.arrow of the index .* is missing",
        ),
        (
            lambda folder: next(folder.glob("*.json")).write_text("{"),
            "cannot be read .* run comfy-lynx prepare",
        ),
    ],
)
def test_what_is_no_longer_whole_is_refused_by_name(
    folder: Path,
    prepared: Callable[[], DatasetIndex | None],
    spoil: Callable[[Path], None],
    message: str,
    encoders: Encoders,
) -> None:
    spoil(folder / "cache" / "index")
    with pytest.raises(DataError, match=message):
        prepared()
    # The way out.
    prepare_dataset(read_manifest(folder / "pairs.jsonl"), folder / "cache", encoders, None, DECODING)
    assert prepared() is not None
    assert len(list((folder / "cache" / "index").glob("*.arrow"))) == 3
