"""Tensors that are dear to make, kept as safetensors files under the hash of all they depend on.

The name of an entry comes from contents and settings, never from a file's name, so two sources called
alike do not collide and a changed source or encoder finds no stale entry. An entry is written to the
side, synced and renamed: a kill leaves either none or a whole one. Its own hash stands in its header;
a damaged entry is told from it when read, and made anew.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import threading
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from .errors import DataError, first_line
from .hashing import hash_values

_DIGEST = "sha256"


@dataclass
class CacheCounts:
    """What a cache has done since it was opened."""

    reused: int = 0
    made: int = 0
    damaged: int = 0
    """Entries that were found damaged; each was made anew."""
    written_bytes: int = 0


class TensorCache:
    """Entries by name, safe to use from several threads and processes.

    Args:
        root: its folder; None keeps nothing, and everything is made each time it is asked for.
    """

    def __init__(self, root: Path | None) -> None:
        self.root = root
        self.counts = CacheCounts()
        self._counting = threading.Lock()

    def get_or_make(
        self, sort: str, depends_on: Any, make: Callable[[], dict[str, Tensor]]
    ) -> dict[str, Tensor]:
        """The tensors of an entry, from disk or from `make`.

        Args:
            sort: as "latents"; a folder of the cache.
            depends_on: plain values, all that the tensors depend on.
            make: makes the tensors, on the CPU.

        Raises:
            DataError: when the cache cannot be written, as on a full disk.
        """
        name = name_entry(sort, depends_on)
        found = self.read(name)
        if found is not None:
            self._count(reused=1)
            return found
        tensors = {key: tensor.detach().cpu().contiguous() for key, tensor in make().items()}
        self._count(made=1)
        self.write(name, tensors)
        return tensors

    def read(self, name: str) -> dict[str, Tensor] | None:
        """The tensors of an entry, or None when it is missing or damaged."""
        if self.root is None:
            return None
        path = self.root / name
        try:
            raw = path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise DataError(
                f"the cache entry {path} cannot be read ({first_line(error)}); mend or empty the cache folder"
            ) from error
        try:
            tensors = safetensors.torch.load(raw)
            stored = _read_digest(raw)
        except (safetensors.SafetensorError, ValueError, KeyError):
            stored, tensors = None, {}
        if stored is None or stored != _digest(tensors):
            self._count(damaged=1)
            return None
        return tensors

    def write(self, name: str, tensors: Mapping[str, Tensor]) -> None:
        """Keep the tensors of an entry.

        Raises:
            DataError: when that fails; nothing is left behind.
        """
        if self.root is None:
            return
        path = self.root / name
        raw = safetensors.torch.save(dict(tensors), metadata={_DIGEST: _digest(tensors)})
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_durably(path, raw)
        except OSError as error:
            full = "; the disk is full, free some space" if error.errno == errno.ENOSPC else ""
            raise DataError(
                f"the cache entry {path} cannot be written ({first_line(error)}){full}; or name another cache "
                "folder, or train without a cache"
            ) from error
        self._count(written_bytes=len(raw))

    def _count(self, **more: int) -> None:
        with self._counting:
            for name, number in more.items():
                setattr(self.counts, name, getattr(self.counts, name) + number)


def name_entry(sort: str, depends_on: Any) -> str:
    """Path of an entry inside the cache."""
    digest = hash_values([sort, depends_on])
    return f"{sort}/{digest[:2]}/{digest}.safetensors"


def write_durably(path: Path, raw: bytes) -> None:
    """Write a file to the side, sync it, and rename it into place; its mode is that of any new file.

    Raises:
        OSError: as the system says; the file to the side is removed.
    """
    # Not tempfile's, whose files only their owner may read: a cache is shared.
    side = path.with_name(f".{path.name[:16]}.{uuid.uuid4().hex}.part")
    try:
        with side.open("xb") as file:
            file.write(raw)
            file.flush()
            os.fsync(file.fileno())
        side.replace(path)
    except BaseException:
        side.unlink(missing_ok=True)
        raise
    if os.name == "posix":
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def _digest(tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)};".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _read_digest(raw: bytes) -> str:
    length = int.from_bytes(raw[:8], "little")
    return str(json.loads(raw[8 : 8 + length])["__metadata__"][_DIGEST])
