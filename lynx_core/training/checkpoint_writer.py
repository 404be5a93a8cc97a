"""Writes checkpoints while training continues: torch.distributed.checkpoint in a thread, every process its own part.

A step waits for the copy of this process's part to the CPU and for nothing else, and that copy goes into memory
that is kept from one checkpoint to the next: into fresh memory it takes five times as long. Weights that all processes
hold alike are dealt out by size, so that each copies and writes its share of them only. The processes talk
through a group of their own (gloo), whose timeout is that of a slow disk; in NCCL's, that of the training,
nobody waits for a file.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch.distributed.checkpoint as dcp
from torch import Tensor
from torch.distributed.checkpoint.staging import BlockingAsyncStager

from ..hashing import hash_every_byte
from .checkpoint import CheckpointError, CheckpointFolder
from .distributed import DistributedContext
from .trained_state import pick_own


class CheckpointWriter:
    """Writes the checkpoints of a run, one at a time; all processes must call it alike."""

    def __init__(self, folder: CheckpointFolder, context: DistributedContext) -> None:
        self.folder, self.context = folder, context
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoint writer")
        self._pending: Future[None] | None = None
        self._stager = BlockingAsyncStager(cache_staged_state_dict=True)

    def begin(self, state: Mapping[str, Any], tensors: dict[str, Tensor]) -> None:
        """Copy what is to be written, and return while it is.

        Args:
            state: plain values, among them `step`.
            tensors: of `TrainedState.tensors`.

        Raises:
            CheckpointError: on every process, when the checkpoint before could not be written.
        """
        self.finish()
        own = pick_own(tensors, self.context.rank, self.context.world_size)
        self._pending = self._thread.submit(self._write, state, self._stage(own))

    def _stage(self, own: dict[str, Tensor]) -> dict[str, Tensor]:
        """Copy to the CPU, into the memory of the checkpoint before where that held the same."""
        kept = self._stager.state_dict_cache
        if kept is None or _layout(kept) != _layout(own):
            self._stager.state_dict_cache = None  # freed before its successor is made
            # By another stager: memory that the keeping one makes is pinned, in sizes rounded up to a power of two.
            kept = self._stager.state_dict_cache = BlockingAsyncStager().stage(own)
            return kept
        return self._stager.stage(own)

    @property
    def has_failed(self) -> bool:
        """Whether it is known here already that `finish` will raise."""
        return self._pending is not None and self._pending.done() and self._pending.exception() is not None

    def finish(self) -> None:
        """Wait until what was begun lies on the disk.

        Raises:
            CheckpointError: on every process, when it could not be written; older checkpoints stay.
        """
        if self._pending is not None:
            pending, self._pending = self._pending, None
            pending.result()

    def close(self) -> None:
        self._thread.shutdown()

    def _write(self, state: Mapping[str, Any], staged: dict[str, Tensor]) -> None:
        step = int(state["step"])
        aside = self.folder.root / f".{self.folder.path_of(step).name}.part"
        problem = None
        if self.context.is_main:
            try:
                self.folder.begin(step)
            except OSError as error:
                problem = _first_line(error)
        self._raise_any(problem, step)
        hashes: dict[str, str] = {}
        try:
            self._write_tensors(aside, staged)
            hashes = {file.name: hash_every_byte(file) for file in self._own_files(aside)}
        except (OSError, RuntimeError, dcp.CheckpointException) as error:
            problem = _first_line(error)
        found = self.context.gather((problem, hashes))
        problem = next((text for text, _ in found if text), None)
        if self.context.is_main:
            if problem is None:
                try:
                    together = {name: value for _, own in found for name, value in own.items()}
                    self.folder.complete(step, aside, state, together)
                except OSError as error:
                    problem = _first_line(error)
            if problem is not None:
                shutil.rmtree(aside, ignore_errors=True)
        self._raise_any(problem, step)

    def _write_tensors(self, aside: Path, staged: dict[str, Tensor]) -> None:
        group = self.context.checkpoint_group
        writer = dcp.FileSystemWriter(aside, single_file_per_rank=True, sync_files=True)
        dcp.save(staged, storage_writer=writer, process_group=group, no_dist=group is None)

    def _own_files(self, aside: Path) -> list[Path]:
        own = sorted(aside.glob(f"__{self.context.rank}_*"))
        return [*own, aside / ".metadata"] if self.context.is_main else own

    def _raise_any(self, problem: str | None, step: int) -> None:
        """Raise on every process when there is a problem on any."""
        problem = next((text for text in self.context.gather(problem) if text), None)
        if problem is None:
            return
        kept = self.folder.steps()
        older = f"the checkpoint of step {kept[-1]} is untouched" if kept else "there is no older one"
        raise CheckpointError(
            f"the checkpoint of step {step} could not be written to {self.folder.root}: {problem}; {older}. Make "
            "room and run the same command again; it resumes from there"
        )


def _layout(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    return {name: (tensor.shape, tensor.dtype) for name, tensor in tensors.items()}


def _first_line(error: BaseException) -> str:
    if isinstance(error, dcp.CheckpointException):
        # Of each process what went wrong there, with its traceback.
        error = next(iter(error.failures.values()))[0]
    lines = str(getattr(error, "strerror", None) or error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
