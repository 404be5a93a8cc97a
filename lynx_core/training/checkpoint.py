"""Checkpoints that a kill at any moment cannot spoil.

A checkpoint is a folder. It is written under a hidden name, each file synced; then a manifest of
sizes and hashes, synced; then the folder is renamed. What bears its final name was complete, and the
manifest shows when it is no longer. The newest complete one is loaded, others are named and passed.

    checkpoints/step-00001000/
        weights.safetensors   trained weights, float32, by parameter name
        ema.safetensors       their EMA, if one is kept
        optimizer.pt          what the optimiser keeps, by parameter name
        state.json            step, place of each stage, counts, configuration, fingerprints, versions
        complete.json         bytes and sha256 of each of these

Kept are the newest, the newest `keep_last` whose last step was not skipped, and those whose step is a
multiple of `keep_every`. So a run of steps without a finite loss cannot push out the weights before it.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from ..formats.safetensors_writer import tensor_info, write_safetensors
from ..spec import LynxError
from .optimizer import OptimizerState

CHECKPOINTS_FOLDER = "checkpoints"
STATE_FORMAT = 2
_OLDEST_FORMAT = 1
"""Had the place of one stage only; `resume.py` takes it up."""

_WEIGHTS, _EMA, _OPTIMIZER, _STATE = "weights.safetensors", "ema.safetensors", "optimizer.pt", "state.json"
_COMPLETE = "complete.json"
_NAME = re.compile(r"step-(\d{8,})")
_CHUNK_BYTES = 1 << 22


class CheckpointError(LynxError):
    """A checkpoint that cannot be written or taken up; says what was seen and the way out."""


@dataclass(frozen=True)
class CheckpointContents:
    """Everything a run needs to go on."""

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
            _sync_folder(self.root)
            self._remove_old()
            self.clean()
        except (OSError, RuntimeError) as error:  # torch.save turns a full disk into a RuntimeError
            shutil.rmtree(aside, ignore_errors=True)
            kept = self.steps()
            older = f"the checkpoint of step {kept[-1]} is untouched" if kept else "there is no older one"
            raise CheckpointError(
                f"the checkpoint of step {step} could not be written to {self.root}: "
                f"{getattr(error, 'strerror', None) or error}; {older}. Make room and run the same command again, it goes on from there"
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

    def set_newer_aside(self, step: int) -> Path | None:
        """Move the checkpoints after a step into a folder beside them, so that they count no longer.

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
            _sync_folder(self.root)
        except OSError as error:
            raise CheckpointError(
                f"the checkpoints after step {step} could not be moved to {folder}: {error.strerror}; move them "
                "yourself, or name another run.output"
            ) from error
        return folder

    def find_newest(self, note: Callable[[str], None]) -> Path | None:
        """Give the newest complete checkpoint; each damaged one that is passed over is noted."""
        for step in reversed(self.steps()):
            problem = find_damage(self.path_of(step))
            if problem is None:
                return self.path_of(step)
            self._damaged.add(step)
            note(f"checkpoint {self.path_of(step)} is passed over: {problem}")
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
        return bool(json.loads((path / _STATE).read_text()).get("skipped_in_row", 0))
    except (OSError, ValueError, AttributeError):
        return True  # damaged: nothing that may push out others


def find_damage(path: Path) -> str | None:
    """Compare a checkpoint with its manifest; tells the first difference, None when there is none."""
    try:
        listed = json.loads((path / _COMPLETE).read_text())["files"]
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
        if _hash_file(file) != entry["sha256"]:
            return f"{name} has another content than was written"
    return None


def read_state(path: Path) -> dict[str, Any]:
    """The plain values of a checkpoint.

    Raises:
        CheckpointError: when it is of another format.
    """
    state = json.loads((path / _STATE).read_text())
    if state.get("format") not in range(_OLDEST_FORMAT, STATE_FORMAT + 1):
        raise CheckpointError(
            f"{path} has format {state.get('format')!r}, this version reads {_OLDEST_FORMAT} to {STATE_FORMAT}; go "
            "on with the version that wrote it"
        )
    return state


def read_checkpoint(path: Path) -> CheckpointContents:
    """Read a checkpoint to the CPU."""
    ema = path / _EMA
    return CheckpointContents(
        state=read_state(path),
        weights=_read_tensors(path / _WEIGHTS),
        optimizer=_read_optimizer(path / _OPTIMIZER),
        ema=_read_tensors(ema) if ema.is_file() else None,
    )


def _write_files(folder: Path, contents: CheckpointContents) -> None:
    _write_tensors(folder / _WEIGHTS, contents.weights)
    if contents.ema is not None:
        _write_tensors(folder / _EMA, contents.ema)
    with (folder / _OPTIMIZER).open("wb") as raw:
        torch.save(contents.optimizer, raw)
    (folder / _STATE).write_text(json.dumps({"format": STATE_FORMAT, **contents.state}, indent=1))
    files = sorted(folder.iterdir())
    for file in files:
        _sync_file(file)
    listed = {file.name: {"bytes": file.stat().st_size, "sha256": _hash_file(file)} for file in files}
    (folder / _COMPLETE).write_text(json.dumps({"files": listed}, indent=1))
    _sync_file(folder / _COMPLETE)
    _sync_folder(folder)


def _write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    infos = {name: tensor_info(tuple(tensor.shape), tensor.dtype) for name, tensor in tensors.items()}
    with path.open("wb") as raw:
        write_safetensors(raw, infos, tensors.__getitem__, {})


def _read_tensors(path: Path) -> dict[str, Tensor]:
    with safe_open(path, framework="pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


def _read_optimizer(path: Path) -> OptimizerState:
    # torchao's 8-bit tensors are safe to load once torchao.optim is imported, as its optimiser has done.
    return torch.load(path, map_location="cpu", weights_only=True)


def _hash_file(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def _sync_file(path: Path) -> None:
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def _sync_folder(path: Path) -> None:
    if os.name != "posix":  # Windows cannot open a folder
        return
    folder = os.open(path, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
