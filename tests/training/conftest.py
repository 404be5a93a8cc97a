"""Fixtures of the training tests: a small world of files, its cache filled."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

# The folders' modules go by their own names.
sys.path.insert(0, str(Path(__file__).parents[1] / "data"))
sys.path.insert(0, str(Path(__file__).parent))

import small_run

from lynx_core.training.loop import Trainer, open_run


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Many threads on tiny matrices are slower than one, and the children use one."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of `save_small_world`. Do not write into it."""
    root = tmp_path_factory.mktemp("world")
    small_run.save_small_world(root)
    return root


@pytest.fixture
def trainer(world: Path, tmp_path: Path) -> Iterator[Trainer]:
    """A trainer in this process that has not run yet, its adapter moved off zero."""
    config = small_run.make_configuration(world, tmp_path / "run", optimizer={"max_grad_norm": 0.0})
    with open_run(config) as trainer:
        generator = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for parameter in trainer.parameters.values():
                parameter += 0.05 * torch.randn(parameter.shape, generator=generator)
        yield trainer
