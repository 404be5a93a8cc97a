"""Straight through = killed and resumed, to the bit, with one process and with two.

The kills are SIGKILL: at random moments, and at every point of writing a checkpoint.
"""

from __future__ import annotations

import random
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from small_run import Run, assert_same_bits, newest_step, read_result
from small_run import plain_configuration as plain_small_configuration
from torch import Tensor

from lynx_core.training.checkpoint import find_damage

NUM_STEPS = 8
SIGKILLED, STOPPED = -9, 130
SYNCS_PER_CHECKPOINT = 7
"""Four files and their manifest, the folder, and the folder around it."""


def plain_configuration(root: Path, output: Path) -> dict[str, Any]:
    """With a reference cache, which after a kill holds other entries than without it."""
    values = plain_small_configuration(root, output)
    values["base"]["reference_cache_gb"] = 1.0
    return values


@pytest.fixture(scope="module")
def straight(world: Path, tmp_path_factory: pytest.TempPathFactory):
    """Result of a run that was never stopped, by number of processes."""

    @cache
    def get(num_processes: int) -> dict[str, Tensor]:
        output = tmp_path_factory.mktemp("straight") / "run"
        assert Run(plain_configuration(world, output), num_processes).join() == [0] * num_processes
        return read_result(output)

    return get


@pytest.mark.parametrize("num_processes", [1, 2])
def test_killed_at_random_moments(world: Path, tmp_path: Path, straight, num_processes: int) -> None:
    values = plain_configuration(world, tmp_path / "run")
    waits = random.Random(num_processes)
    for step in (2, 5):  # in the stage of images, and in that of videos
        run = Run(values, num_processes, "slow_down", 0.08)
        run.wait_for_step(tmp_path / "run", step)
        run.processes[0].join(waits.uniform(0, 0.15))
        run.kill()
        assert run.processes[0].exitcode == SIGKILLED, "it must not have finished before"
    assert newest_step(tmp_path / "run") >= 5
    assert Run(values, num_processes).join() == [0] * num_processes
    assert_same_bits(straight(num_processes), read_result(tmp_path / "run"))


@pytest.mark.parametrize("sync", range(1, SYNCS_PER_CHECKPOINT + 1))
def test_killed_while_writing_a_checkpoint(world: Path, tmp_path: Path, straight, sync: int) -> None:
    output = tmp_path / "run"
    values = plain_configuration(world, output)
    # Of the fourth checkpoint, the last on images.
    assert Run(values, 1, "die_at_sync", 3 * SYNCS_PER_CHECKPOINT + sync).join() == [SIGKILLED]
    # The last sync is that of the folder around it, after the renaming.
    assert newest_step(output) == (4 if sync == SYNCS_PER_CHECKPOINT else 3)
    assert Run(values, 1).join() == [0]
    assert_same_bits(straight(1), read_result(output))


def test_ctrl_c_saves_and_leaves(world: Path, tmp_path: Path) -> None:
    output, started = tmp_path / "run", tmp_path / "started"
    values = plain_configuration(world, output)
    values["run"]["checkpoint_every"] = 100_000
    values["stages"][0]["steps"] = 4000
    run = Run(values, 2, "announce_steps", str(started))
    while not started.exists() and run.processes[0].is_alive():
        run.processes[0].join(0.05)
    run.interrupt()
    assert run.join() == [STOPPED, STOPPED], "one process is told, both save and leave"
    step = newest_step(output)
    assert 1 <= step < 4000
    assert find_damage(output / "checkpoints" / f"step-{step:08d}") is None


def test_planted_unseeded_noise_is_noticed(world: Path, tmp_path: Path, straight) -> None:
    values = plain_configuration(world, tmp_path / "run")
    assert Run(values, 1, "unseed").join() == [0]
    with pytest.raises(AssertionError, match="tensors differ"):
        assert_same_bits(straight(1), read_result(tmp_path / "run"))
