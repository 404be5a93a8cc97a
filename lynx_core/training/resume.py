"""Whether a checkpoint belongs to the run that takes it up."""

from __future__ import annotations

import platform
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import metadata
from typing import Any

from .checkpoint import CheckpointError
from .configuration import TrainingConfig
from .configuration_file import as_plain

_PACKAGES = ("comfyui-lynx", "torch", "diffusers", "accelerate", "torchao", "bitsandbytes")
_HARMLESS = ("run", "validation")
"""Sections that change nothing about what is learned (but for run.seed)."""

_MOVING = ("packing", "data.kind_weights", "run.seed")
"""Keys that decide which samples are in which pack."""


@dataclass(frozen=True)
class RunIdentity:
    """What decides which samples come when, and what they mean."""

    data: Mapping[str, Any]
    """Of SampleSource.state_dict."""
    base: str
    """Fingerprint of the base's files."""
    world_size: int


def check_identity(
    state: Mapping[str, Any],
    now: RunIdentity,
    config: TrainingConfig,
    accept_changes: bool,
    note: Callable[[str], None],
) -> bool:
    """Compare a checkpoint's state with the run; give whether its place in the data still holds.

    Raises:
        CheckpointError: when data or base have changed and that was not accepted.
    """
    then = state["identity"]
    changes = [
        f"{name} ({then['data'].get(key)} then, {value} now)"
        for key, value in now.data.items()
        if then["data"].get(key) != value
        for name in [_DATA_NAMES.get(key, key)]
    ]
    if then["base"] != now.base:
        changes.append("the base's files")
    if changes and not accept_changes:
        raise CheckpointError(
            f"since the checkpoint of step {state['step']} there have changed: {'; '.join(changes)}. Restore them "
            "to go on exactly, or go on with them by --accept-changes, which starts a new epoch"
        )
    for change in changes:
        note(f"accepted change: {change}")
    if then["world_size"] != now.world_size:
        note(
            f"{then['world_size']} processes then, {now.world_size} now: a new epoch starts, not the exact place"
        )
    changed_keys = _changed_keys(state["config"], as_plain(config))
    for key in changed_keys:
        note(f"changed since the checkpoint: {key}")
    return (
        not changes and then["world_size"] == now.world_size and not _moves_packs(state, config, changed_keys)
    )


def _moves_packs(state: Mapping[str, Any], config: TrainingConfig, changed_keys: list[str]) -> bool:
    """Whether the place in the data means another pack now; more or fewer steps do not change that."""
    if any(key.startswith(_MOVING) for key in changed_keys):
        return True
    number = state["cursor"]["stage"]
    if number >= len(config.stages):
        return True
    then, now = state["config"]["stages"][number], config.stages[number]
    return (then["name"], then["kind"]) != (now.name, now.kind)


_DATA_NAMES = {
    "num_samples": "the number of samples",
    "dataset": "rows or files of the data set",
    "decoding": "the decoding settings",
    "encoders": "the VAE, text or face models",
}


def _changed_keys(then: Any, now: Any, path: str = "") -> list[str]:
    """Keys whose values differ, those that change nothing about what is learned left out."""
    if isinstance(then, Mapping) and isinstance(now, Mapping):
        found = []
        for key in sorted(then.keys() | now.keys()):
            inner = f"{path}.{key}" if path else key
            found += _changed_keys(then.get(key), now.get(key), inner)
        return found
    is_harmless = path.split(".")[0] in _HARMLESS and path != "run.seed"
    return [] if then == now or is_harmless else [path]


def collect_versions() -> dict[str, str]:
    """Versions of what computes."""
    versions = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return versions
