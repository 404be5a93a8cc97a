"""A real file that mutations start from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Seed:
    """A real file, and how it is named."""

    name: str
    raw: bytes = field(repr=False)


def saved(folder: Path, name: str, write: Callable[[Path], object]) -> Seed:
    path = folder / name
    write(path)
    raw = path.read_bytes()
    path.unlink()
    return Seed(name, raw)
