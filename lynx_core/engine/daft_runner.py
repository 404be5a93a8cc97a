"""The one place that knows Daft: batches of a stage, in this process, in several, or on a Ray cluster.

Daft deals out tasks and keeps the workers' state; what a task reads and writes are parts on disk, so that
nothing heavy passes through the driver and its memory does not grow with the number of rows. On a cluster the
work folder and the media must be on a disk that every machine sees. Daft is before 1.0, hence one module.
"""

from __future__ import annotations

import json
import os
import pickle
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ..spec import first_line
from .parts import RecordReader, write_part
from .parts_index import RowRef
from .stage import EngineError, Rejected, Stage

RunnerName = Literal["native", "ray"]
_runner: RunnerName | None = None
"""The one that this process has chosen."""


@dataclass(frozen=True)
class Task:
    """A batch: which records to read, and the part that holds the results."""

    refs: tuple[RowRef, ...]
    part: str

    def to_json(self) -> str:
        return json.dumps([self.part, [[ref.key, ref.part, ref.row] for ref in self.refs]])

    @classmethod
    def from_json(cls, text: str) -> Task:
        part, refs = json.loads(text)
        return cls(tuple(RowRef(*ref) for ref in refs), part)


class StageWorker:
    """A stage's function with its models, and what a task asks of it."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self.function = self.stage.open_worker()
        self.reader = RecordReader(self.stage.takes)

    def do(self, task: Task) -> int:
        """Write the part of a task; gives how many records raised an error."""
        records = [self.reader.read(ref) for ref in task.refs]
        results, num_errors = self._call(records)
        keys = [ref.key for ref in task.refs]
        write_part(Path(task.part), self.stage.gives, zip(keys, results, strict=True))
        return num_errors

    def _call(self, records: Sequence[Any]) -> tuple[list[Sequence[Any | Rejected]], int]:
        try:
            return self._check(records, self.function(records)), 0
        except EngineError:
            raise
        except Exception as error:
            if len(records) == 1:
                return [[reject_error(error, records[0])]], 1
        # One bad record must not cost its neighbours.
        done = [self._call([record]) for record in records]
        return [results[0] for results, _ in done], sum(count for _, count in done)

    def _check(self, records: Sequence[Any], results: Any) -> list[Sequence[Any | Rejected]]:
        if len(results) != len(records) or not all(results):
            raise EngineError(
                f"stage {self.stage.name} gave {len(results)} results for {len(records)} records; each needs "
                f"a record or a rejection, so that nothing vanishes"
            )
        return list(results)


def reject_error(error: Exception, record: Any) -> Rejected:
    """An unexpected error as a rejection that is tried again in the next run."""
    line = (str(error).strip().splitlines() or [""])[0][:300]
    subject = str(getattr(record, "subject", "") or getattr(record, "path", "") or getattr(record, "id", ""))
    return Rejected(f"error: {type(error).__name__}", line, subject, retry=True)


def run_tasks(
    stage: Stage, tasks: Sequence[Task], runner: RunnerName, num_workers: int
) -> Iterator[tuple[int, int]]:
    """Do tasks; gives for each, as it is done, how many records it had and how many raised an error.

    Args:
        runner: "native" works on this machine, "ray" on the cluster of `RAY_ADDRESS`, or on a local one.
        num_workers: one on this machine works in this process, without Daft; more are processes of their own.

    Raises:
        EngineError: when the package is missing, or a worker cannot begin.
    """
    if not tasks:
        return
    if runner == "native" and num_workers == 1:
        yield from _run_here(stage, tasks)
        return
    daft = _import_daft(runner)
    worker = _make_worker_class(daft, num_workers, stage.gpus)(pickle.dumps(stage))
    frame = daft.from_pydict({"task": [task.to_json() for task in tasks]})
    if runner == "ray":
        frame = frame.into_partitions(min(len(tasks), num_workers * 4))
    frame = frame.select(worker.do(frame["task"]).alias("done"))
    try:
        for row in frame.iter_rows(results_buffer_size=num_workers):
            num_records, num_errors, stop = json.loads(row["done"])
            if stop:
                raise EngineError(stop)
            yield num_records, num_errors
    except EngineError:
        raise
    except Exception as error:
        line = (str(error).strip().splitlines() or [type(error).__name__])[-1][:500]
        raise EngineError(f"stage {stage.name} stopped: {line}") from error


def _run_here(stage: Stage, tasks: Sequence[Task]) -> Iterator[tuple[int, int]]:
    try:
        worker = StageWorker(stage)
    except Exception as error:
        raise EngineError(str(error) or type(error).__name__) from error
    for task in tasks:
        yield len(task.refs), worker.do(task)


def _make_worker_class(daft: Any, num_workers: int, gpus: float) -> Any:
    @daft.cls(max_concurrency=num_workers, use_process=True, gpus=gpus, name_override="lynx stage")
    class Worker:
        def __init__(self, pickled: bytes) -> None:
            self.pickled = pickled
            self.opened: StageWorker | None = None

        @daft.method.batch(return_dtype=daft.DataType.string(), batch_size=1)
        def do(self, tasks: Any) -> list[str]:
            return [self.do_one(text) for text in tasks.to_pylist()]

        def do_one(self, text: str) -> str:
            task = Task.from_json(text)
            try:
                # Not in __init__, whose errors Daft hands on without their text.
                self.opened = self.opened or StageWorker(pickle.loads(self.pickled))
                return json.dumps([len(task.refs), self.opened.do(task), ""])
            except Exception as error:
                return json.dumps([0, 0, str(error) or type(error).__name__])

    return Worker


def _import_daft(runner: RunnerName) -> Any:
    # Neither of them may report anything to anyone; set before the import, which reads it.
    os.environ["DAFT_ANALYTICS_ENABLED"] = "0"
    os.environ["DO_NOT_TRACK"] = "true"
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ.setdefault("DAFT_PROGRESS_BAR", "0")
    try:
        import daft

        if runner == "ray":
            import ray  # noqa: F401
    except ImportError as error:
        package = "ray" if runner == "ray" and error.name != "daft" else "daft"
        raise EngineError(
            f"the package {package} is missing or does not load ({error}): python -m pip install "
            f"'comfyui-lynx[curate]'{' ray' if package == 'ray' else ''}"
        ) from error
    global _runner
    if _runner is None:  # Daft takes one choice in the life of a process, and refuses even the same again
        if runner == "ray":
            _start_ray(daft, os.environ.get("RAY_ADDRESS"))
        else:
            daft.set_runner_native()
        _runner = runner
    if _runner != runner:
        raise EngineError(
            f"this process works on the runner {_runner} already; start another one for the runner {runner}"
        )
    return daft


def _start_ray(daft: Any, address: str | None) -> None:
    try:
        daft.set_runner_ray(address, noop_if_initialized=True)
    except Exception as error:  # of Ray, which raises whatever its parts do
        if address:
            state = f"the Ray cluster of RAY_ADDRESS={address} does not answer"
            way = "see `ray status` there, or unset RAY_ADDRESS for a local one"
        else:
            state = "a local Ray does not start"
            way = (
                "Ray gives it 30 s, which a busy machine may need longer than: try again, or run `ray start --head` "
                "and set RAY_ADDRESS=auto; without --runner ray no cluster is needed"
            )
        raise EngineError(f"{state} ({first_line(error)}); {way}") from error
