"""The engine of `comfy-lynx curate`: overhead a row, memory over many rows, two workers against one.

    python benchmarks/curation.py [--rows 100000] [--only scaling]

Prints a line for each. On a busy machine two workers cannot have two cores, so two plain processes that do the same
work are timed in turn with them: the engine's share of what the machine gives is the figure to look at there.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import resource
import tempfile
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np

from lynx_core.engine.engine import Engine
from lynx_core.engine.stage import Stage


@dataclass(frozen=True, eq=False)
class Row:
    """As wide as a track: a vector and some kilobytes of picture."""

    id: str
    vector: np.ndarray
    picture: bytes


@dataclass(frozen=True)
class RowName:
    """The input of the first stage."""

    id: str


def open_maker():
    """Rows of random content."""

    def make(names: Sequence[RowName]) -> list[list[Row]]:
        return [
            [Row(name.id, np.full(512, len(name.id), np.float32), name.id.encode() * 300)] for name in names
        ]

    return make


def spin(count: int) -> None:
    """Twenty milliseconds of one core, so many times."""
    for _ in range(count):
        until = time.process_time() + 0.02
        while time.process_time() < until:
            sum(range(1000))


def open_worker():
    """Work that keeps a core busy."""

    def work(names: Sequence[RowName]) -> list[list[RowName]]:
        spin(len(names))
        return [[name] for name in names]

    return work


def time_plain(workers: int, rows: int) -> float:
    """Seconds of the same work in as many plain processes."""
    processes = [multiprocessing.Process(target=spin, args=(rows // workers,)) for _ in range(workers)]
    started = time.monotonic()
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    return time.monotonic() - started


def time_engine(folder: Path, workers: int, rows: int) -> float:
    """Seconds of a stage, from its first row on: workers have opened their models by then."""
    engine = Engine(folder, num_workers=workers)
    first: list[float] = []
    engine.on_progress = lambda stage, done, total: first.append(time.monotonic()) if done else None
    stage = Stage("work", 1, RowName, RowName, open_worker=open_worker, batch_rows=2)
    engine.run(stage, put_names(engine, rows))
    return (first[-1] - first[0]) * rows / (rows - 2)


def measure_scaling(folder: Path, rows: int, repeats: int) -> None:
    """Print how much faster two are than one, by the engine and by plain processes, in turn."""
    times: dict[tuple[str, int], list[float]] = defaultdict(list)
    for repeat in range(repeats):
        for workers in (1, 2):
            times["plain", workers].append(time_plain(workers, rows))
            times["engine", workers].append(time_engine(folder / f"{repeat}-{workers}", workers, rows))
    ratios = {
        name: [one / two for one, two in zip(times[name, 1], times[name, 2], strict=True)]
        for name in ("engine", "plain")
    }
    engine, plain = (median(ratios[name]) for name in ("engine", "plain"))
    print(
        f"two workers: {engine:.2f} x one (best {max(ratios['engine']):.2f}), two plain processes {plain:.2f} x one "
        f"(best {max(ratios['plain']):.2f}), medians of {repeats}"
    )


def put_names(engine: Engine, count: int):
    """The input."""
    return engine.put("names", (RowName(f"row {number}") for number in range(count)), RowName)


def peak_mb() -> float:
    """Of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    """Measure what is asked for."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--only", choices=("rows", "scaling"))
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if arguments.only != "scaling":
            measure_rows(Path(folder), arguments.rows)
        if arguments.only != "rows":
            measure_scaling(Path(folder), rows=200, repeats=5)


def measure_rows(folder: Path, rows: int) -> None:
    """Print time and memory of a tenth of the rows, and of all."""
    make = Stage("make", 1, RowName, Row, open_worker=open_maker, batch_rows=256)
    for count in (rows // 10, rows):
        engine = Engine(folder / str(count))
        started = time.monotonic()
        names = put_names(engine, count)
        putting = time.monotonic() - started
        started = time.monotonic()
        made = engine.run(make, names)
        seconds = time.monotonic() - started
        started = time.monotonic()
        total = sum(1 for _ in made.records(Row))
        reading = time.monotonic() - started
        started = time.monotonic()
        engine.run(make, names)
        print(
            f"{total} rows: {1e6 * putting / count:.0f} us a row to put, {1e6 * seconds / count:.0f} to make, "
            f"{1e6 * reading / count:.0f} to read; a rerun that finds all done {time.monotonic() - started:.1f} s; "
            f"peak {peak_mb():.0f} MB",
            flush=True,
        )


if __name__ == "__main__":
    # Workers find the stages by this module's own name, not as the program they are not.
    os.environ["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    import curation

    curation.main()
