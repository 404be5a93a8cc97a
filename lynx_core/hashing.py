"""Content hashes: names of cache entries, and fingerprints that show when something has changed.

A large file is told by its size and samples of its bytes. Reading 1 MiB instead of whole videos keeps
the start of a run short; a change that keeps the size and misses every piece goes unseen (re-encoding
never does, flipping single bytes of a large file may).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

WHOLE_FILE_BYTES = 4 << 20
"""Files up to this size are hashed whole by `hash_file`."""
_PIECE_BYTES = 64 << 10
_NUM_PIECES = 16
_CHUNK_BYTES = 16 << 20


def hash_file(path: Path) -> str:
    """Hash size and sampled bytes, 64 hex digits; the name and date play no part.

    Raises:
        OSError: when the file cannot be read.
    """
    size = path.stat().st_size
    digest = hashlib.sha256(str(size).encode())
    if size <= WHOLE_FILE_BYTES:
        digest.update(path.read_bytes())
    else:
        add_file_samples(digest, path, _NUM_PIECES, _PIECE_BYTES)
    return digest.hexdigest()


def hash_files(paths: Iterable[Path]) -> str:
    """Hash the names and contents of files, in the order of their names."""
    return hash_values([(path.name, hash_file(path)) for path in sorted(paths, key=lambda p: p.name)])


def hash_every_byte(path: Path) -> str:
    """Give a file's sha256, as `sha256sum` prints it.

    Raises:
        OSError: when the file cannot be read.
    """
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def add_file_samples(digest: hashlib._Hash, path: Path, num_pieces: int, piece_bytes: int) -> None:
    """Add pieces of a file that lie evenly over it, first and last included, to a hash.

    Raises:
        OSError: when the file cannot be read.
    """
    last = max(0, path.stat().st_size - piece_bytes)
    with path.open("rb") as file:
        for piece in range(num_pieces):
            file.seek(last * piece // (num_pieces - 1))
            digest.update(file.read(piece_bytes))


def hash_values(values: Any) -> str:
    """Hash plain values (numbers, strings, None, lists, dicts): equal values, equal hash."""
    return hashlib.sha256(json.dumps(values, sort_keys=True, ensure_ascii=True).encode()).hexdigest()


def hash_tensors(tensors: Mapping[str, Tensor]) -> str:
    """Hash names, dtypes, shapes and every bit of some tensors; some 20 s for 28 GB."""
    import torch  # not at the top: comfy-lynx download does without

    digest = hashlib.sha256()
    for name in sorted(tensors):
        for leaf in _plain_tensors(tensors[name].detach()):
            digest.update(f"{name} {leaf.dtype} {tuple(leaf.shape)};".encode())
            digest.update(leaf.cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _plain_tensors(tensor: Tensor) -> Sequence[Tensor]:
    """The plain tensors that a tensor subclass, such as torchao's quantised ones, is made of."""
    flatten = getattr(tensor, "__tensor_flatten__", None)
    if flatten is None:
        return (tensor,)
    names, _ = flatten()
    return [leaf for name in names for leaf in _plain_tensors(getattr(tensor, name))]
