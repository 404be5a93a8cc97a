"""The shards of a cache: what is in them, and packing into them what preparations and runs have made.

    shards/NUMBER-MARK.safetensors   entries, about `data.shard_gb` together, see `shard_file`
    shards/index.arrow               where each entry lies, see `shard_index`

An entry is made as a file of its own, so that a kill costs nothing that was finished, and several processes and
machines may write at once. `pack_entries` then moves such files into shards: a shard is written aside, synced and
renamed before its files are deleted, so an entry is always in one place at least, and the disk never holds more than
one shard twice. A shard that the index does not have yet, as after a kill, is known by its own header.
"""

from __future__ import annotations

import logging
import threading
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from filelock import FileLock

from ...buckets import fetched
from ...durable_file import remove_files
from ..errors import DataError, first_line
from .shard_file import SUFFIX, Piece, ShardEntry, read_piece_source, write_shard
from .shard_index import ShardIndex, key_of, make_rows, open_shard_index, sort_rows, write_shard_index
from .shard_storage import ShardFault, ShardStorage, move_shards_in

_logger = logging.getLogger(__name__)

FOLDER = "shards"
INDEX_NAME = "index.arrow"
SHARD_BYTES = 10**9
_MAX_ENTRIES = 1 << 16
"""Of a shard, whose header is limited."""
_TICK_NS = 2_000_000_000
"""Of the coarsest clock of a file system, FAT's."""
_MOST_UNLISTED = 32
"""Shards that may wait for the index; each process reads their headers."""


@dataclass(frozen=True)
class EntryPlace:
    """Where an entry lies."""

    shard: str
    """Name of the file."""
    offset: int
    length: int


class ShardFolder:
    """The shards of a cache as they are read; safe to use from several threads, while another process packs.

    Args:
        root: folder of the cache.
    """

    def __init__(self, root: Path) -> None:
        self.storage = ShardStorage(root / FOLDER)
        self.folder = self.storage.folder
        self.index = ShardIndex.empty()
        self.unlisted: dict[str, list[ShardEntry]] = {}
        """Entries of the shards that the index does not have."""
        self._fresh: dict[bytes, EntryPlace] = {}
        self._using = threading.Lock()
        self.sizes: dict[str, int] = {}
        self._seen_ns = -1
        self.refresh()

    def refresh(self) -> bool:
        """Look for what others have packed; tells whether there may be something new.

        Raises:
            DataError: when the index cannot be read, or the bucket cannot be listed.
        """
        try:
            now_ns = self.folder.stat().st_mtime_ns
        except OSError:
            now_ns = 0
        with self._using:
            if now_ns == self._seen_ns:
                return False
            # A change within one tick of the disk's clock leaves the same time, so a new one is not trusted yet.
            self._seen_ns = now_ns if time.time_ns() - now_ns > _TICK_NS else -1
            self.index = open_shard_index(self.folder / INDEX_NAME)
            listed = self.index.shards
            try:
                self.sizes = self.storage.list_sizes()
            except OSError as error:
                raise DataError(f"{self.storage.url} cannot be listed ({first_line(error)})") from error
            known = {
                name: self.unlisted[name]
                for name in self.unlisted
                if name in self.sizes and name not in listed
            }
            for name in sorted(self.sizes.keys() - listed.keys() - known.keys()):
                try:
                    known[name] = self.storage.read_entries(name)
                except FileNotFoundError:
                    continue
                except (OSError, ValueError) as error:
                    _logger.warning("%s is no whole shard (%s)", self.storage.name(name), first_line(error))
            self.unlisted = dict(sorted(known.items()))
            self._fresh = {
                key_of(entry.name): EntryPlace(name, entry.offset, entry.length)
                for name, entries in self.unlisted.items()
                for entry in entries
            }
        return True

    def find(self, name: str) -> EntryPlace | None:
        """Where an entry lies; None when no shard has it."""
        key = key_of(name)
        found = self._fresh.get(key)
        if found is None and (listed := self.index.find(key)) is not None:
            found = EntryPlace(*listed)
        return found

    def read(self, place: EntryPlace) -> bytes:
        """The bytes of an entry.

        Raises:
            ShardFault: when the shard is gone or ends before.
        """
        with self._using:
            return self.storage.read(
                place.shard, place.offset, place.length, self.index.shards.get(place.shard)
            )

    def find_broken(self) -> list[str]:
        """Names of the shards that are gone, have another size than the index says, or no header."""
        listed = self.index.shards
        lost = [name for name, size in listed.items() if self.sizes.get(name) != size]
        return [*lost, *sorted(self.sizes.keys() - listed.keys() - self.unlisted.keys())]


