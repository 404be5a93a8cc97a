"""Fixtures of the tests of curation: a folder of drawn people, and a finished curation of it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

# The folder's modules go by their own names.
sys.path.insert(0, str(Path(__file__).parent))

from drawn import make_config, write_drawn_footage

from lynx_core.curate.configuration import CurationConfig
from lynx_core.curate.curation import CurationReport, curate


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Many threads on tiny pictures are slower than one."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def footage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of drawn photos and clips. Do not write into it."""
    folder = tmp_path_factory.mktemp("drawn") / "footage"
    write_drawn_footage(folder)
    return folder


@pytest.fixture(scope="session")
def curated(footage: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[CurationConfig, CurationReport]:
    """A finished curation with background replacement. Do not write into its output; copy it."""
    output = tmp_path_factory.mktemp("curated") / "set"
    config = make_config(footage, output, augmented=True)
    return config, curate(config)
