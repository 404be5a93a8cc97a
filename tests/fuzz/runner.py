"""Opens mutated files by the thousand: python tests/fuzz/runner.py

10,000 files of weights and text and 2,000 of media, each opened as its users do. Whatever is neither read nor refused
properly is a fault: an exception that is none of the pack's, a message that does not name the file, code that runs
out of a pickle, more than 10 s, a crash, memory that grows. Faulty files are kept in `--keep`; those that were mended
lie in tests/fuzz/corpus, and the suite opens them.
"""

from __future__ import annotations

import argparse
import collections
import gc
import json
import random
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

REPO = Path(__file__).resolve().parents[2]
for place in (REPO, Path(__file__).parent):
    sys.path.insert(0, str(place))

from mutations import mutate  # noqa: E402
from targets import MEDIA, Target, make_targets  # noqa: E402

LIMIT_S = 10
CODE_EVENTS = (
    "os.system",
    "os.exec",
    "os.posix_spawn",
    "subprocess.Popen",
    "socket.connect",
    "pickle.find_class",
)
"""Audit events of code that a data file has no business to run."""


class Hang(BaseException):
    """Raised in the middle of a file that takes too long; no `except Exception` catches it."""


@dataclass(frozen=True)
class Fault:
    """One file that was neither read nor refused properly."""

    kind: str
    number: int
    what: str


class Watch:
    """Notes what runs while a file is opened."""

    def __init__(self) -> None:
        self.events: list[str] = []
        self.is_on = False
        sys.addaudithook(self._hear)
        signal.signal(signal.SIGPROF, self._stop)
        signal.signal(signal.SIGALRM, self._stop)

    def _hear(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self.is_on and event in CODE_EVENTS:
            self.events.append(f"{event} {arguments[:1]}")

    @staticmethod
    def _stop(*_: object) -> None:
        raise Hang

    def open(self, target: Target, path: Path) -> str | None:
        """Open a file and say what is wrong with how that ends."""
        from lynx_core.spec import LynxError

        self.events.clear()
        self.is_on = True
        # Of the processor's time, for other work on the machine is no hang; and of the clock, for what waits for ever.
        signal.setitimer(signal.ITIMER_PROF, LIMIT_S)
        signal.alarm(20 * LIMIT_S)
        try:
            target.open(path)
        except LynxError as error:
            return self._ran() or find_fault(str(error), path)
        except Hang:
            return f"takes more than {LIMIT_S} s"
        except Exception as error:  # the point of it all
            return self._ran() or f"{type(error).__module__}.{type(error).__name__}: {str(error)[:200]}"
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)
            signal.alarm(0)
            self.is_on = False
        return self._ran()

    def _ran(self) -> str | None:
        return f"runs {self.events[0]}" if self.events else None


def find_fault(message: str, path: Path) -> str | None:
    """What is wrong with a refusal."""
    if path.name not in message:
        return f"does not name the file: {message[:200]}"
    if len(message) > 4000:
        return f"a message of {len(message)} characters: {message[:100]}"
    try:
        message.encode()
    except UnicodeEncodeError:
        return "a message that cannot be printed"
    return None


def make_file(target: Target, number: int) -> tuple[str, bytes]:
    """The mutated file of a number: its name and bytes, always the same."""
    rng = random.Random(f"{target.kind} {number}")
    seed = rng.choice(target.seeds)
    return seed.name, mutate(seed.raw, rng)


def read_memory_mb() -> float:
    status = Path("/proc/self/status").read_text().split("RssAnon:")[1]
    return int(status.split()[0]) / 1024


def open_many(target: Target, numbers: range, folder: Path, note: Path | None = None) -> Iterator[Fault]:
    """Open the files of these numbers.

    Args:
        note: a file that always holds the number that is being opened.
    """
    watch = Watch()
    folder.mkdir(parents=True, exist_ok=True)
    for number in numbers:
        if note is not None:
            note.write_text(str(number))
        name, raw = make_file(target, number)
        path = folder / f"fuzzed_{name}"
        path.write_bytes(raw)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            fault = watch.open(target, path)
        if fault is not None:
            yield Fault(target.kind, number, fault)
        path.unlink(missing_ok=True)


def work(kind: str, first: int, last: int, folder: Path) -> None:
    """What a child process does: faults and memory as lines of JSON."""
    import torch

    torch.set_num_threads(1)
    target = make_targets(folder / "seeds")[kind]
    for fault in open_many(target, range(first, min(first + 20, last)), folder / "open", folder / "number"):
        print(json.dumps(vars(fault)), flush=True)
    gc.collect()
    before = read_memory_mb()
    for fault in open_many(target, range(first + 20, last), folder / "open", folder / "number"):
        print(json.dumps(vars(fault)), flush=True)
    gc.collect()
    print(json.dumps({"memory_mb": read_memory_mb() - before}), flush=True)


def supervise(kind: str, count: int, keep: Path | None, first: int = 0) -> tuple[list[Fault], float]:
    """Open `count` files of a kind in child processes, from number `first` on; after a crash with the next file."""
    faults: list[Fault] = []
    growth, last_number = 0.0, first + count
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        while first < last_number:
            (folder / "number").write_text(str(first))
            command = [sys.executable, __file__, "--work", kind, str(first), str(last_number), str(folder)]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            for line in done.stdout.splitlines():
                if line.startswith('{"memory_mb"'):
                    growth = max(growth, json.loads(line)["memory_mb"])
                elif line.startswith('{"kind"'):
                    faults.append(Fault(**json.loads(line)))
            if done.returncode == 0:
                break
            number = int((folder / "number").read_text())
            last = (done.stderr.strip().splitlines() or [""])[-1]
            faults.append(Fault(kind, number, f"the process ends with {done.returncode}: {last[:200]}"))
            first = number + 1
        if keep is not None and faults:
            target = make_targets(folder / "seeds")[kind]
            for fault in faults:
                name, raw = make_file(target, fault.number)
                path = keep / kind / f"{fault.number}_{name}"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(raw)
    return faults, growth


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument(
        "--count", type=int, default=10_000, help="files of weights and text (default: 10000)"
    )
    parser.add_argument("--media", type=int, default=2_000, help="files of media (default: 2000)")
    parser.add_argument(
        "--first", type=int, default=0, help="number of the first; another one gives other files"
    )
    parser.add_argument("--kind", action="append", help="only these kinds")
    parser.add_argument("--keep", type=Path, help="folder for the files that are at fault")
    parser.add_argument("--work", nargs=4, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.work:
        kind, first, last, folder = arguments.work
        work(kind, int(first), int(last), Path(folder))
        return 0
    with tempfile.TemporaryDirectory() as temporary:
        kinds = list(make_targets(Path(temporary)))
    others = [kind for kind in kinds if kind not in MEDIA]
    found = 0
    for kind in arguments.kind or kinds:
        count = -(-arguments.media // len(MEDIA)) if kind in MEDIA else -(-arguments.count // len(others))
        begun = time.monotonic()
        faults, growth = supervise(kind, count, arguments.keep, arguments.first)
        found += len(faults)
        print(
            f"{kind}: {count} files, {len(faults)} faults, {growth:+.0f} MB, {time.monotonic() - begun:.0f} s",
            flush=True,
        )
        for what, times in collections.Counter(fault.what for fault in faults).most_common(12):
            example = next(fault.number for fault in faults if fault.what == what)
            print(f"    {times} x {what}   (as {example})", flush=True)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
