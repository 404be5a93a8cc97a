"""Checkpoints: complete or skipped, kept by the stated policy, unharmed by a full disk."""

from __future__ import annotations

import resource
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from lynx_core.training import checkpoint as checkpoint_module
from lynx_core.training.checkpoint import (
    CheckpointContents,
    CheckpointError,
    CheckpointFolder,
    find_damage,
    read_checkpoint,
)

NOTES: list[str] = []


def make_contents(step: int, size: int = 64) -> CheckpointContents:
    weights = {"w": torch.full((size,), float(step)), "b": torch.randn(3)}
    optimizer = {"w": {"step": torch.tensor(float(step)), "exp_avg": torch.randn(2 * size)}, "b": {}}
    return CheckpointContents(
        {"step": step, "cursor": {"stage": 0}}, weights, optimizer, {"w": torch.zeros(size)}
    )


@pytest.fixture
def folder(tmp_path: Path) -> CheckpointFolder:
    folder = CheckpointFolder(tmp_path, keep_last=2, keep_every=0)
    for step in (1, 2):
        folder.save(make_contents(step))
    NOTES.clear()
    return folder


def test_what_is_saved_is_read(folder: CheckpointFolder) -> None:
    contents = make_contents(3)
    read = read_checkpoint(folder.save(contents))
    assert read.state["step"] == 3 and read.state["cursor"] == {"stage": 0}
    for kept, found in ((contents.weights, read.weights), (contents.optimizer["w"], read.optimizer["w"])):
        assert kept.keys() == found.keys() and all(torch.equal(kept[name], found[name]) for name in kept)
    assert read.ema is not None and torch.equal(read.ema["w"], torch.zeros(64))


def _truncate(path: Path) -> None:
    file = path / "weights.safetensors"
    file.write_bytes(file.read_bytes()[:-4])


def _flip_a_bit(path: Path) -> None:
    raw = bytearray((path / "optimizer.pt").read_bytes())
    raw[len(raw) // 2] ^= 1
    (path / "optimizer.pt").write_bytes(raw)


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (_truncate, "weights.safetensors has"),
        (_flip_a_bit, "optimizer.pt has another content"),
        (lambda path: (path / "ema.safetensors").unlink(), "ema.safetensors is missing"),
        (lambda path: (path / "complete.json").unlink(), "never completed"),
        (lambda path: (path / "complete.json").write_text("{"), "complete.json cannot be read"),
    ],
)
def test_damaged_ones_are_skipped(
    folder: CheckpointFolder, spoil: Callable[[Path], None], reason: str
) -> None:
    spoil(folder.path_of(2))
    assert folder.find_newest(NOTES.append) == folder.path_of(1)
    assert len(NOTES) == 1 and reason in NOTES[0] and "step-00000002" in NOTES[0]
    # Written again at the same step, it replaces the damaged one.
    folder.save(make_contents(2))
    assert folder.find_newest(NOTES.append) == folder.path_of(2)


def test_planted_loader_that_trusts_is_noticed(
    folder: CheckpointFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoint_module, "find_damage", lambda path: None)
    with pytest.raises(AssertionError):
        test_damaged_ones_are_skipped(folder, _truncate, "weights.safetensors has")


def test_half_written_ones_do_not_count(folder: CheckpointFolder) -> None:
    half = folder.root / ".step-00000003.part"
    shutil.copytree(folder.path_of(2), half)
    assert folder.find_newest(NOTES.append) == folder.path_of(2)
    folder.save(make_contents(4))
    assert not half.exists()


def test_retention(tmp_path: Path) -> None:
    folder = CheckpointFolder(tmp_path, keep_last=2, keep_every=4)
    for step in range(1, 11):
        folder.save(make_contents(step))
    assert folder.steps() == [4, 8, 9, 10]
    assert not list(folder.root.glob(".*"))


@pytest.mark.parametrize("limit_bytes", [100, 100_000, 500_000])
def test_full_disk_keeps_the_older_ones(folder: CheckpointFolder, limit_bytes: int) -> None:
    # A limit on the size of files fails writes in the same places as a full disk does.
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit_bytes, before[1]))
    try:
        with pytest.raises(CheckpointError, match="step 3 could not be written") as caught:
            folder.save(make_contents(3, size=100_000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert "the checkpoint of step 2 is untouched" in str(caught.value)
    assert find_damage(folder.path_of(2)) is None and folder.steps() == [1, 2]
    assert not list(folder.root.glob(".*"))
    folder.save(make_contents(3, size=100_000))
    assert folder.steps() == [2, 3]
