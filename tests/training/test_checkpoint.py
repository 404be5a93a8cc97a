"""Checkpoints: complete or skipped, kept by the stated policy, unharmed by a full disk."""

from __future__ import annotations

import resource
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from lynx_core.training import checkpoint as checkpoint_module
from lynx_core.training.checkpoint import CheckpointError, CheckpointFolder, find_damage, read_state
from lynx_core.training.checkpoint_writer import CheckpointWriter
from lynx_core.training.trained_state import pick_own, read_weights

NOTES: list[str] = []
TENSORS = "__0_0.distcp"


class Alone:
    """What a writer asks of the processes, of one that is alone."""

    rank, world_size, is_main, checkpoint_group = 0, 1, True, None

    def gather(self, value: Any) -> list[Any]:
        return [value]


def make_tensors(step: int, size: int = 64) -> dict[str, torch.Tensor]:
    return {
        "weights/w": torch.full((size,), float(step)),
        "weights/b": torch.randn(3),
        "ema/w": torch.zeros(size),
        "optimizer/w/exp_avg": torch.randn(2 * size),
    }


def save(folder: CheckpointFolder, step: int, size: int = 64) -> Path:
    """Write a checkpoint, and wait for it."""
    writer = CheckpointWriter(folder, Alone())
    try:
        writer.begin({"step": step, "cursors": {}}, make_tensors(step, size))
        writer.finish()
    finally:
        writer.close()
    return folder.path_of(step)


@pytest.fixture
def folder(tmp_path: Path) -> CheckpointFolder:
    folder = CheckpointFolder(tmp_path, keep_last=2, keep_every=0)
    for step in (1, 2):
        save(folder, step)
    NOTES.clear()
    return folder


def test_what_is_saved_is_read(folder: CheckpointFolder) -> None:
    path = save(folder, 3)
    assert read_state(path)["step"] == 3
    assert torch.equal(read_weights(path)["w"], torch.full((64,), 3.0))
    assert torch.equal(read_weights(path, "ema/")["w"], torch.zeros(64))
    assert read_weights(path, "optimizer/")["w/exp_avg"].shape == (128,)


def test_what_is_written_is_what_was_there_when_it_began(folder: CheckpointFolder) -> None:
    tensors = make_tensors(3)
    writer = CheckpointWriter(folder, Alone())
    writer.begin({"step": 3}, tensors)
    tensors["weights/w"].fill_(-1)  # the next step of the training
    writer.finish()
    writer.close()
    assert torch.equal(read_weights(folder.path_of(3))["w"], torch.full((64,), 3.0))


def test_the_copy_of_a_checkpoint_goes_where_that_of_the_one_before_went(
    folder: CheckpointFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fresh memory costs a page fault for each 4 KB while the step waits, five times the copy."""
    places: list[dict[str, int]] = []
    write = CheckpointWriter._write_tensors

    def note(self: CheckpointWriter, aside: Path, staged: dict[str, torch.Tensor]) -> None:
        places.append({name: tensor.data_ptr() for name, tensor in staged.items()})
        write(self, aside, staged)

    monkeypatch.setattr(CheckpointWriter, "_write_tensors", note)
    writer = CheckpointWriter(folder, Alone())
    first = make_tensors(3)
    # An optimiser that begins late, and one whose state is gone, change what there is to copy.
    later = {**make_tensors(5), "optimizer/b/exp_avg": torch.randn(3)}
    for step, tensors in ((3, first), (4, make_tensors(4)), (5, later), (6, make_tensors(6, size=32))):
        writer.begin({"step": step}, tensors)
        for tensor in tensors.values():
            tensor.fill_(-1)  # the next step of the training
        writer.finish()
        assert torch.equal(
            read_weights(folder.path_of(step))["w"], torch.full_like(tensors["weights/w"], step)
        )
    writer.close()
    assert places[0] == places[1] and places[2].keys() == later.keys()
    assert read_weights(folder.path_of(5), "optimizer/")["b/exp_avg"].shape == (3,)


@pytest.mark.parametrize("world_size", [1, 2, 3, 8])
def test_processes_share_what_all_of_them_hold(world_size: int) -> None:
    tensors = {f"weights/{number}": torch.zeros(10 * number + 1) for number in range(20)}
    parts = [pick_own(tensors, rank, world_size) for rank in range(world_size)]
    assert sorted(name for part in parts for name in part) == sorted(tensors)
    sizes = [sum(tensor.nbytes for tensor in part.values()) for part in parts]
    assert max(sizes) - min(sizes) <= max(tensor.nbytes for tensor in tensors.values())


def _truncate(path: Path) -> None:
    file = path / TENSORS
    file.write_bytes(file.read_bytes()[:-4])


def _flip_a_bit(path: Path) -> None:
    raw = bytearray((path / TENSORS).read_bytes())
    raw[len(raw) // 2] ^= 1
    (path / TENSORS).write_bytes(raw)


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (_truncate, "__0_0.distcp has"),
        (_flip_a_bit, "__0_0.distcp has another content"),
        (lambda path: (path / ".metadata").unlink(), ".metadata is missing"),
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
    save(folder, 2)
    assert folder.find_newest(NOTES.append) == folder.path_of(2)


def test_planted_loader_that_trusts_is_noticed(
    folder: CheckpointFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoint_module, "find_damage", lambda path: None)
    with pytest.raises(AssertionError):
        test_damaged_ones_are_skipped(folder, _truncate, "__0_0.distcp has")


def test_half_written_ones_do_not_count(folder: CheckpointFolder) -> None:
    half = folder.root / ".step-00000003.part"
    shutil.copytree(folder.path_of(2), half)
    assert folder.find_newest(NOTES.append) == folder.path_of(2)
    save(folder, 4)
    assert not half.exists()


def test_retention(tmp_path: Path) -> None:
    folder = CheckpointFolder(tmp_path, keep_last=2, keep_every=4)
    for step in range(1, 11):
        save(folder, step)
    assert folder.steps() == [4, 8, 9, 10]
    assert not list(folder.root.glob(".*"))


@pytest.mark.parametrize("limit_bytes", [100, 100_000, 500_000])
def test_full_disk_keeps_the_older_ones(folder: CheckpointFolder, limit_bytes: int) -> None:
    # A limit on the size of files fails writes in the same places as a full disk does.
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit_bytes, before[1]))
    try:
        with pytest.raises(CheckpointError, match="step 3 could not be written") as caught:
            save(folder, 3, size=100_000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert "the checkpoint of step 2 is untouched" in str(caught.value)
    assert find_damage(folder.path_of(2)) is None and folder.steps() == [1, 2]
    assert not list(folder.root.glob(".*"))
    save(folder, 3, size=100_000)
    assert folder.steps() == [2, 3]
