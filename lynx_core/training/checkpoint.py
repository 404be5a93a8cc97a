"""Checkpoints that a kill at any moment cannot spoil.

A checkpoint is a folder. It is written under a hidden name, each file synced; then a manifest of
sizes and hashes, synced; then the folder is renamed. What bears its final name was complete, and the
manifest shows when it is no longer. The newest complete one is loaded; damaged ones are named and skipped.

    checkpoints/step-00001000/
        weights.safetensors   trained weights, float32, by parameter name
        ema.safetensors       their EMA, if one is kept
        optimizer.pt          what the optimiser keeps, by parameter name
        state.json            step, cursor of each stage, counts, configuration, fingerprints, versions
        complete.json         bytes and sha256 of each of these

Kept are the newest, the newest `keep_last` whose last step was not skipped, and those whose step is a
multiple of `keep_every`. So a run of steps without a finite loss cannot push out the weights before it.
"""

from __future__ import annotations

import itertools
import json
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from ..durable_file import sync
from ..foreign_text import parse_json
from ..formats.safetensors_writer import tensor_info, write_safetensors
from ..hashing import hash_every_byte
from ..spec import LynxError
from .configuration import StageConfig, TrainingConfig
from .configuration_file import as_plain
from .curriculum import Cursor
from .optimizer import OptimizerState

CHECKPOINTS_FOLDER = "checkpoints"
_STATE_FORMAT = 3

_WEIGHTS, _EMA, _OPTIMIZER, _STATE = "weights.safetensors", "ema.safetensors", "optimizer.pt", "state.json"
_COMPLETE = "complete.json"
_NAME = re.compile(r"step-(\d{8,})")


class CheckpointError(LynxError):
    """A checkpoint that cannot be written or resumed from; says what was seen and the way out."""


@dataclass(frozen=True)
class CheckpointContents:
    """Everything a run needs to resume."""

    state: Mapping[str, Any]
    """Plain values, among them `step`."""
    weights: Mapping[str, Tensor]
    optimizer: OptimizerState
    ema: Mapping[str, Tensor] | None


class CheckpointFolder:
    """The checkpoints of one run; only its main process writes.

    Args:
        output: the run's folder.
        keep_last, keep_every: what is kept, see the module.
    """

    def __init__(self, output: Path, keep_last: int, keep_every: int) -> None:
        self.root = Path(output) / CHECKPOINTS_FOLDER
        self.keep_last, self.keep_every = keep_last, keep_every
        self._damaged: set[int] = set()

    def steps(self) -> list[int]:
        """Steps of all checkpoints that bear their final name, rising."""
        names = (_NAME.fullmatch(path.name) for path in self.root.glob("step-*"))
        return sorted(int(name[1]) for name in names if name)

    def path_of(self, step: int) -> Path:
        return self.root / f"step-{step:08d}"

    def save(self, contents: CheckpointContents) -> Path:
        """Write a checkpoint, then remove those that are no longer kept.

        Raises:
            CheckpointError: when the disk is full or refuses; older checkpoints stay.
        """
        step = int(contents.state["step"])
        final = self.path_of(step)
        aside = self.root / f".{final.name}.part"
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            self.clean()
            aside.mkdir()
            _write_files(aside, contents)
            if final.exists():  # one that was found damaged
                final.replace(self.root / f".{final.name}.old")
            aside.replace(final)
            self._damaged.discard(step)
            sync(self.root)
            self._remove_old()
            self.clean()
        except (OSError, RuntimeError) as error:  # torch.save turns a full disk into a RuntimeError
            shutil.rmtree(aside, ignore_errors=True)
            kept = self.steps()
            older = f"the checkpoint of step {kept[-1]} is untouched" if kept else "there is no older one"
            raise CheckpointError(
                f"the checkpoint of step {step} could not be written to {self.root}: "
                f"{getattr(error, 'strerror', None) or error}; {older}. Make room and run the same command again; it resumes from there"
            ) from error
        return final

    def clean(self) -> None:
        """Remove what a kill left half-written or half-removed."""
        for path in self.root.glob(".step-*"):
            shutil.rmtree(path)

    def find(self, step: int) -> Path:
        """Give the complete checkpoint of a step.

        Raises:
            CheckpointError: when there is none, naming the steps that are there.
        """
        problem = "it is not there"
        if step in self.steps():
            damage = find_damage(self.path_of(step))
            if damage is None:
                return self.path_of(step)
            problem = f"it is damaged: {damage}"
        others = ", ".join(str(number) for number in self.steps() if number != step) or "none"
        raise CheckpointError(
            f"there is no checkpoint of step {step} to resume from in {self.root}, {problem}; steps there: {others}"
        )

    def move_newer_aside(self, step: int) -> Path | None:
        """Move the checkpoints after a step into a folder beside them, where none is resumed from or removed.

        Returns:
            The folder, or None when there are none.

        Raises:
            CheckpointError: when the disk refuses.
        """
        newer = [number for number in self.steps() if number > step]
        if not newer:
            return None
        names = (f"after-step-{step:08d}-{number}" for number in itertools.count(1))
        folder = next(path for path in (self.root / name for name in names) if not path.exists())
        try:
            folder.mkdir()
            # The newest first: what a kill leaves in place is then older than what has gone.
            for number in reversed(newer):
                self.path_of(number).replace(folder / self.path_of(number).name)
            sync(self.root)
        except OSError as error:
            raise CheckpointError(
                f"the checkpoints after step {step} could not be moved to {folder}: {error.strerror}; move them "
                "yourself, or name another run.output"
            ) from error
        return folder

    def find_newest(self, note: Callable[[str], None]) -> Path | None:
        """Give the newest complete checkpoint; each damaged one that is skipped is noted."""
        for step in reversed(self.steps()):
            problem = find_damage(self.path_of(step))
            if problem is None:
                return self.path_of(step)
            self._damaged.add(step)
            note(f"checkpoint {self.path_of(step)} is skipped: {problem}")
        return None

    def _remove_old(self) -> None:
        steps = self.steps()
        good = [
            step for step in steps if step not in self._damaged and not _is_after_skipped(self.path_of(step))
        ]
        kept = {*choose_kept(good, self.keep_last, self.keep_every), steps[-1]}
        for step in steps:
            if step not in kept and not (self.keep_every and step % self.keep_every == 0):
                path = self.path_of(step)
                # Renamed first: half-removed, it must not look like a checkpoint.
                path.replace(self.root / f".{path.name}.old")


