"""Two processes give what one gives; sharded weights and a sharded base give what full ones do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from small_run import Run, assert_same_bits, plain_configuration, read_result
from torch import Tensor

TOLERANCE = 2e-4
"""Sums in another order, and eight Adam steps, which amplify small gradients."""


def run_two(world: Path, output: Path, **distributed: object) -> dict[str, Tensor]:
    values = plain_configuration(world, output)
    values["distributed"] = distributed
    assert Run(values, 2).join() == [0, 0]
    return read_result(output)


def assert_close(a: dict[str, Tensor], b: dict[str, Tensor]) -> None:
    names = [name for name in a if name.startswith("weights ")]
    assert names and a.keys() == b.keys()
    first, second = (torch.cat([tensors[name].flatten() for name in names]) for tensors in (a, b))
    assert (first - second).norm() < TOLERANCE * first.norm()


@pytest.fixture(scope="module")
def replicated(world: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tensor]:
    return run_two(world, tmp_path_factory.mktemp("ddp") / "run", sharding="ddp")


def test_fsdp2_gives_what_ddp_gives(world: Path, tmp_path: Path, replicated: dict[str, Tensor]) -> None:
    assert_close(replicated, run_two(world, tmp_path / "run", sharding="fsdp2"))


def test_sharded_base_gives_what_a_full_one_gives(
    world: Path, tmp_path: Path, replicated: dict[str, Tensor]
) -> None:
    assert_same_bits(replicated, run_two(world, tmp_path / "run", sharding="ddp", shard_base=True))


def test_groups_of_shards_give_what_ddp_gives(
    world: Path, tmp_path: Path, replicated: dict[str, Tensor]
) -> None:
    """HSDP: two replicas of two shards each, of base and adapter."""
    values = plain_configuration(world, tmp_path / "run")
    values["distributed"] = {"sharding": "fsdp2", "shard_base": True, "shard_size": 2}
    num_packs = 2 * values["optimizer"]["gradient_accumulation_steps"]  # as two processes have
    values["optimizer"] |= {"gradient_accumulation_steps": 1, "global_batch_size": num_packs}
    assert Run(values, 4).join() == [0] * 4
    assert_close(replicated, read_result(tmp_path / "run"))


def test_fsdp2_goes_on_exactly(world: Path, tmp_path: Path) -> None:
    values = plain_configuration(world, tmp_path / "run")
    values["distributed"] = {"sharding": "fsdp2"}
    run = Run(values, 2, "slow_down", 0.08)
    run.wait_for_step(tmp_path / "run", 3)
    run.kill()
    assert Run(values, 2).join() == [0, 0]
    straight = run_two(world, tmp_path / "straight", sharding="fsdp2")
    assert_same_bits(straight, read_result(tmp_path / "run"))


def values_of(world: Path, output: Path, **optimizer: object) -> dict[str, Any]:
    """Four packs in each step, whoever runs them."""
    values = plain_configuration(world, output)
    values["packing"] = {"max_tokens": 24, "model_dim": 32, "window": 8}
    values["optimizer"] |= {"global_batch_size": 4, **optimizer}
    return values


def test_processes_that_share_packs_train_what_one_trains(
    world: Path, tmp_path: Path, replicated: dict[str, Tensor]
) -> None:
    """Four processes in two groups, with sharded weights, against two without; spares and a reference pass are in it."""
    values = plain_configuration(world, tmp_path / "run")
    values["distributed"] = {"sharding": "fsdp2", "sequence_parallel_size": 2}
    assert Run(values, 4, "note_losses", str(tmp_path / "losses")).join() == [0] * 4
    assert_close(replicated, read_result(tmp_path / "run"))
    counted = [len(file.read_text().splitlines()) > 0 for file in sorted(tmp_path.glob("losses-*"))]
    assert counted == [True, False, True, False], "one of each group counts its samples"


def read_losses(folder: Path) -> set[str]:
    """Lines of step, sample, timestep and loss to the bit, of all processes."""
    lines = [line for file in sorted(folder.glob("losses-*")) for line in file.read_text().splitlines()]
    assert lines
    return set(lines)


def read_norms(folder: Path) -> dict[str, float]:
    """Norm of the gradients of each step, which Adam makes nothing of."""
    lines = [
        line.split() for file in sorted(folder.glob("norms-*")) for line in file.read_text().splitlines()
    ]
    return {step: float(norm) for step, norm in lines}


def test_any_number_of_processes_runs_the_same_packs_to_the_same_losses(world: Path, tmp_path: Path) -> None:
    """The weights stand still, so that every loss can be compared to the bit; three processes leave places empty."""
    still = {"learning_rate": 1e-30, "weight_decay": 0.0}
    found = []
    for num_processes in (1, 2, 3, 4):
        folder = tmp_path / str(num_processes)
        folder.mkdir()
        values = values_of(world, folder / "run", **still)
        run = Run(values, num_processes, "note_losses", str(folder / "losses"))
        assert run.join() == [0] * num_processes
        found.append(read_losses(folder))
    assert len(found[0]) > 40 and all(losses == found[0] for losses in found)


def test_a_run_goes_on_with_another_number_of_processes(world: Path, tmp_path: Path) -> None:
    straight, changing = tmp_path / "straight", tmp_path / "changing"
    for folder in (straight, changing):
        folder.mkdir()
    values = values_of(world, straight / "run", learning_rate=1e-5)
    assert Run(values, 1, "note_losses", str(straight / "losses")).join() == [0]
    values = values_of(world, changing / "run", learning_rate=1e-5)
    for num_processes, size, step in ((1, 1, 2), (2, 1, 4), (2, 2, 6)):
        values["distributed"] = {"sequence_parallel_size": size}
        run = Run(values, num_processes, "note_losses_slowly", str(changing / "losses"))
        run.wait_for_step(changing / "run", step)
        run.kill()
    # Unset, it is that of the checkpoint.
    values["optimizer"]["global_batch_size"] = 0
    assert Run(values, 2, "note_losses", str(changing / "losses")).join() == [0, 0]
    names = [{line.rpartition(" ")[0] for line in read_losses(folder)} for folder in (straight, changing)]
    assert names[0] == names[1], "the same samples with the same noise in the same steps"
    assert len(read_norms(straight)) == 8
    assert read_norms(changing) == pytest.approx(read_norms(straight), rel=1e-4)
    a, b = read_result(straight / "run"), read_result(changing / "run")
    assert a.keys() == b.keys()
    for name in a:
        if name.startswith(("weights ", "ema ")):
            assert (a[name] - b[name]).norm() <= 1e-6 * (a[name].norm() + 1e-3), name
