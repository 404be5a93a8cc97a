"""Files in buckets as local files: s3://, gs://, hf:// and whatever else fsspec opens, with an LRU cache on the disk.

An address has a place under a folder of this machine, `LYNX_BUCKET_CACHE` (`~/.cache/comfy-lynx`):

    buckets/files/s3/studio/set/a.mp4    of s3://studio/set/a.mp4; fetched when it is opened, and dropped when the files
                                         that were not opened for longest have to make room (`LYNX_BUCKET_CACHE_GB`, 50)
    buckets/work/s3/studio/cache/        what belongs into s3://studio/cache and is still being made; stays

A path there is its address, so code that knows paths needs to know no more than `fetched`. Credentials and endpoints
are those of the environment (`AWS_PROFILE`, `AWS_ENDPOINT_URL`). A server that is slow, busy or drops a connection is
asked again for about a minute.
"""

from __future__ import annotations

import contextlib
import errno
import importlib
import os
import re
import shutil
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

from .durable_file import write_aside
from .spec import LynxError, first_line

_Result = TypeVar("_Result")

_URL = re.compile(r"^([a-z][a-z0-9+.-]+):/+(.*)$", re.DOTALL)
_MOUNT, _FILES, _WORK, _LEASES = "buckets", "files", "work", ".leases"
_RETRY_S = (0.2, 1.0, 3.0, 8.0, 15.0, 30.0)
_FINAL = (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError, ImportError)
_LEFT_S = 24 * 3600
"""After which what a killed process has opened is dropped."""


class BucketError(LynxError):
    """A bucket that cannot be used; names the address, what was seen and the way out."""


@dataclass(frozen=True)
class RemoteFile:
    """What a bucket says of a file."""

    size_bytes: int
    modified_ns: int

    def is_at(self, path: Path) -> bool:
        """Whether a file here is this one, by size and time."""
        try:
            now = path.stat()
        except OSError:
            return False
        return (now.st_size, now.st_mtime_ns) == (self.size_bytes, self.modified_ns)


def is_url(text: str) -> bool:
    """Whether a text is an address and no path; `C:/data` is a path."""
    return "://" in text and _URL.match(text) is not None


def written_url(path: Path) -> str | None:
    """The address that was read as a path, which makes `s3:/bucket` of it; None for a path."""
    match = _URL.match(path.as_posix())
    return None if match is None else f"{match[1]}://{match[2]}"


def place_of(url: str, *, stays: bool = False) -> Path:
    """The path of an address on this machine; `file://` is the file itself.

    Args:
        stays: no copy for reading, which may be dropped, but what is to be written there.
    """
    match = _URL.match(url)
    if match is None:
        raise ValueError(f"{url!r} is no address")
    protocol, rest = match.groups()
    if protocol in ("file", "local"):
        return Path("/" + rest.lstrip("/")) if os.name == "posix" else Path(rest.lstrip("/"))
    return _mount() / (_WORK if stays else _FILES) / protocol / Path(*_split(rest))


def url_of(path: Path) -> str | None:
    """The address of a path under the cache; None for any other file."""
    parts = path.parts
    for at in range(len(parts) - 3):
        if parts[at] == _MOUNT and parts[at + 1] in (_FILES, _WORK) and Path(*parts[:at]) == _root():
            return f"{parts[at + 2]}://{'/'.join(parts[at + 3 :])}"
    return None


def name_addresses(text: object) -> str:
    """A text for users, in which paths under the cache are the addresses that they stand for."""
    mount = re.escape(str(_mount()) + os.sep)
    separator = re.escape(os.sep)
    return re.sub(
        rf"{mount}(?:{_FILES}|{_WORK}){separator}([a-z][a-z0-9+.-]+){separator}", r"\1://", str(text)
    )


def _split(rest: str) -> list[str]:
    parts = [part for part in rest.split("/") if part]
    if not parts or any(part in (".", "..") or "\\" in part or "\0" in part for part in parts):
        raise ValueError(f"{rest!r} is no place in a bucket")
    return parts


def _root() -> Path:
    named = os.environ.get("LYNX_BUCKET_CACHE", "")
    return (Path(named) if named else Path("~/.cache/comfy-lynx")).expanduser().absolute()


def _mount() -> Path:
    return _root() / _MOUNT


def open_bucket(url: str) -> tuple[Any, str]:
    """The file system of an address, and the path in it.

    Raises:
        BucketError: when fsspec, or what it needs for this kind, is missing.
    """
    try:
        fsspec: Any = importlib.import_module("fsspec")
        return fsspec.core.url_to_fs(url)
    except (ImportError, ValueError) as error:
        raise BucketError(
            f"{url}: {first_line(error)}; for s3:// python -m pip install 'comfyui-lynx[buckets]', for gs:// gcsfs, "
            f"for hf:// huggingface_hub"
        ) from error


def ask(url: str, call: Callable[[Any, str], _Result]) -> _Result:
    """Call with the file system and path of an address, again when the server does not answer.

    Raises:
        OSError: as the file system says; of another kind, with its text, when it does not answer at last.
        BucketError: when a package is missing.
    """
    system, key = open_bucket(url)
    for pause_s in (*_RETRY_S, None):
        try:
            return call(system, key)
        except _FINAL:
            raise
        except Exception as error:  # each file system has its own
            if pause_s is None:
                said = f"{type(error).__name__}: {first_line(error)}"
                raise OSError(
                    errno.EIO, f"the server did not give it in {len(_RETRY_S) + 1} tries ({said})", url
                ) from error
            time.sleep(pause_s)
    raise AssertionError("the last try returns or raises")


