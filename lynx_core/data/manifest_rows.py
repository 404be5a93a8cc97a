"""The rows of a manifest file, JSONL or Parquet, as plain values: here or in a bucket, whatever program wrote them."""

from __future__ import annotations

import importlib
import math
from collections.abc import Iterator, Mapping
from decimal import Decimal
from pathlib import Path
from typing import IO, Any

from ..buckets import fetched, url_of
from ..foreign_text import parse_json
from ..spec import LynxError
from .errors import DataError, first_line
from .text_files import find_encoding

_PARQUET_ROWS = 4096
_AROUND_TEXT = "\ufeff\r\n"


class BadRow(LynxError):
    """A row that cannot be used."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(reason, detail)
        self.reason = reason
        self.detail = detail


Rows = Iterator[tuple[int, "dict[str, Any] | BadRow"]]


def read_rows(path: Path) -> Rows:
    """Line, from 1, and values of each row.

    Raises:
        DataError: when the file is none of the two, or cannot be read.
    """
    readers = {".parquet": _read_parquet, ".jsonl": _read_jsonl}
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise DataError(f"{path.name} is no manifest: expected a name that ends in .parquet or .jsonl")
    try:
        with fetched(path) as file:
            yield from reader(file)
    except OSError as error:
        raise DataError(
            f"the manifest {url_of(path) or path} cannot be read ({first_line(error)})"
        ) from error


def _read_jsonl(path: Path) -> Rows:
    try:
        with path.open("rb") as file:
            encoding = find_encoding(file.read(4))
        # Read as bytes where it can be, so that one line of bad bytes is one bad row.
        is_utf8 = encoding.startswith("utf-8")
        lines: IO[Any] = path.open("rb") if is_utf8 else path.open(encoding=encoding)
        with lines:
            for line, raw in enumerate(lines, start=1):
                if raw.strip():
                    yield line, _parse_json(raw)
    except UnicodeError as error:
        raise DataError(f"{path} is not in the {encoding} that it begins with; save it in UTF-8") from error
    except OSError as error:
        raise DataError(f"{path} cannot be read ({first_line(error)})") from error


def _parse_json(raw: bytes | str) -> dict[str, Any] | BadRow:
    try:
        row = parse_json(raw.decode("utf-8-sig") if isinstance(raw, bytes) else raw)
    except (ValueError, RecursionError) as error:
        return BadRow("unreadable row", f"{first_line(error)}; write one JSON object a line")
    if isinstance(row, dict):
        return _clean_row(row)
    return BadRow("unreadable row", f"a {type(row).__name__} instead of an object")


def _read_parquet(path: Path) -> Rows:
    try:
        pyarrow: Any = importlib.import_module("pyarrow")
        parquet: Any = importlib.import_module("pyarrow.parquet")
    except ImportError as error:
        raise DataError(
            "Parquet needs the package pyarrow: python -m pip install pyarrow, or write the manifest as .jsonl"
        ) from error
    line = 0
    try:
        with parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=_PARQUET_ROWS):
                for position in range(batch.num_rows):
                    line += 1
                    yield line, _parquet_row(batch, position)
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(
            f"{path} cannot be read as Parquet beyond row {line} ({first_line(error)}); write it again"
        ) from error


def _parquet_row(batch: Any, position: int) -> dict[str, Any] | BadRow:
    try:
        values = (column[position].as_py() for column in batch.columns)
        return _clean_row(dict(zip(batch.schema.names, values, strict=True)))
    except (ValueError, OverflowError) as error:  # text that is no UTF-8, dates out of range
        return BadRow("unreadable row", first_line(error))


def _clean_row(row: Mapping[Any, Any]) -> dict[str, Any]:
    """The values of a row without the traces of the program that wrote them."""
    return {str(name).strip(_AROUND_TEXT): _clean_value(value) for name, value in row.items()}


def _clean_value(value: Any) -> Any:
    if isinstance(value, str):
        return value.strip(_AROUND_TEXT)
    if isinstance(value, (list, tuple)):
        return [_clean_value(entry) for entry in value]
    if isinstance(value, Decimal):
        value = int(value) if value.is_finite() and value == value.to_integral_value() else float(value)
    return None if isinstance(value, float) and math.isnan(value) else value
