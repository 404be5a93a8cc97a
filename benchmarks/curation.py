"""The engine of `comfy-lynx curate`: overhead a row, two workers against one, memory over many rows.

    python benchmarks/curation.py [--rows 100000]

Prints a line for each; the figures of a busy machine say nothing.
"""

from __future__ import annotations

import argparse
import os
import resource
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

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


def open_worker():
    """Twenty milliseconds of one core for each row."""

    def work(names: Sequence[RowName]) -> list[list[RowName]]:
        for _ in names:
            until = time.process_time() + 0.02
            while time.process_time() < until:
                sum(range(1000))
        return [[name] for name in names]

    return work


def put_names(engine: Engine, count: int):
    """The input."""
    return engine.put("names", (RowName(f"row {number}") for number in range(count)), RowName)


def peak_mb() -> float:
    """Of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    """Measure all three."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, default=100_000)
    rows = parser.parse_args().rows
    make = Stage("make", 1, RowName, Row, open_worker=open_maker, batch_rows=256)
    with tempfile.TemporaryDirectory() as folder:
        for count in (rows // 10, rows):
            engine = Engine(Path(folder) / str(count))
            names = put_names(engine, count)
            started = time.monotonic()
            made = engine.run(make, names)
            seconds = time.monotonic() - started
            started = time.monotonic()
            total = sum(1 for _ in made.records(Row))
            reading = time.monotonic() - started
            print(
                f"{total} rows: {1e6 * seconds / count:.0f} us a row to make, {1e6 * reading / count:.0f} us to read, "
                f"peak {peak_mb():.0f} MB",
                flush=True,
            )
            started = time.monotonic()
            engine.run(make, names)
            print(f"  a rerun that finds all done: {time.monotonic() - started:.1f} s", flush=True)
        times = {}
        for workers in (1, 2):
            engine = Engine(Path(folder) / f"workers{workers}", num_workers=workers)
            names = put_names(engine, 1000)
            stage = Stage("work", 1, RowName, RowName, open_worker=open_worker, batch_rows=8)
            started = time.monotonic()
            engine.run(stage, names)
            times[workers] = time.monotonic() - started
        print(f"two workers: {times[1] / times[2]:.2f} x one ({times[1]:.1f} s, {times[2]:.1f} s)")


if __name__ == "__main__":
    # Workers find the stages by this module's own name, not as the program they are not.
    os.environ["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    import curation

    curation.main()
