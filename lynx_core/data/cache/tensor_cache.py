"""Tensors that are expensive to make, cached as safetensors under the hash of all they depend on.

The name of an entry comes from contents and settings, never from a file's name, so two sources called
alike do not collide and a changed source or encoder finds no stale entry. An entry is written to the
side, synced and renamed: a kill leaves either none or a whole one. `prepare` moves entries into shards.
An entry is a safetensors document whose header also says what it was made of, and its hash; a damaged one is recognised when it is read, and made again.
"""

from __future__ import annotations

import errno
import json
import logging
import threading
import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
from torch import Tensor

from ...durable_file import write_durably
from ...hashing import hash_tensors, hash_values
from ..errors import DataError, MediaError, first_line
from .shard_file import ABOUT, parse_header, read_about
from .shard_storage import ShardFault
from .shards import ShardFolder

_logger = logging.getLogger(__name__)


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
        self._making: weakref.WeakValueDictionary[str, threading.Lock] = weakref.WeakValueDictionary()
        self._shards = None if root is None else ShardFolder(root)
        self._faults: dict[str, str] = {}

    def get_or_make(
        self, kind: str, depends_on: Any, make: Callable[[], dict[str, Tensor]], source: str = ""
    ) -> dict[str, Tensor]:
        """The tensors of an entry, from disk or from `make`. Threads that ask for one at a time make it once.

        Args:
            kind: such as "latents"; a folder of the cache.
            depends_on: plain values, all that the tensors depend on.
            make: makes the tensors, on the CPU; may ask for entries that this one depends on.
            source: hash of the file or text that they are made of; by it they are found when it is to be forgotten.

        Raises:
            DataError: when the cache cannot be written, as on a full disk.
        """
        name = name_entry(kind, depends_on)
        with self._counting:
            lock = self._making.setdefault(name, threading.Lock())
        with lock:
            found = self.read(name)
            if found is not None:
                self._count(reused=1)
                return found
            return self._make(name, make, source)

    def _make(self, name: str, make: Callable[[], dict[str, Tensor]], source: str) -> dict[str, Tensor]:
        try:
            made = make()
        except MediaError as error:
            if name in self._faults:
                raise MediaError(error.path, error.reason, f"{error.detail}; {self._faults[name]}") from error
            raise
        tensors = {key: tensor.detach().cpu().contiguous() for key, tensor in made.items()}
        self._count(made=1)
        self.write(name, tensors, source)
        return tensors

    def read(self, name: str) -> dict[str, Tensor] | None:
        """The tensors of an entry, or None when it is missing or damaged.

        Raises:
            DataError: when it is there but cannot be read.
        """
        if self.root is None or self._shards is None:
            return None
        is_damaged = False
        for read in (self._read_shard, self._read_file, self._read_again):
            raw = read(name)
            tensors = None if raw is None else decode_entry(raw)
            if tensors is not None:
                return tensors
            is_damaged |= raw is not None
        if is_damaged:
            self._count(damaged=1)
        return None

    def _read_shard(self, name: str) -> bytes | None:
        assert self._shards is not None
        place = self._shards.find(name)
        try:
            return None if place is None else self._shards.read(place)
        except ShardFault as fault:
            if str(fault) not in self._faults.values():
                _logger.warning("%s; until then its entries are made anew", fault)
            self._faults[name] = str(fault)
            return b""

    def _read_file(self, name: str) -> bytes | None:
        assert self.root is not None
        path = self.root / name
        try:
            return path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise DataError(
                f"the cache entry {path} cannot be read ({first_line(error)}); repair or empty the cache folder"
            ) from error

    def _read_again(self, name: str) -> bytes | None:
        """Another process may have moved it into a shard in between."""
        assert self._shards is not None
        return self._read_shard(name) if self._shards.refresh() else None

    def write(self, name: str, tensors: Mapping[str, Tensor], source: str = "") -> None:
        """Keep the tensors of an entry.

        Raises:
            DataError: when that fails; nothing is left behind.
        """
        if self.root is None:
            return
        path = self.root / name
        raw = encode_entry(tensors, source)
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


def encode_entry(tensors: Mapping[str, Tensor], source: str) -> bytes:
    """The bytes of an entry.

    Args:
        source: hash of the file or text that it was made of, 64 hex digits; "" for an entry of no one's.
    """
    about = {"sha256": hash_tensors(tensors), "source": source}
    return safetensors.torch.save(dict(tensors), metadata={ABOUT: json.dumps(about)})


def decode_entry(raw: bytes) -> dict[str, Tensor] | None:
    """The tensors of an entry, every bit checked; None when it is damaged."""
    try:
        tensors = safetensors.torch.load(raw)
        stored = read_about(parse_header(raw))["sha256"]
    except (safetensors.SafetensorError, ValueError, KeyError, TypeError):
        return None
    if stored != hash_tensors(tensors):
        return None
    # Copied, since in the file they lie at any address, on which the last bits of matrix products depend.
    return {name: tensor.clone() for name, tensor in tensors.items()}
