"""What a stage is: a pure function on a batch of records, with a hash of everything its result depends on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..spec import LynxError


class EngineError(LynxError):
    """Work that cannot go on: the message names the stage, what was seen and the way out."""


@dataclass(frozen=True)
class Rejected:
    """An input, or a part of one, that gives no record; the reason is counted."""

    reason: str
    """In few words, without figures, so that equal reasons are counted together."""
    detail: str
    """The value seen, and the way out."""
    subject: str = ""
    """What was rejected, as "clips/a.mp4, frames 0-80"."""
    retry: bool = False
    """Whether the next run tries it again, as after a server that did not answer."""


StageFunction = Callable[[Sequence[Any]], Sequence[Sequence[Any]]]
"""Takes a batch of records, gives for each of them one or more records or rejections."""

TableFunction = Callable[[Sequence[Any]], Sequence[Any]]
"""Takes all records at once, gives any number of records and rejections."""


@dataclass(frozen=True)
class _Described:
    name: str
    version: int
    """Raised when the same settings come to give other records."""
    takes: type
    """Record class of the input; columns that it lacks are not read."""
    gives: type
    settings: Any = field(default=None, kw_only=True)
    """All that the result depends on besides the input: plain values that JSON takes."""

    @property
    def fingerprint(self) -> str:
        """Hash over name, version, settings and the columns of both records, 16 hex digits."""
        from .records import list_hints

        columns = [
            {name: str(hint) for name, hint in list_hints(kind).items()} for kind in (self.takes, self.gives)
        ]
        described = [self.name, self.version, self.settings, columns]
        return hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Stage(_Described):
    """Work on one record after the other, in batches, by several workers.

    A record that makes the function raise is rejected with the error as its reason and tried again in the
    next run; the other records of its batch are done one by one.
    """

    open_worker: Callable[[], StageFunction] = field(kw_only=True)
    """Makes the function, with its models, once for each worker; pickled to get there."""
    batch_rows: int = field(default=16, kw_only=True)
    gpus: float = field(default=0.0, kw_only=True)
    """GPUs of each worker, for a cluster to place it."""


@dataclass(frozen=True)
class TableStage(_Described):
    """Work that needs all records at once, in the calling process."""

    function: TableFunction = field(kw_only=True)


@dataclass(frozen=True)
class Rejection:
    """A `Rejected` with its place, as it is kept and counted."""

    stage: str
    subject: str
    reason: str
    detail: str
