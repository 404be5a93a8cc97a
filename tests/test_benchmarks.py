"""Benchmarks start from a plain checkout, where nothing but `lynx_core` is installed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

REPO_DIR = Path(__file__).resolve().parents[1]
WITH_MINIATURE = sorted(
    path.name
    for path in (REPO_DIR / "benchmarks").glob("*.py")
    if "from miniature" in (text := path.read_text()) and "argparse" in text
)


@pytest.mark.parametrize("name", WITH_MINIATURE)
def test_a_benchmark_with_the_miniature_says_what_it_takes(name: str, tmp_path: Path) -> None:
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    command = [sys.executable, str(REPO_DIR / "benchmarks" / name), "--help"]
    found = subprocess.run(
        command, check=False, cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert found.returncode == 0, found.stderr
    assert "--work" in found.stdout
