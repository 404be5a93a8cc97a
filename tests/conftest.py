"""Fixtures of the whole suite: the hosts, a server of each, ComfyUI in this process, stand-in models."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from comfy_host import ComfyHost, HostError, copy_into, standin_packs
from group_scheduling import LONG, GroupScheduling, find_group
from in_process import InProcessComfy, load_in_process
from standin_installation import write_standin_installation

REPO_DIR = Path(__file__).resolve().parents[1]
sys.path.append(str(REPO_DIR))  # last, so that `import nodes` still means ComfyUI's
importlib.import_module("miniature")  # or else pytest takes tests/miniature for it
MAIN_VERSION, OLD_VERSION = "0.30.0", "0.16.3"


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> GroupScheduling:
    config.option.loadscopereorder = False  # in the order of the collection
    return GroupScheduling(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put groups that take long first."""
    places = {group: place for place, group in enumerate(LONG)}
    items.sort(key=lambda item: places.get(find_group(item.nodeid), len(LONG)))


def _find_host(version: str) -> Path:
    comfyui_dir = REPO_DIR / ".comfyui" / version
    if version == MAIN_VERSION and os.environ.get("COMFYUI_DIR"):
        comfyui_dir = Path(os.environ["COMFYUI_DIR"])
    if not (comfyui_dir / "main.py").is_file():
        raise HostError(f"no ComfyUI in {comfyui_dir}; run ./scripts/test, or ./scripts/setup test once")
    return comfyui_dir


@pytest.fixture(scope="session")
def comfyui_dirs() -> dict[str, Path]:
    """Version -> folder of each ComfyUI that the suite runs on."""
    return {version: _find_host(version) for version in (MAIN_VERSION, OLD_VERSION)}


@pytest.fixture(scope="session")
def standin_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A `models` folder with small random files in the real layouts, face models too. Do not write into it."""
    models_dir = tmp_path_factory.mktemp("standin") / "models"
    write_standin_installation(models_dir)
    return models_dir


class _Servers:
    """One server per version, started when first asked for."""

    def __init__(self, root: Path, models_dir: Path) -> None:
        self.root = root
        self.models_dir = models_dir
        self.running: dict[str, ComfyHost] = {}

    def get(self, version: str) -> ComfyHost:
        if version not in self.running:
            base_dir = self.root / version
            copy_into(self.models_dir, base_dir / "models")
            server = ComfyHost(_find_host(version), base_dir, standin_packs())
            self.running[version] = server.__enter__()
        return self.running[version]

    def stop(self) -> None:
        for server in self.running.values():
            server.stop()


@pytest.fixture(scope="session")
def _servers(tmp_path_factory: pytest.TempPathFactory, standin_models: Path) -> Iterator[_Servers]:
    servers = _Servers(tmp_path_factory.mktemp("servers"), standin_models)
    yield servers
    servers.stop()


@pytest.fixture(scope="session")
def comfy_host(_servers: _Servers) -> ComfyHost:
    """A running ComfyUI of the main version, with this pack and the stand-in models."""
    return _servers.get(MAIN_VERSION)


@pytest.fixture(scope="session", params=[MAIN_VERSION, OLD_VERSION])
def each_comfy_host(request: pytest.FixtureRequest, _servers: _Servers) -> ComfyHost:
    """The same, for tests that run once per version."""
    return _servers.get(request.param)


@pytest.fixture(scope="session")
def comfy(tmp_path_factory: pytest.TempPathFactory, standin_models: Path) -> InProcessComfy:
    """ComfyUI of the main version and this pack, imported into this process, on the CPU."""
    base_dir = tmp_path_factory.mktemp("in_process")
    copy_into(standin_models, base_dir / "models")
    return load_in_process(_find_host(MAIN_VERSION), base_dir, standin_packs())


@pytest.fixture(scope="session")
def briefly_trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter for the shipped base from a short training, of another seed than the shipped one."""
    from mini_training import train_briefly

    return train_briefly(tmp_path_factory.mktemp("training"))
