"""Imports ComfyUI and this pack into the running Python, on the CPU, without a server.

For tests of single nodes and of conformance: the host's own model code and the host's own pack
loader, but values can be looked at between nodes. ComfyUI is a set of top-level modules, so a
process can hold one version of it, once. Importing takes about 9 s.
"""

from __future__ import annotations

import asyncio
import importlib
import logging
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from comfy_host import PACK_NAME, HostError, default_packs, prepare_base_dir


@dataclass(frozen=True)
class InProcessComfy:
    """ComfyUI and the pack, imported."""

    base_dir: Path
    nodes: ModuleType
    """ComfyUI's own module `nodes`."""
    pack: ModuleType
    """This pack's root module, under the name that ComfyUI gave it."""

    @property
    def node_classes(self) -> dict[str, type]:
        """Every node class by node id: the core's, the extras' and this pack's."""
        return self.nodes.NODE_CLASS_MAPPINGS

    def pack_module(self, name: str) -> ModuleType:
        """A module of the pack as loaded by the host, such as "nodes.nodes_apply" or "lynx_core.faces"."""
        return importlib.import_module(f"{self.pack.__name__}.{name}")

    def run(self, node_id: str, **inputs: Any) -> tuple[Any, ...]:
        """Run one node as the executor does: defaults filled in, gradients off.

        Returns:
            The node's outputs, in order.

        Raises:
            KeyError: when there is no such node.
            TypeError: when an input is missing or unknown.
        """
        node_class = self.node_classes[node_id]
        inputs = {**_default_inputs(node_class.INPUT_TYPES()), **inputs}
        import torch

        with torch.inference_mode():
            if hasattr(node_class, "PREPARE_CLASS_CLONE"):
                from comfy_api.internal import make_locked_method_func

                # The executor, too, gives a node a clone of its class to which nothing can be assigned.
                clone = node_class.PREPARE_CLASS_CLONE(None)
                result = make_locked_method_func(node_class, "EXECUTE_NORMALIZED", clone)(**inputs).result
            else:
                result = getattr(node_class(), node_class.FUNCTION)(**inputs)
        if isinstance(result, dict):
            result = result.get("result")
        return tuple(result or ())


def _default_inputs(schema: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    defaults = {}
    for group in ("required", "optional"):
        for name, spec in schema.get(group, {}).items():
            options = spec[1] if len(spec) > 1 else {}
            choices = spec[0] if isinstance(spec[0], list) else options.get("options")
            if "default" in options:
                defaults[name] = options["default"]
            elif isinstance(choices, list) and choices and not isinstance(choices[0], dict):
                defaults[name] = choices[0]
    return defaults


class _LogLines(logging.Handler):
    """Keeps what is logged."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.seen.append(record.getMessage())


def load_comfyui(comfyui_dir: Path, base_dir: Path) -> ModuleType:
    """Import ComfyUI from `comfyui_dir`, on the CPU, with its folders under `base_dir`.

    Returns:
        ComfyUI's module `nodes`, with the extra nodes loaded.

    Raises:
        HostError: when another ComfyUI is imported already.
    """
    comfyui_dir = comfyui_dir.resolve()
    if "comfy" in sys.modules:
        raise HostError(
            f"cannot import ComfyUI from {comfyui_dir}: {sys.modules['comfy']} is imported already"
        )
    # pytest registers the folder tests/nodes under the name of ComfyUI's own module.
    sys.modules.pop("nodes", None)
    sys.path.insert(0, str(comfyui_dir))
    import comfy.cli_args as cli_args

    cli_args.args.cpu = True
    cli_args.args.base_directory = str(base_dir)
    # As main.py does: later an older host puts its folder `comfy` in front, whose utils.py would hide this package.
    importlib.import_module("utils.extra_config")
    import nodes

    if Path(nodes.__file__).parent != comfyui_dir:
        raise HostError(f"`import nodes` gave {nodes.__file__}, not ComfyUI's; another folder hides it")
    asyncio.run(nodes.init_extra_nodes(init_custom_nodes=False, init_api_nodes=False))
    return nodes


def load_pack(nodes: ModuleType, pack_dir: Path) -> ModuleType:
    """Load a custom node pack with ComfyUI's own loader.

    Raises:
        HostError: when the loader refuses it; the message holds what the loader logged.
    """
    lines = _LogLines()
    logging.getLogger().addHandler(lines)
    try:
        is_loaded = asyncio.run(nodes.load_custom_node(str(pack_dir), module_parent="custom_nodes"))
    finally:
        logging.getLogger().removeHandler(lines)
    if not is_loaded:
        raise HostError(f"ComfyUI did not take the pack {pack_dir}:\n" + "\n".join(lines.seen))
    return sys.modules[str(pack_dir).replace(".", "_x_")]


def load_in_process(
    comfyui_dir: Path, base_dir: Path, packs: Mapping[str, Path] | None = None, pack_name: str = PACK_NAME
) -> InProcessComfy:
    """Import ComfyUI and packs (folder name -> folder; `default_packs` when not given)."""
    packs = default_packs() if packs is None else packs
    base_dir = base_dir.resolve()
    prepare_base_dir(base_dir, packs)
    nodes = load_comfyui(comfyui_dir, base_dir)
    loaded = {name: load_pack(nodes, base_dir / "custom_nodes" / name) for name in packs}
    return InProcessComfy(base_dir, nodes, loaded[pack_name])
