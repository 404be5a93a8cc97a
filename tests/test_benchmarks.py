"""Benchmarks start from a plain checkout, where nothing but `lynx_core` is installed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

REPO_DIR = Path(__file__).resolve().parents[1]
WITH_MINIATURE = sorted(
    path.name
    for path in (REPO_DIR / "benchmarks").glob("*.py")
    if "from miniature" in (text := path.read_text()) and 'if __name__ == "__main__"' in text
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


def test_the_table_of_two_people_shows_the_figures_that_were_measured() -> None:
    folder = REPO_DIR / "docs" / "mini"
    found = json.loads((folder / "two_people.json").read_text())
    lines = (folder / "two_people.md").read_text().splitlines()
    table = [line for line in lines if line.startswith("|")][2:]
    names = list(next(iter(found.values())))
    assert len(table) == len(names)
    for line, name in zip(table, names, strict=True):
        shown = [each[name] for each in found.values()]
        assert line.count("(") == len(shown)
        for estimate in shown:
            assert f"{estimate['mean']:.3f} ({estimate['lo']:.3f} to {estimate['hi']:.3f})" in line
        assert all(estimate["n"] >= 64 for estimate in shown)
