"""One run at a time writes to an output folder.

The lock is the system's own (`flock`, `msvcrt`, through filelock), so that of a run that was killed is free at
once. Some network disks do not carry such locks to other machines. The holder therefore also writes a
sign of life beside it every few seconds; who gets the lock although another machine's holder is named there
watches that sign for a while before it believes that the other run is dead.
"""

from __future__ import annotations

import json
import os
import platform
import signal
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

from filelock import FileLock, Timeout

from ..foreign_text import parse_json
from ..spec import LynxError

LOCK_NAME, HOLDER_NAME = ".run.lock", ".run.json"
BEAT_S = 5.0
"""Seconds between signs of life."""
WATCH_S = 45.0
"""How long another machine's holder is watched: long enough for a process that is busy reading weights."""


class RunLockError(LynxError):
    """Another run writes to the folder; names it and the way out."""


@dataclass(frozen=True)
class Holder:
    """Which run holds a folder."""

    host: str
    machine: str
    """Tells running systems apart, whatever they are called."""
    pid: int
    since: str
    beat: int = 0
    """Counts the signs of life."""

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}, since {self.since}"


class RunLock:
    """Holds an output folder for one run; only its main process takes it."""

    def __init__(self, output: Path) -> None:
        self.output = Path(output)
        self._lock = FileLock(self.output / LOCK_NAME)
        self._beats: threading.Thread | None = None
        self._is_over = threading.Event()

    def acquire(self, note: Callable[[str], None]) -> None:
        """Take the folder, or tell who has it.

        Args:
            note: takes what a user should know.

        Raises:
            RunLockError: when another run has it, or the folder refuses a lock.
        """
        try:
            self.output.mkdir(parents=True, exist_ok=True)
            self._lock.acquire(timeout=0)
        except Timeout:
            raise RunLockError(describe_conflict(self.output)) from None
        except OSError as error:
            raise RunLockError(
                f"{self.output} takes no lock ({error.strerror or error}); name another run.output"
            ) from error
        try:
            self._await_other_machine(note)
            own = _describe_self()
            self._write(own)
        except BaseException:
            self._lock.release()
            raise
        self._beats = threading.Thread(target=self._beat, args=(own,), name="run lock", daemon=True)
        self._beats.start()

    def release(self) -> None:
        """Let the folder go."""
        if self._beats is None:
            return
        self._is_over.set()
        self._beats.join()
        self._beats = None
        (self.output / HOLDER_NAME).unlink(missing_ok=True)
        self._lock.release()

    def _await_other_machine(self, note: Callable[[str], None]) -> None:
        holder = read_holder(self.output)
        # On this machine the system's lock alone tells, and it was free.
        if holder is None or holder.machine == _machine():
            return
        note(
            f"{self.output} was last held by {holder}; watching for {WATCH_S:.0f} s whether that run is alive"
        )
        end = time.monotonic() + WATCH_S
        while time.monotonic() < end:
            time.sleep(min(BEAT_S, WATCH_S) / 5)
            if read_holder(self.output) != holder:
                raise RunLockError(describe_conflict(self.output))
        note("it shows no sign of life; this run takes the folder")

    def _beat(self, own: Holder) -> None:
        beat = 0
        while not self._is_over.wait(BEAT_S):
            beat += 1
            try:
                self._write(Holder(**{**asdict(own), "beat": beat}))
            except OSError:
                continue  # a full disk stops the run elsewhere, with a message

    def _write(self, holder: Holder) -> None:
        aside = self.output / f"{HOLDER_NAME}.part"
        aside.write_text(json.dumps(asdict(holder)), encoding="utf-8")
        aside.replace(self.output / HOLDER_NAME)


def describe_conflict(output: Path) -> str:
    """What to say when another run holds a folder."""
    holder = read_holder(output)
    named = f"{holder}" if holder else "it has not named itself yet"
    return (
        f"another run writes to {output}: {named}. Wait for it or stop it (Ctrl-C saves and leaves), or name "
        "another run.output"
    )


def is_held(output: Path) -> bool:
    """Whether a run on this machine holds a folder; nothing is taken or made."""
    path = Path(output) / LOCK_NAME
    if not path.exists():
        return False
    probe = FileLock(path)
    try:
        probe.acquire(timeout=0)
    except Timeout:
        return True
    except OSError:  # a folder that takes no lock; whether it can be written is asked elsewhere
        return False
    probe.release()
    return False


def read_holder(output: Path) -> Holder | None:
    """Who holds a folder, or held it last and was killed; None when nobody is named."""
    try:
        return Holder(**parse_json((Path(output) / HOLDER_NAME).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def _describe_self() -> Holder:
    since = time.strftime("%Y-%m-%d %H:%M:%S %z")
    return Holder(platform.node(), _machine(), os.getpid(), since)


def _machine() -> str:
    try:
        # The same in all containers of one system, and new after each start of it.
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return f"{platform.node()}-{uuid.getnode():x}"


_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class StopSignal:
    """Within it, the first signal is remembered instead of ending the process."""

    def __init__(self) -> None:
        self.is_wanted = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> StopSignal:
        # Handlers can only be set in the main thread; elsewhere signals keep their meaning.
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._remember) for number in _SIGNALS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._restore()

    def _remember(self, number: int, frame: FrameType | None) -> None:
        self.is_wanted = True
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}
