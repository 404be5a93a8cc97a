"""Samples that were set aside: a line each in `quarantine.jsonl`, and their counts.

Every process appends whole lines to the one file, and knows those that were there when it began. A
line holds for the data set that it was written for: when rows or files change, all are tried again.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from pathlib import Path

from .errors import DataError, first_line
from .manifest import Rejection, describe_rejections


class Quarantine:
    """The rejections of one data set.

    Args:
        path: the file, made with the first rejection; None keeps them in memory only.
        fingerprint: of the data set.

    Raises:
        DataError: when the file is there but cannot be read.
    """

    def __init__(self, path: Path | None, fingerprint: str) -> None:
        self.path = path
        self.fingerprint = fingerprint
        self.rejections: list[Rejection] = []
        self._known: set[tuple[str, int]] = set()
        if path is not None and path.exists():
            self._read(path)

    def __len__(self) -> int:
        return len(self.rejections)

    def holds(self, sample_id: str, line: int) -> bool:
        """Whether the sample of this id and line was set aside."""
        return (sample_id, line) in self._known

    def add(self, rejection: Rejection) -> None:
        """Set a sample aside; one that is known already is not noted again.

        Raises:
            DataError: when the file cannot be written.
        """
        if not self._remember(rejection) or self.path is None:
            return
        entry = json.dumps({**asdict(rejection), "dataset": self.fingerprint}) + "\n"
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            # One write in append mode: lines of several processes do not mix.
            handle = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
            try:
                os.write(handle, entry.encode())
            finally:
                os.close(handle)
        except OSError as error:
            raise DataError(
                f"{self.path} cannot be written ({first_line(error)}); free some space, or name another run folder"
            ) from error

    def summary(self) -> str:
        """A line for each reason: how many, and the first example; empty when there are none."""
        return describe_rejections(self.rejections)

    def _remember(self, rejection: Rejection) -> bool:
        key = (rejection.id, rejection.line)
        if key in self._known:
            return False
        self._known.add(key)
        self.rejections.append(rejection)
        return True

    def _read(self, path: Path) -> None:
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"{path} cannot be read ({first_line(error)}); move it away") from error
        for line in lines:
            try:
                entry = json.loads(line)
                if entry.pop("dataset") == self.fingerprint:
                    self._remember(Rejection(**entry))
            except (ValueError, TypeError, KeyError, AttributeError):
                continue  # a line cut short by a kill: its sample is tried again
