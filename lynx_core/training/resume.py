"""Whether a checkpoint belongs to the run that takes it up."""

from __future__ import annotations

import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import metadata
from typing import Any

from .checkpoint import CheckpointError
from .configuration import StageConfig, TrainingConfig
from .configuration_file import as_plain
from .curriculum import Cursor, Cursors

_PACKAGES = ("comfyui-lynx", "torch", "diffusers", "accelerate", "torchao", "bitsandbytes")
_HARMLESS = ("run", "validation")
"""Sections that change nothing about what is learned (but for run.seed)."""

_MOVING = ("packing", "data.kind_weights", "run.seed")
"""Keys that decide which samples are in which pack."""


@dataclass(frozen=True)
class RunIdentity:
    """What decides which samples come when, and what they mean."""

    data: Mapping[str, Any]
    """Of PairDataset.state_dict."""
    base: str
    """Fingerprint of the base's files."""
    world_size: int
    frozen_adapter: str = ""
    """Fingerprint of the adapter that low-rank updates are added to: it is in no checkpoint."""


@dataclass(frozen=True)
class Takeover:
    """What of a checkpoint still holds."""

    cursors: dict[str, Cursor]
    """Of each stage."""
    keeps_moments: bool
    """Whether the optimiser is the one whose moments were saved."""


def check_identity(
    state: Mapping[str, Any],
    now: RunIdentity,
    config: TrainingConfig,
    accept_changes: bool,
    note: Callable[[str], None],
) -> Takeover:
    """Compare a checkpoint's state with the run.

    Raises:
        CheckpointError: when data, base or optimiser have changed and that was not accepted.
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
    if then.get("frozen_adapter", now.frozen_adapter) != now.frozen_adapter:
        changes.append("the files of adapter.init, which the low-rank updates are added to")
    kind_then, kind_now = state["config"]["optimizer"]["kind"], config.optimizer.kind
    keeps_moments = kind_then == kind_now
    _refuse_changes(state["step"], changes, (kind_then, kind_now), accept_changes)
    for change in changes:
        note(f"accepted change: {change}; a new epoch starts")
    if not keeps_moments:
        note(
            f"accepted change: optimizer.kind, {kind_then} then, {kind_now} now: its moments start from zero"
        )
    if then["world_size"] != now.world_size:
        note(
            f"{then['world_size']} processes then, {now.world_size} now: a new epoch starts, not the exact place"
        )
    changed_keys = _changed_keys(state["config"], as_plain(config))
    for key in changed_keys:
        note(f"changed since the checkpoint: {key}")
    moved = any(key.startswith(_MOVING) for key in changed_keys)
    is_exact = not changes and then["world_size"] == now.world_size and not moved
    return Takeover(_take_cursors(state, config.stages, is_exact), keeps_moments)


def _refuse_changes(step: int, changes: Sequence[str], kinds: tuple[str, str], accept_changes: bool) -> None:
    then, now = kinds
    if accept_changes or (not changes and then == now):
        return
    named = [*changes, *([f'optimizer.kind ("{then}" then, "{now}" now)'] if then != now else [])]
    effects = [
        *(["a new epoch"] if changes else []),
        *([f"moments of {now} from zero, as those of {then} mean nothing to it"] if then != now else []),
    ]
    raise CheckpointError(
        f"since the checkpoint of step {step} there have changed: {'; '.join(named)}. Restore them to go on "
        f"exactly, or go on with them by --accept-changes, which starts {' and '.join(effects)}"
    )


def _take_cursors(
    state: Mapping[str, Any], stages: Sequence[StageConfig], is_exact: bool
) -> dict[str, Cursor]:
    """Where each stage stands; in a new epoch where its old plan means nothing now."""
    if "cursors" in state:
        cursors = {name: Cursor(**values) for name, values in state["cursors"].items()}
    else:
        cursors = _read_single_cursor(state)
    kinds_then = {stage["name"]: stage["kind"] for stage in state["config"]["stages"]}
    kinds_now = {stage.name: stage.kind for stage in stages}
    for name, cursor in cursors.items():
        same_kind = kinds_then.get(name) == kinds_now.get(name, kinds_then.get(name))
        if cursor.is_started and not (is_exact and same_kind):
            cursors[name] = replace(cursor, epoch=cursor.epoch + 1, index=0)
    return cursors


def _read_single_cursor(state: Mapping[str, Any]) -> dict[str, Cursor]:
    """The places in a checkpoint of format 1, which kept that of its last stage only."""
    last, steps_left = state["cursor"]["stage"], state["step"]
    accumulation = state["config"]["optimizer"]["accumulation"]
    cursors = {}
    for number, stage in enumerate(state["config"]["stages"]):
        steps = min(steps_left, stage["steps"])
        steps_left -= steps
        if number == last:
            cursors[stage["name"]] = Cursor(steps, state["cursor"]["epoch"], state["cursor"]["index"])
        elif steps:
            # Every epoch has a pack at least, so an epoch of this number was never begun.
            cursors[stage["name"]] = Cursor(steps, steps * accumulation)
    return cursors


def describe_stages(cursors: Cursors, stages: Sequence[StageConfig]) -> str:
    """Steps done of each stage, as "images 4 of 8, videos 2 of 4"."""
    return ", ".join(
        f"{stage.name} {cursors.get(stage.name, Cursor()).steps} of {stage.steps}" for stage in stages
    )


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
