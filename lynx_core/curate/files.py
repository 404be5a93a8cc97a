"""Files that a curation leaves behind, each written whole or not at all."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..durable_file import write_aside, write_durably


def write_json(path: Path, values: Any) -> None:
    """Write plain values, readable by people in any script."""
    write_durably(path, json.dumps(values, ensure_ascii=False, indent=1).encode("utf-8"))


def write_table(path: Path, rows: Sequence[Mapping[str, Any]], schema: Any) -> None:
    """Write rows as Parquet."""
    import pyarrow
    from pyarrow import parquet

    with write_aside(path) as (aside,):
        table = pyarrow.Table.from_pylist([dict(row) for row in rows], schema)
        parquet.write_table(table, aside, compression="zstd")