def download(url: str, path: Path) -> None:
    """Write what an address has to a file.

    Raises:
        OSError: as `ask`.
    """
    ask(url, lambda system, key: system.get_file(key, str(path)))


def upload(path: Path, url: str) -> None:
    """Write a file to an address, whole or not at all.

    Raises:
        OSError: as `ask`.
    """
    ask(url, lambda system, key: system.put_file(str(path), key))


def describe_file(url: str) -> RemoteFile:
    """Size and time of a file.

    Raises:
        OSError: as `ask`.
    """

    def call(system: Any, key: str) -> RemoteFile:
        system.invalidate_cache()
        return describe_listed(system.info(key))

    return ask(url, call)


def list_files(url: str) -> dict[str, RemoteFile]:
    """The files under an address by their last names; none where there is no such folder.

    Raises:
        OSError: as `ask`.
    """

    def call(system: Any, key: str) -> dict[str, RemoteFile]:
        system.invalidate_cache()
        found = system.find(key, detail=True)
        return {name.rpartition("/")[2]: describe_listed(info) for name, info in found.items()}

    try:
        return ask(url, call)
    except FileNotFoundError:
        return {}


def remove_file(url: str) -> None:
    """Delete a file, if it is there.

    Raises:
        OSError: as `ask`.
    """
    with contextlib.suppress(FileNotFoundError):
        ask(url, lambda system, key: system.rm_file(key))


def describe_listed(info: dict[str, Any]) -> RemoteFile:
    """What a listing says of a file."""
    return RemoteFile(int(info.get("size") or 0), int(read_time(info) * 1e9))


def read_time(info: dict[str, Any]) -> float:
    """When a file was changed, in s since 1970; 0 when the file system does not say."""
    for name in ("LastModified", "mtime", "updated", "created"):
        value = info.get(name)
        if isinstance(value, datetime):
            return value.timestamp()
        if isinstance(value, int | float):
            return float(value)
    return 0.0


@contextlib.contextmanager
def fetched(path: Path) -> Iterator[Path]:
    """Give a file to read for as long as the block runs: the path itself, or a copy of what a bucket has there.

    Raises:
        OSError: when it cannot be fetched.
        BucketError: when a package is missing.
    """
    url = url_of(path)
    if url is None:
        yield path
        return
    state = describe_file(url)
    lease = _mount() / _LEASES / f"{uuid.uuid4().hex}{path.suffix}"
    lease.parent.mkdir(parents=True, exist_ok=True)
    try:
        _link(url, state, path, lease)
        yield lease
    finally:
        lease.unlink(missing_ok=True)


def _link(url: str, state: RemoteFile, path: Path, lease: Path) -> None:
    """Make `lease` the file of an address; what another process drops meanwhile stays under this name."""
    for _ in range(3):
        with contextlib.suppress(FileNotFoundError):
            if state.is_at(path):
                os.link(path, lease)
                os.utime(lease, ns=(time.time_ns(), state.modified_ns))
                return
        _fetch(url, state, path)
    shutil.copy2(path, lease)


def _fetch(url: str, state: RemoteFile, path: Path) -> None:
    make_room(state.size_bytes)
    with write_aside(path) as (aside,):

        def get(system: Any, key: str) -> None:
            system.get_file(key, str(aside))
            if aside.stat().st_size != state.size_bytes:
                raise OSError(errno.EIO, f"{aside.stat().st_size} of {state.size_bytes} bytes came")

        ask(url, get)
        os.utime(aside, ns=(time.time_ns(), state.modified_ns))


def read_range(url: str, offset: int, length: int) -> bytes:
    """Some bytes of a file, kept for the next time.

    Raises:
        OSError: as `ask`.
    """
    kept = place_of(url).with_name(f".{url.rpartition('/')[2][:60]}-{offset}-{length}")
    with contextlib.suppress(OSError):
        raw = kept.read_bytes()
        if len(raw) == length:
            os.utime(kept)
            return raw
    raw = ask(url, lambda system, key: bytes(system.cat_file(key, start=offset, end=offset + length)))
    make_room(length)
    with contextlib.suppress(OSError), write_aside(kept) as (aside,):  # a full disk costs speed only
        aside.write_bytes(raw)
    return raw


_unseen_bytes = -1
"""That came since this process has last added up the files."""


def make_room(more_bytes: int) -> None:
    """Drop what was not opened for longest until so many bytes fit below `LYNX_BUCKET_CACHE_GB`."""
    global _unseen_bytes
    limit = int(float(os.environ.get("LYNX_BUCKET_CACHE_GB", "50")) * 1e9)
    if 0 <= _unseen_bytes + more_bytes < limit // 20 and _unseen_bytes >= 0:
        _unseen_bytes += more_bytes
        return
    _unseen_bytes = 0
    now_s = time.time()
    for lease in (_mount() / _LEASES).glob("*"):
        with contextlib.suppress(OSError):
            if now_s - lease.stat().st_atime > _LEFT_S:
                lease.unlink()
    found = []
    for path in (_mount() / _FILES).rglob("*"):
        with contextlib.suppress(OSError):
            if path.is_file():
                found.append((path.stat().st_atime_ns, path.stat().st_size, path))
    total = sum(size for _, size, _ in found) + more_bytes
    for _, size, path in sorted(found):
        if total <= limit:
            break
        path.unlink(missing_ok=True)
        total -= size
