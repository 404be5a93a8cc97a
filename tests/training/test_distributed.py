"""Two processes give what one gives; sharded weights and a sharded base give what full ones do."""

from __future__ import annotations

from pathlib import Path

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


def test_fsdp2_goes_on_exactly(world: Path, tmp_path: Path) -> None:
    values = plain_configuration(world, tmp_path / "run")
    values["distributed"] = {"sharding": "fsdp2"}
    run = Run(values, 2, "slow_down", 0.08)
    run.wait_for_step(tmp_path / "run", 3)
    run.kill()
    assert Run(values, 2).join() == [0, 0]
    straight = run_two(world, tmp_path / "straight", sharding="fsdp2")
    assert_same_bits(straight, read_result(tmp_path / "run"))


def test_one_process_and_two_agree(world: Path, tmp_path: Path) -> None:
    # All images fit one pack, so that both see the same samples in the one step.
    results = []
    for num_processes, budget in ((1, 1000), (2, 16)):
        values = plain_configuration(world, tmp_path / str(num_processes))
        values["stages"] = [{"name": "images", "kind": "images", "steps": 1}]
        values["packing"] = {"max_tokens": budget, "model_dim": 32, "window": 32}
        values["data"]["manifest"] = str(world / "data" / "images.jsonl")
        assert Run(values, num_processes).join() == [0] * num_processes
        results.append(read_result(tmp_path / str(num_processes)))
    moments = [name for name in results[0] if name.endswith("exp_avg")]
    assert moments
    for name in moments:
        scale = results[0][name].norm() + 1e-8
        assert (results[0][name] - results[1][name]).norm() < 1e-4 * scale, name