def open_shards(root: Path) -> str:
    """Ready the shards of a cache for a preparation; gives their generation, another one when entries got lost.

    A shard that is gone is taken out of the index; one that is cut short is quarantined as `NAME.damaged`.

    Raises:
        DataError: when the index cannot be written.
    """
    shards = ShardFolder(root)
    if shards.index.generation and not shards.find_broken():
        return shards.index.generation  # also of a cache that may only be read
    with _changing(root) as folder:
        move_shards_in(ShardStorage(folder))
        shards = ShardFolder(root)
        broken = shards.find_broken()
        listed = shards.index.shards
        lost = [name for name in broken if name in listed]
        for name in broken:
            if name in shards.sizes:
                shards.storage.quarantine(name)
        if lost:
            _logger.warning(
                "%d of %d shards of %s are gone or cut short, first %s: every pair is looked at again",
                len(lost), len(listed), folder, lost[0],
            )  # fmt: skip
        _write_index(folder, shards, dropped=lost, generation="")
        return open_shard_index(folder / INDEX_NAME).generation


def pack_entries(root: Path, shard_bytes: int = SHARD_BYTES, *, whole_only: bool = False) -> int:
    """Move entries that lie in files of their own into shards; gives how many.

    Args:
        shard_bytes: of a shard, about; an entry that is larger has one of its own.
        whole_only: leave what does not fill a shard, for the next time.

    Raises:
        DataError: when the disk is full; everything is still there.
    """
    if not _group(_list_files(root), shard_bytes, whole_only) and (
        whole_only or not ShardFolder(root).unlisted
    ):
        return 0
    with _changing(root) as folder:
        shards = ShardFolder(root)
        count = 0
        for group in _group(_list_files(root), shard_bytes, whole_only):
            # A file whose entry a shard has already is left of a kill, or made by two at once.
            new = [piece for piece in group if not _holds(shards, piece)]
            if new:
                path = folder / _name_next(shards)
                written = {entry.name for entry in write_shard(path, new)}
                if written:
                    shards.storage.hand_in(path.name)
                    shards.sizes[path.name] = 0
                else:
                    path.unlink()
                count += len(written)
                group = [piece for piece in group if piece.name in written or piece not in new]
            remove_files(piece.path for piece in group)
        shards.refresh()
        if shards.unlisted and (not whole_only or len(shards.unlisted) >= _MOST_UNLISTED):
            _write_index(folder, shards, generation=shards.index.generation)
        return count


def rewrite_shards(root: Path, sources: set[str], *, anew: bool = False) -> int:
    """Take the entries out that were made of some files or texts, for good; gives how many.

    A shard is deleted when what stays of it is safe in a new one, and before the index is written: whatever a kill
    leaves, the same call finishes, and no entry that is to go comes back.

    Args:
        sources: hashes, 64 hex digits.
        anew: give the shards another generation, so that a preparation makes again what it needs.

    Raises:
        DataError: when the disk is full.
    """
    gone = [piece.path for piece in _list_files(root) if _source_of(piece) in sources]
    remove_files(gone)
    count = len(gone)
    if not (root / FOLDER).is_dir():
        return count
    with _changing(root) as folder:
        shards = ShardFolder(root)
        for name in _find_holders(shards, sources):
            try:
                entries = shards.storage.read_entries(name)
            except (OSError, ValueError) as error:
                raise DataError(
                    f"{shards.storage.name(name)} cannot be read ({first_line(error)}); run comfy-lynx prepare, and "
                    f"then this again"
                ) from error
            kept = [entry for entry in entries if entry.source not in sources]
            if kept:
                place = folder / _name_next(shards)
                with fetched(folder / name) as file:
                    write_shard(place, [Piece(e.name, file, e.length, e.offset) for e in kept])
                shards.storage.hand_in(place.name)
                shards.sizes[place.name] = 0
            shards.storage.remove(name)
            count += len(entries) - len(kept)
        shards.refresh()
        dropped = [name for name in shards.index.shards if name not in shards.sizes]
        _write_index(folder, shards, dropped=dropped, generation="" if anew else shards.index.generation)
    return count