def choose_kept(steps: Sequence[int], keep_last: int, keep_every: int) -> list[int]:
    """Which of these steps, rising, the policy keeps."""
    newest = set(steps[-keep_last:])
    return [step for step in steps if step in newest or (keep_every and step % keep_every == 0)]


def _is_after_skipped(path: Path) -> bool:
    """Whether the last steps before a checkpoint left the weights as they were."""
    try:
        return bool(parse_json((path / _STATE).read_text()).get("skipped_in_row", 0))
    except (OSError, ValueError, AttributeError):
        return True  # damaged: nothing that may push out others


def find_damage(path: Path) -> str | None:
    """Compare a checkpoint with its manifest; tells the first difference, None when there is none."""
    try:
        listed = parse_json((path / _COMPLETE).read_text())["files"]
    except FileNotFoundError:
        return f"it has no {_COMPLETE}, so it was never completed"
    except (OSError, ValueError, KeyError, TypeError) as error:
        return f"its {_COMPLETE} cannot be read ({error})"
    for name, entry in listed.items():
        file = path / name
        if not file.is_file():
            return f"{name} is missing"
        if file.stat().st_size != entry["bytes"]:
            return f"{name} has {file.stat().st_size} bytes instead of {entry['bytes']}"
        if hash_every_byte(file) != entry["sha256"]:
            return f"{name} has another content than was written"
    return None


def read_state(path: Path) -> dict[str, Any]:
    """The plain values of a checkpoint.

    Raises:
        CheckpointError: when it is of another format.
    """
    state = parse_json((path / _STATE).read_text())
    if state.get("format") != _STATE_FORMAT:
        raise CheckpointError(
            f"{path} has format {state.get('format')!r}, this version reads {_STATE_FORMAT}; finish the run with the "
            "version that wrote it, or start a new one from its exported adapter (adapter.init)"
        )
    return state


def read_checkpoint(path: Path) -> CheckpointContents:
    """Read a checkpoint to the CPU."""
    ema = path / _EMA
    return CheckpointContents(
        state=read_state(path),
        weights=load_file(path / _WEIGHTS),
        optimizer=_read_optimizer(path / _OPTIMIZER),
        ema=load_file(ema) if ema.is_file() else None,
    )


def _write_files(folder: Path, contents: CheckpointContents) -> None:
    _write_tensors(folder / _WEIGHTS, contents.weights)
    if contents.ema is not None:
        _write_tensors(folder / _EMA, contents.ema)
    with (folder / _OPTIMIZER).open("wb") as raw:
        torch.save(contents.optimizer, raw)
    (folder / _STATE).write_text(json.dumps({"format": _STATE_FORMAT, **contents.state}, indent=1))
    files = sorted(folder.iterdir())
    for file in files:
        sync(file)
    listed = {file.name: {"bytes": file.stat().st_size, "sha256": hash_every_byte(file)} for file in files}
    (folder / _COMPLETE).write_text(json.dumps({"files": listed}, indent=1))
    sync(folder / _COMPLETE)
    sync(folder)


def _write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    infos = {name: tensor_info(tuple(tensor.shape), tensor.dtype) for name, tensor in tensors.items()}
    with path.open("wb") as raw:
        write_safetensors(raw, infos, tensors.__getitem__, {})


def _read_optimizer(path: Path) -> OptimizerState:
    # torchao's 8-bit tensors are safe to load once torchao.optim is imported, as its optimiser has done.
    return torch.load(path, map_location="cpu", weights_only=True)


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
    world_size: int
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
    if then["world_size"] != now.world_size:
        note(
            f"{then['world_size']} processes then, {now.world_size} now: a new epoch starts, not the exact place"
        )
    changed_keys = _changed_keys(state["config"], as_plain(config))
    for key in changed_keys:
        note(f"changed since the checkpoint: {key}")
    moved = any(key.startswith(_MOVING) for key in changed_keys)
    is_exact = not changes and then["world_size"] == now.world_size and not moved
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
            cursors[name] = replace(cursor, epoch=cursor.epoch + 1, index=0)
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
