"""Doubles numbers in a process of its own, which a test may kill."""

from __future__ import annotations

import sys
import time
from pathlib import Path

from doubling import Doubled, Number, make_stage

from lynx_core.engine.engine import Engine


def main() -> None:
    """WORK JOURNAL COUNT WORKERS SECONDS RUNNER: double some numbers; prints how many workers took part."""
    work, journal = Path(sys.argv[1]), Path(sys.argv[2])
    count, workers, seconds, runner = int(sys.argv[3]), int(sys.argv[4]), float(sys.argv[5]), sys.argv[6]
    engine = Engine(work, runner, workers)
    numbers = engine.put("numbers", (Number(f"n{value}", value) for value in range(count)), Number)
    started = time.monotonic()
    result = engine.run(make_stage(journal, seconds=seconds), numbers)
    seconds = time.monotonic() - started
    doubled = list(result.records(Doubled))
    print(len(doubled), len({record.worker for record in doubled}), f"{seconds:.2f}", result.num_reused)


if __name__ == "__main__":
    main()
