"""Where the shards of a cache lie: in a folder, mapped into memory, or in a bucket, read by ranges of bytes."""

from __future__ import annotations

import contextlib
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from ...buckets import ask, list_files, read_range, remove_file, upload, url_of
from ...spec import LynxError
from ..errors import DataError, first_line
from .shard_file import SUFFIX, MappedShard, ShardEntry, read_entries

_OPEN_SHARDS = 64


class ShardFault(LynxError):
    """An entry that its shard does not give; the text names the shard and what is wrong."""


class ShardStorage:
    """The files of a folder of shards.

    Args:
        folder: where new shards are written; its place may stand for one in a bucket, into which they then go.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.url = url_of(folder)
        self._mapped: OrderedDict[str, MappedShard] = OrderedDict()

    def list_sizes(self) -> dict[str, int]:
        """Name and bytes of each shard.

        Raises:
            OSError: when the bucket cannot be listed.
        """
        found = {}
        for path in self.folder.glob(f"[!.]*{SUFFIX}"):
            with contextlib.suppress(FileNotFoundError):
                found[path.name] = path.stat().st_size
        remote = {} if self.url is None else list_files(self.url)
        return {name: file.size_bytes for name, file in remote.items() if name.endswith(SUFFIX)} | found

    def name(self, shard: str) -> str:
        """As a person would look for it."""
        path = self.folder / shard
        return str(path) if self.url is None or path.exists() else f"{self.url}/{shard}"

    @contextlib.contextmanager
    def _open(self, shard: str) -> Iterator[IO[bytes]]:
        path = self.folder / shard
        if self.url is None or path.exists():
            with path.open("rb") as file:
                yield file
        else:
            with ask(f"{self.url}/{shard}", lambda system, key: system.open(key, "rb")) as file:
                yield file

    def read_entries(self, shard: str) -> list[ShardEntry]:
        """What a shard holds.

        Raises:
            OSError, ValueError: when it is no whole shard.
        """
        with self._open(shard) as file:
            return read_entries(file)

    def read(self, shard: str, offset: int, length: int, whole: int | None) -> bytes:
        """Some bytes of a shard.

        Args:
            whole: bytes that it should have.

        Raises:
            ShardFault: when it is gone or ends before.
            DataError: when its server does not answer.
        """
        try:
            if self.url is None or (self.folder / shard).exists():
                mapped = self._map(shard)
                raw, size = mapped.read(offset, length), mapped.num_bytes
            else:
                raw = read_range(f"{self.url}/{shard}", offset, length)
                size = offset + len(raw)
        except (FileNotFoundError, ValueError) as error:  # an empty file cannot be mapped
            said = "is missing" if isinstance(error, FileNotFoundError) else f"cannot be read ({error})"
            raise ShardFault(f"the shard {self.name(shard)} {said}; run comfy-lynx prepare") from error
        except OSError as error:
            raise DataError(
                f"the shard {self.name(shard)} cannot be read ({first_line(error)}); the same command resumes"
            ) from error
        if len(raw) != length:
            expected = whole or f"{offset + length} or more"
            raise ShardFault(
                f"the shard {self.name(shard)} has {size} bytes instead of {expected}; run comfy-lynx prepare"
            )
        return raw

    def _map(self, shard: str) -> MappedShard:
        if shard not in self._mapped:
            self._mapped[shard] = MappedShard(self.folder / shard)
            if len(self._mapped) > _OPEN_SHARDS:
                self._mapped.popitem(last=False)
        self._mapped.move_to_end(shard)
        return self._mapped[shard]

    def hand_in(self, shard: str) -> None:
        """Bring a shard that was written here to where it belongs.

        Raises:
            OSError: when the bucket does not take it; it stays here.
        """
        if self.url is not None:
            path = self.folder / shard
            upload(path, f"{self.url}/{shard}")
            path.unlink()

    def quarantine(self, shard: str) -> None:
        """Name a shard that is not whole `NAME.damaged`.

        Raises:
            OSError: as the system says.
        """
        path = self.folder / shard
        if path.exists():
            path.replace(path.with_name(f"{shard}.damaged"))
        elif self.url is not None:
            ask(f"{self.url}/{shard}", lambda system, key: system.mv(key, f"{key}.damaged"))

    def remove(self, shard: str) -> None:
        """Delete a shard.

        Raises:
            OSError: as the system says.
        """
        (self.folder / shard).unlink(missing_ok=True)
        if self.url is not None:
            remove_file(f"{self.url}/{shard}")


def move_shards_in(storage: ShardStorage) -> None:
    """Hand in what a killed process has left here.

    Raises:
        OSError: as the system says.
    """
    if storage.url is not None:
        for path in storage.folder.glob(f"[!.]*{SUFFIX}"):
            storage.hand_in(path.name)
