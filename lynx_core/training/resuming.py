"""What of a checkpoint still holds for a run: compares what decides which samples come when, and what they are."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from .checkpoint import CheckpointError
from .configuration import StageConfig, TrainingConfig
from .configuration_file import as_plain
from .curriculum import Cursor

_HARMLESS = ("run", "validation")
"""Sections that change nothing about what is learned (but for run.seed)."""

_MOVING = ("packing", "data.kind_weights", "run.seed")
"""Keys that decide which samples are in which pack."""


@dataclass(frozen=True)
class RunIdentity:
    """What decides which samples come when, and what they are."""

    data: Mapping[str, Any]
    """`PairDataset.fingerprints`."""
    base: str
    """Fingerprint of the base's files."""
    packs_per_step: int
    """Of all processes together; how many there are decides nothing."""
    frozen_adapter: str
    """Fingerprint of the adapter that low-rank updates are added to: it is in no checkpoint."""


@dataclass(frozen=True)
class ResumePlan:
    """What of a checkpoint still holds."""

    cursors: dict[str, Cursor]
    """Of each stage."""
    keeps_moments: bool
    """Whether the optimiser is the one whose moments were saved."""


def plan_resume(
    state: Mapping[str, Any],
    now: RunIdentity,
    config: TrainingConfig,
    accept_changes: bool,
    note: Callable[[str], None],
) -> ResumePlan:
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
    if then["frozen_adapter"] != now.frozen_adapter:
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
    if then["packs_per_step"] != now.packs_per_step:
        note(
            f"{then['packs_per_step']} packs in a step then, {now.packs_per_step} now (optimizer.global_batch_size): "
            "a new epoch starts, not the exact place"
        )
    changed_keys = _changed_keys(state["config"], as_plain(config))
    for key in changed_keys:
        note(f"changed since the checkpoint: {key}")
    moved = any(key.startswith(_MOVING) for key in changed_keys)
    is_exact = not changes and then["packs_per_step"] == now.packs_per_step and not moved
    return ResumePlan(_resume_cursors(state, config.stages, is_exact), keeps_moments)


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
        f"since the checkpoint of step {step} there changed: {'; '.join(named)}. Restore them to resume "
        f"exactly, or resume with them by --accept-changes, which starts {' and '.join(effects)}"
    )


def _resume_cursors(
    state: Mapping[str, Any], stages: Sequence[StageConfig], is_exact: bool
) -> dict[str, Cursor]:
    """Where each stage stands; in a new epoch where its old plan means nothing now."""
    cursors = {name: Cursor(**values) for name, values in state["cursors"].items()}
    kinds_then = {stage["name"]: stage["kind"] for stage in state["config"]["stages"]}
    kinds_now = {stage.name: stage.kind for stage in stages}
    for name, cursor in cursors.items():
        same_kind = kinds_then.get(name) == kinds_now.get(name, kinds_then.get(name))
        if cursor.is_started and not (is_exact and same_kind):
            cursors[name] = replace(cursor, epoch=cursor.epoch + 1, part=0, index=0)
    return cursors


_DATA_NAMES = {
    "num_samples": "the number of samples",
    "dataset": "rows or files of the dataset",
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
