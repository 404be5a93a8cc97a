"""A small stage for the engine's tests, importable by worker processes."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lynx_core.engine.stage import Rejected, Stage


@dataclass(frozen=True)
class Number:
    id: str
    value: int


@dataclass(frozen=True)
class Point:
    x: float


@dataclass(frozen=True, eq=False)
class Doubled:
    id: str
    value: int
    vector: np.ndarray
    points: tuple[Point, ...]
    note: str | None
    raw: bytes
    worker: int


@dataclass(frozen=True)
class Doubler:
    """Opens a worker; notes each call in a file."""

    journal: Path
    seconds: float = 0.0

    def __call__(self) -> Doubler:
        return self

    def double(self, number: Number) -> list[Doubled | Rejected]:
        with self.journal.open("a") as file:
            file.write(f"{number.id}\n")
        time.sleep(self.seconds)
        if number.value == 13 and not self.journal.with_name("mended").exists():
            raise ValueError("thirteen\nsecond line")
        if number.value % 7 == 0:
            return [Rejected("a multiple of seven", f"{number.value}", number.id)]
        vector, points = np.full(3, number.value, np.float32), (Point(0.5), Point(number.value / 2))
        return [Doubled(number.id, 2 * number.value, vector, points, None, b"\0\xff", os.getpid())]


@dataclass(frozen=True)
class OpenDoubler:
    doubler: Doubler

    def __call__(self):
        def work(numbers: Sequence[Number]) -> list[list[Doubled | Rejected]]:
            return [self.doubler.double(number) for number in numbers]

        return work


def make_stage(journal: Path, version: int = 1, seconds: float = 0.0, batch_rows: int = 4) -> Stage:
    opener = OpenDoubler(Doubler(journal, seconds))
    return Stage("double", version, Number, Doubled, open_worker=opener, batch_rows=batch_rows)
