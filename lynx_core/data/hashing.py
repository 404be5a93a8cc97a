"""Content hashes: names of cache entries, and fingerprints that show when something has changed.

A media file is told by its size and samples of its bytes: all of it up to 4 MiB, beyond that 16
pieces of 64 KiB, first and last included. Reading 1 MiB instead of whole videos keeps the start of a
run short; a change that keeps the size and misses every piece goes unseen (re-encoding never does,
flipping single bytes of a large file may).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

WHOLE_FILE_BYTES = 4 << 20
PIECE_BYTES = 64 << 10
NUM_PIECES = 16


def hash_file(path: Path) -> str:
    """Hash over size and sampled bytes, 64 hex digits; the name and date play no part.

    Raises:
        OSError: when the file cannot be read.
    """
    size = path.stat().st_size
    digest = hashlib.sha256(str(size).encode())
    with path.open("rb") as file:
        if size <= WHOLE_FILE_BYTES:
            digest.update(file.read())
        else:
            for piece in range(NUM_PIECES):
                file.seek((size - PIECE_BYTES) * piece // (NUM_PIECES - 1))
                digest.update(file.read(PIECE_BYTES))
    return digest.hexdigest()


def hash_files(paths: Iterable[Path]) -> str:
    """One hash over the names and contents of files, in the order of their names."""
    return hash_values([(path.name, hash_file(path)) for path in sorted(paths, key=lambda p: p.name)])


def hash_values(values: Any) -> str:
    """Hash of plain values (numbers, strings, None, lists, dicts): equal values, equal hash."""
    return hashlib.sha256(json.dumps(values, sort_keys=True, ensure_ascii=True).encode()).hexdigest()