def _find_holders(shards: ShardFolder, sources: set[str]) -> list[str]:
    """Names of the shards that hold an entry of these sources."""
    found = {name for name, entries in shards.unlisted.items() if any(e.source in sources for e in entries)}
    rows = shards.index.rows()
    wanted = np.array([bytes.fromhex(source) for source in sources], "S32")
    names = list(shards.index.shards)
    held = np.unique(rows["shard"][np.isin(rows["source"], wanted)])
    found |= {names[number] for number in held if names[number] in shards.sizes}
    return sorted(found)


def _source_of(piece: Piece) -> str:
    try:
        return read_piece_source(piece)
    except (OSError, ValueError):
        return ""


@contextmanager
def _changing(root: Path) -> Iterator[Path]:
    """Hold the shards of a cache, so that one process at a time changes them; gives their folder.

    Raises:
        DataError: when they cannot be written.
    """
    folder = root / FOLDER
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / ".lock"):
            for left in folder.glob(".*.part"):  # of a process that was killed; nobody else writes here now
                left.unlink(missing_ok=True)
            yield folder
    except OSError as error:
        raise DataError(
            f"the shards in {folder} cannot be written ({first_line(error)}); free some space, and run comfy-lynx "
            f"prepare again: nothing is lost"
        ) from error


def _write_index(folder: Path, shards: ShardFolder, *, dropped: Sequence[str] = (), generation: str) -> None:
    listed = shards.index.shards
    kept = {name: size for name, size in listed.items() if name not in dropped}
    sizes = kept | {name: shards.sizes[name] for name in shards.unlisted}
    numbers = {name: number for number, name in enumerate(sizes)}
    rows = [make_rows(entries, numbers[name]) for name, entries in shards.unlisted.items()]
    old = shards.index.rows()
    old["shard"] = np.array([numbers.get(name, -1) for name in listed], np.int32)[old["shard"]]
    every = np.concatenate([old[old["shard"] >= 0], *rows])
    write_shard_index(folder / INDEX_NAME, sort_rows(every), sizes, generation)


def _list_files(root: Path) -> list[Piece]:
    """The entries that lie in files of their own."""
    found = []
    for path in sorted(root.glob(f"[!.]*/[0-9a-f][0-9a-f]/[!.]*{SUFFIX}")):
        size = _size(path)
        if size:
            found.append(Piece(path.relative_to(root).as_posix(), path, size))
    return found


def _group(pieces: Sequence[Piece], shard_bytes: int, whole_only: bool) -> list[list[Piece]]:
    groups: list[list[Piece]] = []
    total = shard_bytes
    for piece in pieces:
        if total + piece.length > shard_bytes or len(groups[-1]) >= _MAX_ENTRIES:
            groups.append([])
            total = 0
        groups[-1].append(piece)
        total += piece.length
    return groups[:-1] if whole_only else groups


def _holds(shards: ShardFolder, piece: Piece) -> bool:
    """Whether a shard has the same bytes; those of a damaged one, or of another machine's rounding, differ."""
    place = shards.find(piece.name)
    try:
        return place is not None and shards.read(place) == piece.read(0, piece.length)
    except (ShardFault, OSError):
        return False


def _name_next(shards: ShardFolder) -> str:
    """A name after all others, and one that no other machine gives."""
    numbers = [int(name[:6]) for name in (*shards.sizes, *shards.index.shards) if name[:6].isdigit()]
    return f"{max(numbers, default=-1) + 1:06d}-{uuid.uuid4().hex[:8]}{SUFFIX}"


def _size(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except OSError:
        return None
