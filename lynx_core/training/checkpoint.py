"""Checkpoints that a kill at any moment cannot spoil: their folder, what is kept, and whether one is whole.

A checkpoint is a folder, written by `checkpoint_writer` under a hidden name, each file synced; then a list
of sizes and hashes, synced; then the folder is renamed. What bears its final name was complete, and the
list shows when it is no longer. The newest complete one is loaded; damaged ones are named and skipped.

    checkpoints/step-00001000/
        __0_0.distcp    weights, EMA and optimiser: a part from each process, as torch.distributed.checkpoint
        .metadata       writes it, and which tensor lies in which part
        state.json      step, cursor of each stage, counts, configuration, fingerprints, versions
        complete.json   bytes and sha256 of each of these

Kept are the newest, the newest `keep_last` whose last step was not skipped, and those whose step is a
multiple of `keep_every`. So a run of steps without a finite loss cannot push out the weights before it.
"""

from __future__ import annotations

import itertools
import json
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..durable_file import sync
from ..foreign_text import parse_json
from ..hashing import hash_every_byte
from ..spec import LynxError

CHECKPOINTS_FOLDER = "checkpoints"
STATE_FORMAT = 4

STATE_NAME, COMPLETE_NAME = "state.json", "complete.json"
_NAME = re.compile(r"step-(\d{8,})")

Check = Callable[[Path], "str | None"]
"""Says what is wrong with a checkpoint, as `find_damage`."""


class CheckpointError(LynxError):
    """A checkpoint that cannot be written or resumed from; says what was seen and the way out."""


class CheckpointFolder:
    """The checkpoints of one run; only its main process makes, renames and removes them.

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

    def begin(self, step: int) -> Path:
        """Make the hidden folder that a checkpoint is written into.

        Raises:
            OSError: as the system says.
        """
        self.root.mkdir(parents=True, exist_ok=True)
        self.clean()
        aside = self.root / f".{self.path_of(step).name}.part"
        aside.mkdir()
        return aside

    def complete(self, step: int, aside: Path, state: Mapping[str, Any], hashes: Mapping[str, str]) -> Path:
        """Add the state, then the list of all files, put the folder into its place, and remove what is no longer kept.

        Args:
            hashes: sha256 of the files that are there already, by name.

        Raises:
            OSError: as the system says.
        """
        path = aside / STATE_NAME
        path.write_text(json.dumps({"format": STATE_FORMAT, **state}, indent=1))
        sync(path)
        names = {**hashes, STATE_NAME: hash_every_byte(path)}
        files = {
            name: {"bytes": (aside / name).stat().st_size, "sha256": names[name]} for name in sorted(names)
        }
        (aside / COMPLETE_NAME).write_text(json.dumps({"files": files}, indent=1))
        sync(aside / COMPLETE_NAME)
        sync(aside)
        final = self.path_of(step)
        if final.exists():  # one that was found damaged
            final.replace(self.root / f".{final.name}.old")
        aside.replace(final)
        self._damaged.discard(step)
        sync(self.root)
        self._remove_old()
        self.clean()
        return final

    def clean(self) -> None:
        """Remove what a kill left half-written or half-removed."""
        for path in self.root.glob(".step-*"):
            shutil.rmtree(path)

    def find(self, step: int, check: Check | None = None) -> Path:
        """Give the complete checkpoint of a step.

        Args:
            check: what is wrong with one; by default `find_damage`.

        Raises:
            CheckpointError: when there is none, naming the steps that are there.
        """
        problem = "it is not there"
        if step in self.steps():
            damage = (check or find_damage)(self.path_of(step))
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

    def find_newest(self, note: Callable[[str], None], check: Check | None = None) -> Path | None:
        """Give the newest complete checkpoint; each damaged one that is skipped is noted."""
        for step in reversed(self.steps()):
            problem = (check or find_damage)(self.path_of(step))
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
        return bool(parse_json((path / STATE_NAME).read_text()).get("skipped_in_row", 0))
    except (OSError, ValueError, AttributeError):
        return True  # damaged: nothing that may push out others


def find_damage(path: Path, rank: int = 0, world_size: int = 1) -> str | None:
    """Compare a checkpoint with its list of files; tells the first difference, None when there is none.

    Args:
        rank, world_size: to hash this process's share of the files only.
    """
    try:
        listed = parse_json((path / COMPLETE_NAME).read_text())["files"]
    except FileNotFoundError:
        return f"it has no {COMPLETE_NAME}, so it was never completed"
    except (OSError, ValueError, KeyError, TypeError) as error:
        return f"its {COMPLETE_NAME} cannot be read ({error})"
    for number, (name, entry) in enumerate(listed.items()):
        file = path / name
        if not file.is_file():
            return f"{name} is missing"
        if file.stat().st_size != entry["bytes"]:
            return f"{name} has {file.stat().st_size} bytes instead of {entry['bytes']}"
        if number % world_size == rank and hash_every_byte(file) != entry["sha256"]:
            return f"{name} has another content than was written"
    return None


def read_state(path: Path) -> dict[str, Any]:
    """The plain values of a checkpoint.

    Raises:
        CheckpointError: when it is of another format.
    """
    state = parse_json((path / STATE_NAME).read_text())
    if state.get("format") != STATE_FORMAT:
        raise CheckpointError(
            f"{path} has format {state.get('format')!r}, this version reads {STATE_FORMAT}; finish the run with the "
            "version that wrote it, or start a new one from its exported adapter (adapter.init)"
        )
    return state
