"""Fixtures of the data tests: a dataset of small files, and small encoders."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

# The folder's modules go by their own names.
sys.path.insert(0, str(Path(__file__).parent))

from small_encoders import make_small_encoders, save_small_models
from small_media import write_image, write_video

from lynx_core.data.encoders import Encoders


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Many threads on tiny convolutions are ten times slower than one."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A dataset: two videos, two images and a face for each."""
    for name in ("a", "b"):
        write_video(tmp_path / f"{name}.mp4", num_frames=6, seed=ord(name))
        write_image(tmp_path / f"face_{name}.png", (112, 112), seed=ord(name))
    for name in ("c", "d"):
        write_image(tmp_path / f"{name}.png", seed=ord(name))
        write_image(tmp_path / f"face_{name}.png", (112, 112), seed=ord(name))
    return tmp_path


@pytest.fixture
def rows() -> list[dict[str, Any]]:
    """The rows of `folder`."""
    kinds = {"a": "single-scene", "b": "multi-scene", "c": "single-scene", "d": "augmented"}
    return [
        {
            "id": name,
            "target": f"{name}.mp4" if name in "ab" else f"{name}.png",
            "references": [f"face_{name}.png"],
            "caption": f"a man {name}",
            "kind": kind,
        }
        for name, kind in kinds.items()
    ]


@pytest.fixture(scope="session")
def models_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of `save_small_models`."""
    root = tmp_path_factory.mktemp("models")
    save_small_models(root)
    return root


@pytest.fixture
def encoders(models_dir: Path) -> Encoders:
    """New encoders over the small models, none of them opened."""
    return make_small_encoders(models_dir)
