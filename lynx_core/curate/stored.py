"""Records of a finished curation, from its work folder alone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TypeVar

from ..engine.parts import PartsFolder, RecordReader, RowRef

R = TypeVar("R")


def find_stored(work: Path, stage: str, kind: type[R]) -> Iterator[R]:
    """All records that any version of a stage has left, each content once."""
    seen: set[str] = set()
    for folder in sorted(work.glob(f"{stage}-*")):
        reader = RecordReader(kind)
        for outcome in PartsFolder(folder).read_index().values():
            for row, key in zip(outcome.rows, outcome.keys, strict=True):
                if key is not None and key not in seen:
                    seen.add(key)
                    yield reader.read(RowRef(key, outcome.part, row))
