"""The host inside this process, with the pack loaded by the host's own loader."""

from __future__ import annotations

import asyncio
import importlib
import os
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

REPO = Path(__file__).resolve().parents[2]
DEFAULT_HOST = "0.30.0"


def find_host(comfyui_dir: Path | None = None) -> Path:
    """Find the ComfyUI folder: the argument, COMFYUI_DIR, or what the set-up unpacked.

    Raises:
        FileNotFoundError: when there is none.
    """
    folder = comfyui_dir or Path(os.environ.get("COMFYUI_DIR", REPO / ".comfyui" / DEFAULT_HOST))
    if not (folder / "comfy").is_dir():
        raise FileNotFoundError(f"no ComfyUI at {folder}: run ./scripts/test once, or set COMFYUI_DIR")
    return folder


class Pack:
    """The loaded pack: its node classes and its modules, as the host sees them."""

    def __init__(self, package: str) -> None:
        self.package = package

    def node(self, node_id: str) -> Any:
        import nodes

        return nodes.NODE_CLASS_MAPPINGS[node_id]

    def module(self, name: str) -> ModuleType:
        return importlib.import_module(f"{self.package}.{name}")


_loaded: dict[str, Pack] = {}


def load_pack(comfyui_dir: Path | None = None) -> Pack:
    """Start the host on the CPU in this process and load the pack, once."""
    if "pack" not in _loaded:
        folder = find_host(comfyui_dir)
        sys.path.insert(0, str(folder))
        from comfy.cli_args import args

        args.cpu = True
        import nodes

        if not asyncio.run(nodes.load_custom_node(str(REPO))):
            raise RuntimeError(f"ComfyUI at {folder} could not load the pack; its log says why")
        _loaded["pack"] = Pack(str(REPO).replace(".", "_x_"))
    return _loaded["pack"]
