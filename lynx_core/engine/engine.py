"""Runs stages one after the other: what is left of each, what came of it, and how far it is.

Everything lies in one work folder: `inputs-*` for what the caller hands in, and `<stage>-<fingerprint>` for
the parts of each stage and version. A rerun reads the keys of the inputs that are done and does the others.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from .daft_runner import RunnerName, Task, reject_error, run_tasks
from .parts import PartsFolder, RecordReader, write_part
from .parts_index import KEY_TYPE, PartsIndex, RowRef, pack_keys
from .records import hash_record, hash_texts
from .stage import EngineError, Rejected, Rejection, Stage, TableStage

R = TypeVar("R")
ProgressFunction = Callable[[str, int, int], None]

_INPUT_ROWS = 1024
_TASKS_AT_A_TIME = 512
_MAX_ERROR_SHARE = 0.5
_MIN_ERRORS = 20


@dataclass(frozen=True)
class StageResult:
    """The records that came of a stage's inputs, and the rejections."""

    name: str
    input_keys: np.ndarray
    """[n] `S16`."""
    index: PartsIndex
    num_reused: int = 0
    """Inputs that an earlier run had done."""
    was_done: np.ndarray = field(default_factory=lambda: np.zeros(0, bool))
    """Which those are, [n]; empty for a table."""

    def refs(self) -> Iterator[RowRef]:
        """Places of the records, in the order of the inputs."""
        return self.index.refs(self.index.find_records(self.input_keys))

    def records(self, kind: type[R]) -> Iterator[R]:
        """The records, as a class whose fields are among those of the stage's."""
        reader = RecordReader(kind)
        return (reader.read(ref) for ref in self.refs())

    def rejections(self) -> Iterator[Rejection]:
        """Everything that gave no record, in the order of the inputs."""
        reader = RecordReader(Rejected)
        for ref in self.index.refs(self.index.find_rejections(self.input_keys)):
            said = reader.read_rejected(ref.part, ref.row)
            yield Rejection(self.name, said.subject, said.reason, said.detail)

    def count_reasons(self) -> Counter[str]:
        """How often each reason came."""
        return Counter(rejection.reason for rejection in self.rejections())


class Engine:
    """A work folder, and where its stages run.

    Args:
        work: folder of all parts.
        runner: "native" or "ray".
        num_workers: workers of each stage.
        on_progress: takes the stage's name, how many inputs are done, and how many there are.
    """

    def __init__(
        self,
        work: Path,
        runner: RunnerName = "native",
        num_workers: int = 1,
        on_progress: ProgressFunction | None = None,
    ) -> None:
        self.work = Path(work).absolute()
        self.runner = runner
        self.num_workers = num_workers
        self.on_progress = on_progress or (lambda stage, done, total: None)

    def put(self, name: str, records: Iterable[Any], kind: type) -> StageResult:
        """Keep records that the caller made, as the input of a stage; equal ones are kept once."""
        folder = PartsFolder(self.work / f"inputs-{name}")
        index = folder.read_index()
        keys = bytearray()  # of bytes, for a list of keys would be ten times as long
        pending: dict[str, Any] = {}
        for record in records:
            key = hash_record(record)
            keys += bytes.fromhex(key)
            pending.setdefault(key, record)
            if len(pending) == _INPUT_ROWS:
                _put_new(folder, index, pending, kind)
        _put_new(folder, index, pending, kind)
        every = np.frombuffer(bytes(keys), KEY_TYPE)
        _, first = np.unique(every, return_index=True)
        return StageResult(name, every[np.sort(first)], folder.read_index())

    def folder_of(self, stage: Stage | TableStage) -> PartsFolder:
        """Where the parts of a stage lie."""
        return PartsFolder(self.work / f"{stage.name}-{stage.fingerprint}")

    def find_left(self, stage: Stage, inputs: StageResult) -> Iterator[RowRef]:
        """Places of the inputs that a run would do."""
        rows, done = self._split(self.folder_of(stage), inputs)
        return inputs.index.refs(rows[~done])

    def _split(self, folder: PartsFolder, inputs: StageResult) -> tuple[np.ndarray, np.ndarray]:
        """Rows of the inputs, and whether each is done."""
        rows = inputs.index.find_records(inputs.input_keys)
        return rows, folder.read_index().is_done(inputs.index.keys[rows])

    def run(self, stage: Stage, inputs: StageResult) -> StageResult:
        """Do what is left of a stage.

        Raises:
            EngineError: when a worker cannot begin, or most records raise errors.
        """
        folder = self.folder_of(stage)
        folder.remove_leftovers()
        rows, is_done = self._split(folder, inputs)
        left, num_reused = rows[~is_done], int(is_done.sum())
        self.on_progress(stage.name, num_reused, len(rows))
        done, errors = num_reused, 0
        tasks = (
            Task(batch, str(folder.name_part([ref.key for ref in batch])))
            for start in range(0, len(left), stage.batch_rows)
            for batch in (tuple(inputs.index.refs(left[start : start + stage.batch_rows])),)
        )
        while some := list(islice(tasks, _TASKS_AT_A_TIME)):
            for num_records, num_errors in run_tasks(stage, some, self.runner, self.num_workers):
                done, errors = done + num_records, errors + num_errors
                self.on_progress(stage.name, done, len(rows))
        result = StageResult(stage.name, inputs.index.keys[rows], folder.read_index(), num_reused, is_done)
        _check_errors(result, errors, len(left))
        return result

    def run_table(self, stage: TableStage, inputs: StageResult, *more: StageResult) -> StageResult:
        """Do a stage that needs all records of one input at once; of more inputs only the keys count.

        Raises:
            EngineError: when the function fails.
        """
        keys = [ref.key for ref in inputs.refs()]
        others = [hash_texts([ref.key for ref in other.refs()]) for other in more]
        input_key = hash_texts([*keys, *others])
        folder = self.folder_of(stage)
        folder.remove_leftovers()
        index, packed = folder.read_index(), pack_keys([input_key])
        is_done = bool(index.is_done(packed)[0])
        if not is_done:
            self.on_progress(stage.name, 0, len(keys))
            results = stage.function(list(inputs.records(stage.takes)))
            # A table may come out empty; its part still says that it is done.
            write_part(folder.name_part([input_key]), stage.gives, [(input_key, results or [_NOTHING])])
            index = folder.read_index()
        self.on_progress(stage.name, len(keys), len(keys))
        return StageResult(stage.name, packed, index, len(keys) if is_done else 0)


def _put_new(folder: PartsFolder, index: PartsIndex, pending: dict[str, Any], kind: type) -> None:
    """Write what no part holds yet, and empty `pending`."""
    keys = list(pending)
    left = [key for key, is_done in zip(keys, index.is_done(pack_keys(keys)), strict=True) if not is_done]
    if left:
        write_part(folder.name_part(left), kind, [(key, [pending[key]]) for key in left])
    pending.clear()


_NOTHING = Rejected("no records", "the stage had nothing to work on")


def _check_errors(result: StageResult, num_errors: int, num_left: int) -> None:
    """Stop where a fault of the set-up shows as an error of nearly every record."""
    if num_errors < _MIN_ERRORS or num_errors <= _MAX_ERROR_SHARE * num_left:
        return
    first = next(item for item in result.rejections() if item.reason.startswith("error: "))
    raise EngineError(
        f"stage {result.name}: {num_errors} of {num_left} records raised an error; the first, {first.subject}: "
        f"{first.reason.removeprefix('error: ')}: {first.detail}"
    )


__all__ = ["Engine", "EngineError", "StageResult", "reject_error"]
