"""Writing whole files: aside, flushed, renamed."""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


def write_whole(path: Path, raw: bytes) -> None:
    """Write a file that is either there whole, or is the one that was there before."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{uuid.uuid4().hex}.part")
    try:
        with aside.open("wb") as file:
            file.write(raw)
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)


def write_json(path: Path, values: Any) -> None:
    """Write plain values, readable by people in any script."""
    write_whole(path, json.dumps(values, ensure_ascii=False, indent=1).encode("utf-8"))


def write_table(path: Path, rows: Sequence[Mapping[str, Any]], schema: Any) -> None:
    """Write rows as Parquet."""
    import pyarrow
    from pyarrow import parquet

    sink = pyarrow.BufferOutputStream()
    parquet.write_table(
        pyarrow.Table.from_pylist([dict(row) for row in rows], schema), sink, compression="zstd"
    )
    write_whole(path, sink.getvalue().to_pybytes())
