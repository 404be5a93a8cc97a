"""benchmarks/gpu.py in small, on the CPU: every part runs, and a run that is cut says what it got to."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[1]


pytestmark = pytest.mark.timeout(900)  # the command has limits of its own


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "benchmarks/gpu.py", "--device", "cpu", "--small", *arguments],
        cwd=REPO,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=850,
        check=False,
    )


def test_every_part_gets_to_its_figures() -> None:
    ended = run()
    table = ended.stdout.rpartition("\n\n")[2]
    assert ended.returncode == 0, ended.stdout[-3000:]
    for figure in (
        "bf16 matmul",
        "attention, loop: error against float32",
        "attention, varlen",
        "MFU",
        "float32: peak memory of a step, ours",
        "float8_e4m3fn: peak memory of a step, ours",
        "encode ID",
        "encode reference",
        "load a saved identity",
        "step of 1 prediction, ours over base",
        "step of 3 predictions, published way",
        "fp8: step of 1 prediction, ours over base",
        "compiled, each block: ours over base",
        "compiled, whole model: ours over base",
        "tests marked cuda",
    ):
        assert f"\n{figure}" in table, figure
    assert "MISSED" not in table, "tiny shapes say nothing of an aim"
    assert "2/" in table, "the two tests of attention kernels are marked cuda"
    assert table.strip().endswith(" s")


def test_a_part_without_time_is_said_and_fails_the_run() -> None:
    ended = run("--part", "card", "--minutes", "0.01")
    assert ended.returncode == 1
    assert "card: no time left" in ended.stdout


def test_a_part_that_fails_leaves_the_figures_it_got_to(tmp_path: Path) -> None:
    """The host is asked for by the second part."""
    ended = run("--part", "card", "--part", "bf16", "--comfyui", str(tmp_path / "none"))
    assert ended.returncode == 1
    table = ended.stdout.rpartition("\n\n")[2]
    assert "bf16 matmul" in table
    assert "card, bf16: failed: ModuleNotFoundError: No module named 'comfy" in table
