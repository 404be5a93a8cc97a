"""What was set aside, and what to know about what was kept: a line each in a file, and counts by reason.

Every process appends whole lines to the one file and reads those of the others, so all of them come to
know the same. A line holds for the data set and the encoders that it was written for: when rows, files,
settings or models change, all are tried again.
"""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path

from ..durable_file import write_durably
from .errors import DataError, first_line
from .manifest import Rejection, describe_rejections

QUARANTINE_NAME = "quarantine.jsonl"
WARNINGS_NAME = "warnings.jsonl"


class RejectionFile:
    """Rejections of one data set, or warnings about it.

    Args:
        path: the file, made with the first line; None keeps them in memory only.
        fingerprint: of the data set and all that decides what can be used of it.
        once_per_row: a row has one line, as in a quarantine; else one for each thing to know.

    Raises:
        DataError: when the file is there but cannot be read.
    """

    def __init__(self, path: Path | None, fingerprint: str, *, once_per_row: bool = True) -> None:
        self.path = path
        self.fingerprint = fingerprint
        self.once_per_row = once_per_row
        self.rejections: list[Rejection] = []
        self._known: set[tuple[str | int, ...]] = set()
        self._read_bytes = 0
        self.refresh()

    def __len__(self) -> int:
        return len(self.rejections)

    def holds(self, sample_id: str, line: int) -> bool:
        """Whether the sample of this id and line was set aside."""
        return (sample_id, line) in self._known

    def begin(self, rejections: Iterable[Rejection], *, anew: bool = False) -> None:
        """Take what is known from the start, and write the file with this and what it held already.

        Lines of another data set go. All processes of a run write the same.

        Args:
            anew: forget what the file held.

        Raises:
            DataError: when the file cannot be written.
        """
        before = [] if anew else self.rejections
        self._known, self.rejections = set(), []
        for rejection in (*rejections, *before):
            self._remember(rejection)
        if self.path is None:
            return
        raw = "".join(map(self._line, self.rejections)).encode()
        try:
            if not raw:
                self.path.unlink(missing_ok=True)
            elif not self.path.exists() or self.path.read_bytes() != raw:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                write_durably(self.path, raw)
        except OSError as error:
            raise self._unwritable(error) from error
        self._read_bytes = len(raw)

    def add(self, rejection: Rejection) -> None:
        """Take a line; one that is known already is not written again.

        Raises:
            DataError: when the file cannot be written.
        """
        self.refresh()
        if not self._remember(rejection) or self.path is None:
            return
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            # One write in append mode: lines of several processes do not mix.
            handle = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
            try:
                raw = self._line(rejection).encode()
                if os.write(handle, raw) != len(raw):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            finally:
                os.close(handle)
        except OSError as error:
            raise self._unwritable(error) from error

    def refresh(self) -> None:
        """Read the lines that other processes have added.

        Raises:
            DataError: when the file is there but cannot be read.
        """
        if self.path is None:
            return
        try:
            with self.path.open("rb") as file:
                file.seek(self._read_bytes)
                raw = file.read()
        except FileNotFoundError:
            return
        except OSError as error:
            raise DataError(f"{self.path} cannot be read ({first_line(error)}); move it away") from error
        whole = raw[: raw.rfind(b"\n") + 1]
        self._read_bytes += len(whole)
        for line in whole.splitlines():
            try:
                entry = json.loads(line)
                if entry.pop("dataset") == self.fingerprint:
                    self._remember(Rejection(**entry))
            except (ValueError, TypeError, KeyError, AttributeError):
                continue  # a line cut short by a kill: its sample is tried again

    def summary(self) -> str:
        """A line for each reason: how many, and the first example; empty when there are none."""
        return describe_rejections(self.rejections, "set aside" if self.once_per_row else "to look at")

    def _remember(self, rejection: Rejection) -> bool:
        key: tuple[str | int, ...] = (rejection.id, rejection.line)
        if not self.once_per_row:
            key = (*key, rejection.reason, rejection.detail)
        if key in self._known:
            return False
        self._known.add(key)
        self.rejections.append(rejection)
        return True

    def _line(self, rejection: Rejection) -> str:
        return json.dumps({**asdict(rejection), "dataset": self.fingerprint}) + "\n"

    def _unwritable(self, error: OSError) -> DataError:
        return DataError(
            f"{self.path} cannot be written ({first_line(error)}); free some space, or name another run.output"
        )
