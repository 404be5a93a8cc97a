"""Fixtures of the benchmark's tests."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).resolve().parent))

from evaluated import Evaluated, evaluate_small
from small_benchmark import write_data


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three drawn people and two captions. Do not write into it."""
    return write_data(tmp_path_factory.mktemp("benchmark") / "data")


@pytest.fixture(scope="session")
def evaluated(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Evaluated:
    """Three methods over three people and two captions, scored by a recogniser and a judge. Do not write into it."""
    return evaluate_small(data, tmp_path_factory.mktemp("evaluated"))
