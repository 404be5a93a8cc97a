"""The cache: named by content, whole or absent, and made again when damaged."""

from __future__ import annotations

import errno
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from lynx_core import durable_file
from lynx_core.data.cache.tensor_cache import TensorCache, name_entry
from lynx_core.data.errors import DataError
from lynx_core.hashing import WHOLE_FILE_BYTES, hash_file, hash_values

TENSORS = {"latents": torch.randn(16, 2, 4, 4).half(), "frames": torch.arange(3), "scale": torch.tensor(0.5)}


def refuse() -> dict[str, torch.Tensor]:
    raise AssertionError("made again")


def entry_path(root: Path) -> Path:
    (path,) = root.rglob("*.safetensors")
    return path


def test_entries_come_back_to_the_bit(tmp_path: Path) -> None:
    made = TensorCache(tmp_path).get_or_make("latents", ["a", 1], lambda: dict(TENSORS))
    read = TensorCache(tmp_path).get_or_make("latents", ["a", 1], refuse)
    for found in (made, read):
        assert found.keys() == TENSORS.keys()
        assert all(torch.equal(found[name], TENSORS[name]) for name in TENSORS)
        assert all(found[name].dtype == TENSORS[name].dtype for name in TENSORS)
    assert not list(tmp_path.rglob("*.part"))
    path = entry_path(tmp_path)
    raw = path.read_bytes()
    for _ in range(5):
        path.unlink()
        TensorCache(tmp_path).get_or_make("latents", ["a", 1], lambda: dict(TENSORS))
        assert path.read_bytes() == raw, "equal entries have equal bytes"


def test_names_follow_what_the_entry_depends_on() -> None:
    names = [name_entry("latents", value) for value in (["a", 1], ["a", 2], ["a1"], [["a"], 1])]
    assert len({*names, name_entry("texts", ["a", 1])}) == 5
    assert names[0] == name_entry("latents", ["a", 1])


@pytest.mark.parametrize("fault", ["empty", "cut", "one bit", "header", "other entry"])
def test_damaged_entries_are_made_again(tmp_path: Path, fault: str) -> None:
    TensorCache(tmp_path).get_or_make("latents", 1, lambda: dict(TENSORS))
    path = entry_path(tmp_path)
    raw = bytearray(path.read_bytes())
    if fault == "empty":
        raw.clear()
    elif fault == "cut":
        del raw[-10:]
    elif fault == "one bit":
        raw[-100] ^= 1
    elif fault == "header":
        raw[3] = 255
    else:
        raw = bytearray(raw.replace(b"sha256", b"sha255"))
    path.write_bytes(raw)
    cache = TensorCache(tmp_path)
    found = cache.get_or_make("latents", 1, lambda: dict(TENSORS))
    assert torch.equal(found["latents"], TENSORS["latents"])
    assert (cache.counts.damaged, cache.counts.made, cache.counts.reused) == (1, 1, 0)
    TensorCache(tmp_path).get_or_make("latents", 1, refuse)


def test_full_disk_is_named_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(durable_file.os, "fsync", fail)
    with pytest.raises(DataError, match="the disk is full, free some space"):
        TensorCache(tmp_path).get_or_make("latents", 1, lambda: dict(TENSORS))
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_threads_that_meet_at_an_entry_make_it_once(tmp_path: Path) -> None:
    cache = TensorCache(tmp_path)
    both = threading.Barrier(2)

    def make() -> dict[str, torch.Tensor]:
        time.sleep(0.2)
        return dict(TENSORS)

    def make_of_another() -> dict[str, torch.Tensor]:
        return cache.get_or_make("crops", 1, make)

    def ask(_: int) -> torch.Tensor:
        both.wait()
        return cache.get_or_make("references", 1, make_of_another)["latents"]

    with ThreadPoolExecutor(2) as threads:
        for found in threads.map(ask, range(2)):
            assert torch.equal(found, TENSORS["latents"])
    assert (cache.counts.made, cache.counts.reused) == (2, 1)


def test_without_a_folder_everything_is_made_each_time() -> None:
    cache = TensorCache(None)
    for _ in range(2):
        assert torch.equal(
            cache.get_or_make("latents", 1, lambda: dict(TENSORS))["frames"], TENSORS["frames"]
        )
    assert (cache.counts.made, cache.counts.reused, cache.counts.written_bytes) == (2, 0, 0)


def test_file_hashes_follow_the_content_alone(tmp_path: Path) -> None:
    small, copy, other = tmp_path / "a.png", tmp_path / "b.jpg", tmp_path / "c.png"
    small.write_bytes(b"x" * 1000)
    copy.write_bytes(b"x" * 1000)
    other.write_bytes(b"x" * 999 + b"y")
    os.utime(copy, (1, 1))
    assert hash_file(small) == hash_file(copy) != hash_file(other)


@pytest.mark.parametrize("change", ["first", "last", "size"])
def test_hashes_of_large_files_are_sampled(tmp_path: Path, change: str) -> None:
    raw = bytearray(os.urandom(WHOLE_FILE_BYTES + 1000))
    path = tmp_path / "a.mp4"
    path.write_bytes(raw)
    before = hash_file(path)
    if change == "size":
        raw.append(0)
    else:
        raw[0 if change == "first" else -1] ^= 1
    path.write_bytes(raw)
    assert hash_file(path) != before


def test_hash_of_values_is_a_golden() -> None:
    """It names every cache entry: a change would make all caches worthless."""
    assert hash_values(["é", 1, 0.25, None, {"b": 1, "a": [2]}])[:16] == "565fd6ef65c583c6"
