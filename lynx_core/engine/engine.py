"""Runs stages one after the other: what is left of each, what came of it, and how far it is.

Everything lies in one work folder: `inputs-*` for what the caller hands in, and `<stage>-<fingerprint>` for
the parts of each stage and version. A rerun reads the keys of the inputs that are done and does the others.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from .daft_runner import RunnerName, Task, reject_error, run_tasks
from .parts import Outcome, PartsFolder, RecordReader, RowRef, iterate_refs, write_part
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
    input_keys: tuple[str, ...]
    index: dict[str, Outcome]
    num_reused: int = 0
    """Inputs that an earlier run had done."""

    def refs(self) -> Iterator[RowRef]:
        """Places of the records, in the order of the inputs."""
        return iterate_refs(self.index, self.input_keys)

    def records(self, kind: type[R]) -> Iterator[R]:
        """The records, as a class whose fields are among those of the stage's."""
        reader = RecordReader(kind)
        return (reader.read(ref) for ref in self.refs())

    def rejections(self) -> Iterator[Rejection]:
        """Everything that gave no record, in the order of the inputs."""
        reader = RecordReader(Rejected)
        for input_key in self.input_keys:
            outcome = self.index.get(input_key)
            for row, key in zip(outcome.rows, outcome.keys, strict=True) if outcome else ():
                if key is None:
                    said = reader.read_rejected(outcome.part, row) if outcome else Rejected("", "")
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
        by_key: dict[str, Any] = {}
        for record in records:
            by_key.setdefault(hash_record(record), record)
        index = folder.read_index()
        left = [key for key in by_key if key not in index]
        for start in range(0, len(left), _INPUT_ROWS):
            keys = left[start : start + _INPUT_ROWS]
            write_part(folder.name_part(keys), kind, [(key, [by_key[key]]) for key in keys])
        if left:
            index = folder.read_index()
        return StageResult(name, tuple(by_key), index)

    def folder_of(self, stage: Stage | TableStage) -> PartsFolder:
        """Where the parts of a stage lie."""
        return PartsFolder(self.work / f"{stage.name}-{stage.fingerprint}")

    def count_left(self, stage: Stage, inputs: StageResult) -> int:
        """How many inputs a run would do."""
        index = self.folder_of(stage).read_index()
        return sum(1 for ref in inputs.refs() if ref.key not in index or index[ref.key].retry)

    def run(self, stage: Stage, inputs: StageResult) -> StageResult:
        """Do what is left of a stage.

        Raises:
            EngineError: when a worker cannot begin, or most records raise errors.
        """
        folder = self.folder_of(stage)
        folder.remove_leftovers()
        index = folder.read_index()
        refs = list(inputs.refs())
        left = [ref for ref in refs if ref.key not in index or index[ref.key].retry]
        num_reused = len(refs) - len(left)
        del index  # read anew at the end; two of them would be twice the memory
        self.on_progress(stage.name, num_reused, len(refs))
        done, errors = num_reused, 0
        batches = [left[start : start + stage.batch_rows] for start in range(0, len(left), stage.batch_rows)]
        tasks = [Task(tuple(batch), str(folder.name_part([ref.key for ref in batch]))) for batch in batches]
        for start in range(0, len(tasks), _TASKS_AT_A_TIME):
            some = tasks[start : start + _TASKS_AT_A_TIME]
            for num_records, num_errors in run_tasks(stage, some, self.runner, self.num_workers):
                done, errors = done + num_records, errors + num_errors
                self.on_progress(stage.name, done, len(refs))
        result = StageResult(stage.name, tuple(ref.key for ref in refs), folder.read_index(), num_reused)
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
        index = folder.read_index()
        is_done = input_key in index
        if not is_done:
            self.on_progress(stage.name, 0, len(keys))
            results = stage.function(list(inputs.records(stage.takes)))
            # A table may come out empty; its part still says that it is done.
            write_part(folder.name_part([input_key]), stage.gives, [(input_key, results or [_NOTHING])])
            index = folder.read_index()
        self.on_progress(stage.name, len(keys), len(keys))
        return StageResult(stage.name, (input_key,), index, len(keys) if is_done else 0)


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
