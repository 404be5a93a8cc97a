"""SHA-256 of whole files, texts and plain values: what a row of the ledger is traced back by."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

_CHUNK_BYTES = 1 << 20


def hash_bytes(path: Path) -> str:
    """Of all bytes of a file, 64 hex digits.

    Raises:
        OSError: when it cannot be read.
    """
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def hash_text(text: str) -> str:
    """Of the UTF-8 bytes of a text."""
    return hashlib.sha256(text.encode()).hexdigest()


def hash_values(values: Any) -> str:
    """Of plain values (numbers, texts, None, lists, tables): equal values, equal hash."""
    return hash_text(json.dumps(values, sort_keys=True, ensure_ascii=True))
