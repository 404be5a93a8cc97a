"""What was made of a person's files leaves a cache: shards, notes, lists of files and indexes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pyarrow import parquet
from small_encoders import make_small_encoders
from small_media import read_cache, write_rows, write_video

from lynx_core.data.dataset import PairDataset
from lynx_core.data.encoders import Encoders
from lynx_core.data.errors import DataError
from lynx_core.data.forgetting import forget_files
from lynx_core.data.manifest import read_manifest
from lynx_core.data.media.decoding import DecodingConfig
from lynx_core.data.prepare import PreparedDataset, prepare_dataset
from lynx_core.hashing import hash_file

DECODING = DecodingConfig(max_px=64 * 64, max_frames=5)


def prepare(folder: Path, encoders: Encoders) -> PreparedDataset:
    return prepare_dataset(read_manifest(folder / "pairs.jsonl"), folder / "cache", encoders, None, DECODING)


def find_traces(cache: Path, *traces: str) -> list[Path]:
    """Files that name one of these, Parquet unpacked."""
    found = []
    for path in cache.rglob("*"):
        if path.is_file():
            raw = path.read_bytes()
            if path.suffix == ".parquet":
                raw = repr(parquet.read_table(path, partitioning=None).to_pylist()).encode()
            found += [path] if any(trace.encode() in raw for trace in traces) else []
    return found


def test_nothing_of_a_pair_is_left_in_the_cache(
    folder: Path, rows: list[dict[str, Any]], encoders: Encoders, models_dir: Path
) -> None:
    write_video(folder / "a.mp4", num_frames=5)
    write_rows(folder / "pairs.jsonl", rows)
    prepare(folder, encoders)
    cache, files = folder / "cache", [folder / "a.mp4", folder / "face_a.png"]
    digests = [hash_file(path) for path in files]
    source = PairDataset(read_manifest(folder / "pairs.jsonl"), encoders, DECODING, cache_dir=cache)
    latents = source.load(0).latents.half().numpy().tobytes()
    files[0].unlink()  # known by what the cache has noted
    traces = ["a.mp4", "face_a", "a man a", *digests]
    assert len(find_traces(cache, *traces)) > 3 and any(latents in raw for raw in read_cache(cache).values())

    before = len(read_cache(cache))
    assert forget_files(cache, files, ["a man a"], {"a"}) == before - len(read_cache(cache)) == 6
    assert find_traces(cache, *traces) == []
    assert not any(latents in path.read_bytes() for path in cache.rglob("*") if path.is_file())
    assert forget_files(cache, files, ["a man a"], {"a"}) == 0

    write_rows(folder / "pairs.jsonl", rows[1:])
    again = prepare(folder, make_small_encoders(models_dir))
    assert (again.num_pairs, again.made) == (3, 0)


def test_what_others_share_with_the_pair_is_made_again(
    folder: Path, rows: list[dict[str, Any]], encoders: Encoders, models_dir: Path
) -> None:
    rows[1]["target"] = "a.mp4"
    write_rows(folder / "pairs.jsonl", rows)
    prepare(folder, encoders)
    forget_files(folder / "cache", [folder / "a.mp4", folder / "face_a.png"], [], {"a"})
    write_rows(folder / "pairs.jsonl", rows[1:])
    again = prepare(folder, make_small_encoders(models_dir))
    assert (again.num_pairs, again.made) == (3, 2), "the clip's probe and latents"


def test_a_folder_that_is_no_cache_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"is no cache of comfy-lynx prepare: name the folder data\.cache"):
        forget_files(tmp_path, [], [], set())
