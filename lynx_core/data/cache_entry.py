"""The bytes of a cache entry: a safetensors document whose header also says what it was made of, and its hash.

The same bytes lie in a file of their own while a preparation makes them, and side by side in a shard afterwards.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import safetensors.torch
from torch import Tensor

from ..foreign_text import parse_json
from ..hashing import hash_tensors, hash_values

_ABOUT = "lynx"
"""One text, since safetensors writes several in any order, and equal entries have equal bytes."""


def name_entry(kind: str, depends_on: Any) -> str:
    """Path of an entry inside the cache."""
    digest = hash_values([kind, depends_on])
    return f"{kind}/{digest[:2]}/{digest}.safetensors"


def encode_entry(tensors: Mapping[str, Tensor], source: str) -> bytes:
    """The bytes of an entry.

    Args:
        source: hash of the file or text that it was made of, 64 hex digits; "" for an entry of no one's.
    """
    about = {"sha256": hash_tensors(tensors), "source": source}
    return safetensors.torch.save(dict(tensors), metadata={_ABOUT: json.dumps(about)})


def decode_entry(raw: bytes) -> dict[str, Tensor] | None:
    """The tensors of an entry, every bit checked; None when it is damaged."""
    try:
        tensors = safetensors.torch.load(raw)
        stored = _read_about(parse_header(raw))["sha256"]
    except (safetensors.SafetensorError, ValueError, KeyError, TypeError):
        return None
    if stored != hash_tensors(tensors):
        return None
    # Copied, since in the file they lie at any address, on which the last bits of matrix products depend.
    return {name: tensor.clone() for name, tensor in tensors.items()}


def parse_header(raw: bytes) -> dict[str, Any]:
    """The header of a safetensors document, by the name of the tensor.

    Raises:
        ValueError: when there is none.
    """
    length = int.from_bytes(raw[:8], "little")
    header = parse_json(raw[8 : 8 + length]) if len(raw) >= 8 + length > 8 else None
    if not isinstance(header, dict):
        raise ValueError("no header of a safetensors file")
    return header


def read_source(header: Mapping[str, Any]) -> str:
    """What the entry of a header was made of, as `encode_entry` took it."""
    try:
        return str(_read_about(header)["source"])
    except (ValueError, KeyError, TypeError):
        return ""


def _read_about(header: Mapping[str, Any]) -> dict[str, str]:
    return dict(parse_json(header["__metadata__"][_ABOUT]))
