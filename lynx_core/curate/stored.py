"""Records of a finished curation, from its work folder alone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TypeVar

import numpy as np

from ..engine.parts import PartsFolder, RecordReader

R = TypeVar("R")


def find_stored(work: Path, stage: str, kind: type[R]) -> Iterator[R]:
    """All records that any version of a stage has left, each content once."""
    seen: set[str] = set()
    for folder in sorted(work.glob(f"{stage}-*")):
        reader = RecordReader(kind)
        index = PartsFolder(folder).read_index()
        for ref in index.refs(index.find_records(np.unique(index.inputs))):
            if ref.key not in seen:
                seen.add(ref.key)
                yield reader.read(ref)
