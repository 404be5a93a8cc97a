"""Shards: what a cache holds in few files, whatever interrupts the packing and whatever becomes of the files."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from small_encoders import make_small_encoders
from small_media import write_rows

from lynx_core import durable_file
from lynx_core.data.cache.shards import FOLDER, ShardFolder, open_shards, pack_entries, rewrite_shards
from lynx_core.data.cache.tensor_cache import TensorCache, name_entry
from lynx_core.data.dataset import PairDataset
from lynx_core.data.encoders import Encoders
from lynx_core.data.errors import DataError, MediaError
from lynx_core.data.manifest import read_manifest
from lynx_core.data.media.decoding import DecodingConfig
from lynx_core.data.prepare import PreparedDataset, prepare_dataset
from lynx_core.data.prepared_index import name_index, open_index

DECODING = DecodingConfig(max_px=64 * 64, max_frames=5)
NUMBERS = range(12)
Row = dict[str, Any]


def make(number: int) -> dict[str, torch.Tensor]:
    """An entry of odd length, so that the next one has to be aligned."""
    latents = torch.randn(16, 3, 4, generator=torch.Generator().manual_seed(number))
    return {"latents": latents.half(), "said": torch.arange(number + 1, dtype=torch.uint8)}


def source_of(number: int) -> str:
    return f"{number:064x}"


def fill(root: Path, numbers: range = NUMBERS) -> TensorCache:
    cache = TensorCache(root)
    for number in numbers:
        cache.get_or_make("latents", number, lambda number=number: make(number), source_of(number))
    return cache


def count_whole(root: Path, numbers: range = NUMBERS) -> int:
    """How many entries are read to the bit; none is made."""

    def refuse() -> dict[str, torch.Tensor]:
        raise KeyError

    cache, count = TensorCache(root), 0
    for number in numbers:
        try:
            found = cache.get_or_make("latents", number, refuse)
        except KeyError:
            continue
        assert found.keys() == make(number).keys()
        assert all(torch.equal(found[name], tensor) for name, tensor in make(number).items())
        count += 1
    return count


def list_files(root: Path) -> list[Path]:
    """Entries that lie in files of their own."""
    return list(root.glob("latents/*/*.safetensors"))


def list_shards(root: Path) -> list[Path]:
    return sorted((root / FOLDER).glob("*.safetensors"))


def test_entries_are_packed_into_files_that_other_programs_read(tmp_path: Path) -> None:
    fill(tmp_path)
    assert pack_entries(tmp_path, 2000) == 12
    assert count_whole(tmp_path) == 12 and not list_files(tmp_path)
    assert len(list_shards(tmp_path)) > 3 and all(
        path.stat().st_size < 4000 for path in list_shards(tmp_path)
    )
    seen = []
    for path in list_shards(tmp_path):
        with safe_open(path, "pt") as shard:
            seen += [shard.get_tensor(name) for name in shard.keys() if name.endswith("/latents")]  # noqa: SIM118
    assert sorted(tensor.sum().item() for tensor in seen) == sorted(
        make(number)["latents"].sum().item() for number in NUMBERS
    )
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / FOLDER).iterdir()}
    assert pack_entries(tmp_path, 2000) == 0
    assert before == {path: path.stat().st_mtime_ns for path in (tmp_path / FOLDER).iterdir()}


def test_a_shard_that_is_not_full_waits(tmp_path: Path) -> None:
    fill(tmp_path, range(3))
    assert pack_entries(tmp_path, whole_only=True) == 0 and len(list_files(tmp_path)) == 3
    reader = TensorCache(tmp_path)
    fill(tmp_path)
    assert pack_entries(tmp_path, 2000, whole_only=True) > 0 and list_files(tmp_path)
    assert reader.read(next(iter(ShardFolder(tmp_path).unlisted.values()))[0].name) is not None
    assert count_whole(tmp_path) == 12


@pytest.mark.parametrize("step", range(0, 40, 3))
def test_a_kill_at_any_step_loses_nothing_and_leaves_no_second_copy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    fill(tmp_path)
    size = sum(path.stat().st_size for path in list_files(tmp_path))
    left = [step]

    class Killed(BaseException):
        pass

    def counted(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            left[0] -= 1
            if left[0] < 0:
                raise Killed
            return real(*arguments, **options)

        return call

    with monkeypatch.context() as patched:
        for owner, name in ((Path, "unlink"), (Path, "replace"), (durable_file, "sync")):
            patched.setattr(owner, name, counted(getattr(owner, name)))
        with pytest.raises(Killed):
            pack_entries(tmp_path, 2000)
    assert count_whole(tmp_path) == 12
    open_shards(tmp_path)
    pack_entries(tmp_path, 2000)
    assert count_whole(tmp_path) == 12
    assert not list_files(tmp_path) and not list((tmp_path / FOLDER).glob(".*.part"))
    assert sum(path.stat().st_size for path in list_shards(tmp_path)) < 2.5 * size
    assert not ShardFolder(tmp_path).unlisted


def test_two_pack_at_once_while_others_read_and_write(tmp_path: Path) -> None:
    fill(tmp_path)
    problems: list[BaseException] = []

    def run(action: Callable[[], object]) -> threading.Thread:
        def guarded() -> None:
            try:
                action()
            except BaseException as error:
                problems.append(error)

        thread = threading.Thread(target=guarded)
        thread.start()
        return thread

    more = range(12, 30)
    threads = [run(lambda: pack_entries(tmp_path, 2000)) for _ in range(2)]
    threads += [run(lambda: fill(tmp_path, more)), run(lambda: [count_whole(tmp_path) for _ in range(5)])]
    for thread in threads:
        thread.join()
    assert not problems
    pack_entries(tmp_path, 2000)
    assert count_whole(tmp_path, range(30)) == 30 and not list_files(tmp_path)


def spoil(path: Path, fault: str) -> None:
    if fault == "missing":
        path.unlink()
    elif fault == "bit":
        raw = bytearray(path.read_bytes())
        raw[-100] ^= 1
        path.write_bytes(raw)
    else:
        os.truncate(path, {"cut short": path.stat().st_size - 50, "empty": 0}[fault])


@pytest.mark.parametrize("fault", ["missing", "cut short", "empty", "bit"])
def test_what_a_shard_does_not_give_is_made_again(
    tmp_path: Path, fault: str, caplog: pytest.LogCaptureFixture
) -> None:
    fill(tmp_path)
    pack_entries(tmp_path)
    opened = TensorCache(tmp_path)
    opened.get_or_make("latents", 0, dict)  # the shard is in memory now
    spoil(list_shards(tmp_path)[0], fault)
    again = fill(tmp_path)
    assert again.counts.made == again.counts.damaged == (1 if fault in ("bit", "cut short") else 12)
    said = {"missing": "is missing", "cut short": "bytes instead of", "empty": "cannot be read", "bit": ""}
    assert said[fault] in caplog.text and caplog.text.count("comfy-lynx prepare") == (fault != "bit")
    assert count_whole(tmp_path) == 12
    if fault != "missing":
        for number in NUMBERS:
            opened.get_or_make("latents", number, lambda: make(0))
    generation = ShardFolder(tmp_path).index.generation
    assert (open_shards(tmp_path) == generation) == (fault == "bit")
    fill(tmp_path)
    pack_entries(tmp_path)
    assert count_whole(tmp_path) == 12 and not list_files(tmp_path)


def test_an_index_that_is_gone_is_made_of_the_shards(tmp_path: Path) -> None:
    fill(tmp_path)
    pack_entries(tmp_path, 2000)
    index = tmp_path / FOLDER / "index.arrow"
    index.write_bytes(index.read_bytes().replace(b'"format": 1', b'"format": 0'))
    with pytest.raises(
        DataError, match=r"index\.arrow has format 0, this version reads 1; delete it, and run comfy"
    ):
        TensorCache(tmp_path)
    index.write_bytes(b"no index")
    with pytest.raises(DataError, match=r"index\.arrow cannot be read .*; delete it"):
        TensorCache(tmp_path)
    index.unlink()
    assert count_whole(tmp_path) == 12
    open_shards(tmp_path)
    assert index.exists() and count_whole(tmp_path) == 12 and not ShardFolder(tmp_path).unlisted


def test_a_full_disk_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    fill(tmp_path)
    with monkeypatch.context() as patched:
        patched.setattr(durable_file.os, "fsync", fail)
        with pytest.raises(
            DataError, match=r"No space left on device.*free some space, and run comfy-lynx prepare again"
        ):
            pack_entries(tmp_path)
    assert count_whole(tmp_path) == 12 and not list_shards(tmp_path)


@pytest.mark.parametrize("killed_at", [None, 0, 1, 2])
def test_what_was_made_of_a_file_is_erased(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, killed_at: int | None
) -> None:
    fill(tmp_path, range(10))
    pack_entries(tmp_path, 2000)
    fill(tmp_path)  # the last two lie in files of their own
    doomed = {source_of(number) for number in (1, 2, 11)}

    class Killed(BaseException):
        pass

    if killed_at is not None:
        real, calls = Path.replace, [0]

        def replace(path: Path, target: Path) -> Path:
            calls[0] += 1
            if calls[0] > killed_at:
                raise Killed
            return real(path, target)

        with monkeypatch.context() as patched:
            patched.setattr(Path, "replace", replace)
            with pytest.raises(Killed):
                rewrite_shards(tmp_path, doomed)
    done = rewrite_shards(tmp_path, doomed)
    assert killed_at is not None or done == 3
    assert count_whole(tmp_path) == 9
    for path in tmp_path.rglob("*"):
        if path.is_file():
            assert not any(
                make(number)["latents"].numpy().tobytes() in path.read_bytes() for number in (1, 2, 11)
            )
    open_shards(tmp_path), pack_entries(tmp_path)
    assert count_whole(tmp_path) == 9


def prepare(folder: Path, encoders: Encoders) -> PreparedDataset:
    manifest = read_manifest(folder / "pairs.jsonl")
    return prepare_dataset(manifest, folder / "cache", encoders, None, DECODING)


def test_a_lost_shard_costs_the_pairs_whose_files_are_gone(
    folder: Path, rows: list[Row], encoders: Encoders, models_dir: Path
) -> None:
    write_rows(folder / "pairs.jsonl", rows)
    first = prepare(folder, encoders)
    cache = folder / "cache"
    assert not list_files(cache) and len(list_shards(cache)) == 1
    os.truncate(list_shards(cache)[0], 5000)
    video = (folder / "a.mp4").read_bytes()
    (folder / "a.mp4").unlink()
    fresh = make_small_encoders(models_dir)
    fingerprints = {"decoding": DECODING.fingerprint(), "encoders": fresh.fingerprint()}
    index = open_index(name_index(cache, folder / "pairs.jsonl", fingerprints, None), folder / "pairs.jsonl")
    source = PairDataset(index, fresh, DECODING, cache_dir=cache)
    assert [rejection.id for rejection in source.quarantine.rejections] == []
    with pytest.raises(
        MediaError, match=r"file is gone .*the shard .*000000-.* bytes instead of .*comfy-lynx prepare"
    ):
        source.load(0)
    assert [(r.id, r.reason) for r in source.quarantine.rejections] == [("a", "file is gone")]
    (folder / "a.mp4").write_bytes(video)
    healed = prepare(folder, make_small_encoders(models_dir))
    assert (healed.num_pairs, healed.num_skipped) == (4, 0) and 0 < healed.made <= first.made
    assert len(list((cache / FOLDER).glob("*.damaged"))) == 1
    again = prepare(folder, make_small_encoders(models_dir))
    assert (again.made, again.num_pairs) == (0, 4)


def test_a_shard_that_comes_within_a_tick_of_the_clock_is_found(tmp_path: Path) -> None:
    cache = TensorCache(tmp_path)
    (tmp_path / FOLDER).mkdir()
    reader = ShardFolder(tmp_path)
    before = (tmp_path / FOLDER).stat()
    cache.write(name_entry("latents", 1), {"x": torch.ones(2)})
    assert pack_entries(tmp_path) == 1
    os.utime(tmp_path / FOLDER, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert reader.refresh() and reader.find(name_entry("latents", 1))


def test_an_entry_that_says_it_is_endless_makes_no_shard(tmp_path: Path) -> None:
    name = name_entry("latents", 1)
    TensorCache(tmp_path).write(name, {"x": torch.ones(2)})
    pack_entries(tmp_path)
    place = ShardFolder(tmp_path).find(name)
    assert place is not None
    (tmp_path / FOLDER / "index.arrow").unlink()
    with (tmp_path / FOLDER / place.shard).open("r+b") as file:
        file.seek(place.offset)
        file.write(b"\xff" * 8)
    shards = ShardFolder(tmp_path)
    assert shards.find_broken() == [place.shard] and shards.find(name) is None
