"""Tensors that are expensive to make, cached as safetensors files under the hash of all they depend on.

The name of an entry comes from contents and settings, never from a file's name, so two sources called
alike do not collide and a changed source or encoder finds no stale entry. An entry is written to the
side, synced and renamed: a kill leaves either none or a whole one. Its own hash stands in its header;
a damaged entry is recognised when it is read, and made again.
"""

from __future__ import annotations

import errno
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
from torch import Tensor

from ..durable_file import write_durably
from ..foreign_text import parse_json
from ..hashing import hash_tensors, hash_values
from .errors import DataError, first_line

_DIGEST = "sha256"


@dataclass
class CacheCounts:
    """What a cache has done since it was opened."""

    reused: int = 0
    made: int = 0
    damaged: int = 0
    """Entries that were found damaged; each was made again."""
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
        self, kind: str, depends_on: Any, make: Callable[[], dict[str, Tensor]]
    ) -> dict[str, Tensor]:
        """The tensors of an entry, from disk or from `make`.

        Args:
            kind: such as "latents"; a folder of the cache.
            depends_on: plain values, all that the tensors depend on.
            make: makes the tensors, on the CPU.

        Raises:
            DataError: when the cache cannot be written, as on a full disk.
        """
        name = name_entry(kind, depends_on)
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
                f"the cache entry {path} cannot be read ({first_line(error)}); repair or empty the cache folder"
            ) from error
        try:
            tensors = safetensors.torch.load(raw)
            stored = _read_digest(raw)
        except (safetensors.SafetensorError, ValueError, KeyError):
            stored, tensors = None, {}
        if stored is None or stored != hash_tensors(tensors):
            self._count(damaged=1)
            return None
        # Copied, since in the file they lie at any address, on which the last bits of matrix products depend.
        return {name: tensor.clone() for name, tensor in tensors.items()}

    def write(self, name: str, tensors: Mapping[str, Tensor]) -> None:
        """Keep the tensors of an entry.

        Raises:
            DataError: when that fails; nothing is left behind.
        """
        if self.root is None:
            return
        path = self.root / name
        raw = safetensors.torch.save(dict(tensors), metadata={_DIGEST: hash_tensors(tensors)})
        try:
            write_durably(path, raw)
        except OSError as error:
            full = "; the disk is full, free some space" if error.errno == errno.ENOSPC else ""
            raise DataError(
                f"the cache entry {path} cannot be written ({first_line(error)}){full}; or name another cache "
                "folder, or train without a cache"
            ) from error
        self._count(written_bytes=len(raw))

    def take_counts(self) -> CacheCounts:
        """Give the counts, and begin again from zero."""
        with self._counting:
            counts, self.counts = self.counts, CacheCounts()
        return counts

    def _count(self, **more: int) -> None:
        with self._counting:
            for name, number in more.items():
                setattr(self.counts, name, getattr(self.counts, name) + number)


def name_entry(kind: str, depends_on: Any) -> str:
    """Path of an entry inside the cache."""
    digest = hash_values([kind, depends_on])
    return f"{kind}/{digest[:2]}/{digest}.safetensors"


def _read_digest(raw: bytes) -> str:
    length = int.from_bytes(raw[:8], "little")
    return str(parse_json(raw[8 : 8 + length])["__metadata__"][_DIGEST])
