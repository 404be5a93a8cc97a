"""The quarantine: rows and samples that are skipped, and warnings about others, a line each, with counts by reason.

Every process appends whole lines to the one file and reads those of the others, so all of them have
the same. A line holds for the dataset and the encoders that it was written for: when rows, files,
settings or models change, all are tried again.
"""

from __future__ import annotations

import errno
import json
import os
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from ..durable_file import write_durably
from ..foreign_text import parse_json
from .errors import DataError, first_line

QUARANTINE_NAME = "quarantine.jsonl"
WARNINGS_NAME = "warnings.jsonl"


LOW_SIMILARITY = "face similarity too low"
_FILTERED = (LOW_SIMILARITY, "too short")
"""Reasons that the configuration asks for: data.min_face_similarity, decoding.min_frames."""


@dataclass(frozen=True)
class Rejection:
    """A row or sample that is skipped, or a warning about one that is used."""

    id: str
    """Of the row, or "" when it has none that can be read."""
    line: int
    """In the manifest, from 1."""
    reason: str
    """In few words, the same for all rejections of one kind."""
    detail: str
    """The value seen, and the way out."""


def describe_rejections(rejections: Iterable[Rejection], word: str = "skipped") -> str:
    """A line for each reason: how many, and the first example; empty when there are none."""
    first: dict[str, Rejection] = {}
    counts: Counter[str] = Counter()
    for rejection in rejections:
        first.setdefault(rejection.reason, rejection)
        counts[rejection.reason] += 1
    lines = []
    for reason, count in counts.most_common():
        example = first[reason]
        name = f"line {example.line}" + (f", id {example.id}" if example.id else "")
        lines.append(f"\n  {count} {word}: {reason}; first: {name}: {example.detail}")
    return "".join(lines)


class RejectionFile:
    """Rejections of one dataset, or warnings about it.

    Args:
        path: the file, made with the first line; None keeps them in memory only.
        fingerprint: of the dataset and all that decides what can be used of it.
        once_per_row: a row has one line, as in a quarantine; else one for each warning.

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
        """Whether the sample of this id and line is quarantined."""
        return (sample_id, line) in self._known

    def begin(self, rejections: Iterable[Rejection], *, anew: bool = False) -> None:
        """Take what is known from the start, and write the file with this and what it held already.

        Lines of another dataset are dropped. All processes of a run write the same.

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
                entry = parse_json(line)
                if entry.pop("dataset") == self.fingerprint:
                    self._remember(Rejection(**entry))
            except (ValueError, TypeError, KeyError, AttributeError):
                continue  # a line cut short by a kill: its sample is tried again

    def summary(self) -> str:
        """A line for each reason: how many, and the first example; empty when there are none."""
        return describe_rejections(self.rejections, "skipped" if self.once_per_row else "to look at")

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


@dataclass(frozen=True)
class SkippedRows:
    """The rows of a manifest that are skipped, at one moment."""

    path: Path
    """Of the manifest."""
    num_rows: int
    rejections: tuple[Rejection, ...]
    warnings: tuple[Rejection, ...]
    """What to know about pairs that are used."""
    quarantine_path: Path | None
    warnings_path: Path | None
    absent_files: int
    """Files that are gone, of pairs that the cache has seen."""

    @property
    def num_faults(self) -> int:
        """Rows that are quarantined for a fault, not skipped by a threshold of the configuration."""
        return sum(rejection.reason not in _FILTERED for rejection in self.rejections)

    @property
    def share(self) -> float:
        """Of the rows within the thresholds, those quarantined for a fault, 0 to 1."""
        wanted = self.num_rows - (len(self.rejections) - self.num_faults)
        return self.num_faults / wanted if wanted else 0.0

    def __str__(self) -> str:
        return f"{len(self.rejections)} of {self.num_rows} rows of {self.path} skipped"

    def describe_reasons(self) -> str:
        """Lines of reasons, and where all of them are; empty when nothing is skipped."""
        if not self.rejections:
            return ""
        return describe_rejections(self.rejections) + _where(self.quarantine_path)

    def describe_warnings(self) -> str:
        """Lines of warnings, and where all of them are; empty when there are none."""
        if not self.warnings:
            return ""
        return describe_rejections(self.warnings, "to look at") + _where(self.warnings_path)

    def describe_excess(self, limit: float) -> str:
        """Why a run stops here."""
        return (
            f"{self.num_faults} of {self.num_rows} rows of {self.path} are quarantined, {self.share:.0%} of those "
            f"wanted, and data.max_quarantined allows {limit:.0%}; repair the rows, or raise it to train without them"
        )


def _where(path: Path | None) -> str:
    return f"\n  all of them: {path}" if path else ""
