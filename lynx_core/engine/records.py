"""Rows as frozen dataclasses, and the Parquet columns they become.

A field's type hint is its column: str, int, float, bool, bytes, `X | None`, `tuple[X, ...]`, another
dataclass, and np.ndarray for a vector of float32. A table may be read as a class with fewer fields than
the one it was written with; the other columns are then not read at all.
"""

from __future__ import annotations

import dataclasses
import hashlib
import struct
import types
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

import numpy as np

R = TypeVar("R")

KEY_BYTES = 16
"""Of the hash of a record."""


def list_hints(kind: Any) -> dict[str, Any]:
    """Field name to type hint of a record class."""
    return _read_hints(kind)


@cache
def _read_hints(kind: Any) -> dict[str, Any]:
    hints = get_type_hints(kind)
    return {field.name: hints[field.name] for field in dataclasses.fields(kind)}


def arrow_fields(kind: type) -> list[Any]:
    """The columns of a record class, as pyarrow fields."""
    import pyarrow

    return [pyarrow.field(name, _arrow_type(hint)) for name, hint in list_hints(kind).items()]


def _arrow_type(hint: Any) -> Any:
    import pyarrow

    plain = {
        str: pyarrow.string(),
        int: pyarrow.int64(),
        float: pyarrow.float64(),
        bool: pyarrow.bool_(),
        bytes: pyarrow.large_binary(),
        np.ndarray: pyarrow.list_(pyarrow.float32()),
    }
    if hint in plain:
        return plain[hint]
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return _arrow_type(next(kind for kind in arguments if kind is not type(None)))
    if origin is tuple:
        return pyarrow.list_(_arrow_type(arguments[0]))
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return pyarrow.struct(arrow_fields(hint))
    raise TypeError(f"no Parquet column is known for {hint!r}")


def as_row(record: Any) -> dict[str, Any]:
    """A record as plain values, by column."""
    return {name: _as_plain(getattr(record, name)) for name in list_hints(type(record))}


def _as_plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        return as_row(value)
    if isinstance(value, tuple):
        return [_as_plain(entry) for entry in value]
    if isinstance(value, np.ndarray):
        return np.asarray(value, np.float32)
    return value


def from_row(kind: type[R], row: Mapping[str, Any]) -> R:
    """The record of a row that holds at least its columns."""
    return kind(**{name: _from_plain(hint, row[name]) for name, hint in list_hints(kind).items()})


def _from_plain(hint: Any, value: Any) -> Any:
    if value is None:
        return None
    if hint is np.ndarray:
        return np.asarray(value, np.float32)
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return _from_plain(next(kind for kind in arguments if kind is not type(None)), value)
    if origin is tuple:
        return tuple(_from_plain(arguments[0], entry) for entry in value)
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return from_row(hint, value)
    return value


def hash_record(record: Any) -> str:
    """Hash over the values of a record, 32 hex digits; equal records of one class have equal hashes."""
    digest = hashlib.blake2b(digest_size=KEY_BYTES)
    _feed(digest, record)
    return digest.hexdigest()


def hash_texts(texts: Sequence[str]) -> str:
    """Hash over texts in their order, 32 hex digits."""
    digest = hashlib.blake2b(digest_size=KEY_BYTES)
    for text in texts:
        _feed(digest, text)
    return digest.hexdigest()


def _feed(digest: Any, value: Any) -> None:
    """Each value goes in with its kind and length, so that no two different rows feed the same bytes."""
    if dataclasses.is_dataclass(value):
        names = list_hints(type(value))
        digest.update(b"R%d" % len(names))
        for name in names:
            _feed(digest, getattr(value, name))
    elif isinstance(value, tuple):
        digest.update(b"T%d;" % len(value))
        for entry in value:
            _feed(digest, entry)
    elif isinstance(value, np.ndarray):
        _feed(digest, np.ascontiguousarray(value, np.float32).tobytes())
    elif isinstance(value, (bytes, str)):
        raw = value if isinstance(value, bytes) else value.encode("utf-8", "surrogatepass")
        digest.update(b"%c%d;" % (b"B" if isinstance(value, bytes) else b"S", len(raw)) + raw)
    elif isinstance(value, float):
        digest.update(b"F" + struct.pack("<d", value))
    else:
        digest.update(repr(value).encode() + b";")
