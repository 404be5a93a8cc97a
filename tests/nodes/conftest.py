"""Fixtures of the node tests: the bench and what is loaded once for all of them."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from in_process import InProcessComfy

# The folder's modules go by their own names: `nodes` means ComfyUI's.
sys.path.insert(0, str(Path(__file__).parent))

from wan_bench import Conditioning, WanBench


@pytest.fixture(scope="session")
def bench(comfy: InProcessComfy) -> WanBench:
    # Models this small are an order of magnitude slower on several threads when the machine is busy.
    torch.set_num_threads(1)
    return WanBench(comfy)


@pytest.fixture(scope="session")
def base(bench: WanBench) -> Any:
    """The stand-in Wan 2.1 T2V in float32, as loaded. Tests must leave it so; several check it."""
    return bench.load_base()


@pytest.fixture(scope="session")
def full(bench: WanBench) -> Any:
    """The full adapter: ID with registers and biases in every block, and reference."""
    return bench.open_adapter("lynx_full")


@pytest.fixture(scope="session")
def lite(bench: WanBench) -> Any:
    """The lite adapter: ID alone, in every second block."""
    return bench.open_adapter("lynx_lite")


@pytest.fixture(scope="session")
def reference(bench: WanBench, base: Any, full: Any) -> Any:
    """A reference face encoded with `base`."""
    return bench.make_reference(base, full)


@pytest.fixture(scope="session")
def prompt(bench: WanBench) -> Conditioning:
    return bench.make_text(1)


@pytest.fixture(scope="session")
def negative(bench: WanBench) -> Conditioning:
    return bench.make_text(2)


@pytest.fixture(scope="session")
def identity(bench: WanBench, full: Any, reference: Any) -> dict[str, Any]:
    """The inputs of Lynx Apply that put a whole identity on: adapter, ID and reference."""
    return {"adapter": full, "id": bench.make_id(), "reference": reference}


@pytest.fixture
def notes() -> Iterator[list[str]]:
    """What the nodes say on their faces and in the host's log, in order."""
    said: list[str] = []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if record.getMessage().startswith("Lynx "):
                said.append(record.getMessage())

    keep, root = Keep(), logging.getLogger()
    level = root.level
    root.addHandler(keep)
    root.setLevel(logging.INFO)
    yield said
    root.removeHandler(keep)
    root.setLevel(level)


@pytest.fixture(scope="module")
def other_identity(bench: WanBench, base: Any, full: Any) -> dict[str, Any]:
    """Another person for Lynx Apply."""
    return {"adapter": full, "id": bench.make_id(1), "reference": bench.make_reference(base, full, seed=7)}
