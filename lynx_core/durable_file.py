"""Files that are whole or not there: written aside, synced to the disk, renamed.

A kill, a crash or a full disk leaves what was there before. A half-written file is hidden
(`.name.*.part`) and lies in the folder it belongs in, because a rename does not cross disks.
"""

from __future__ import annotations

import contextlib
import os
import uuid
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

_NUM_REMOVERS = 16


@contextlib.contextmanager
def write_aside(*paths: Path) -> Iterator[list[Path]]:
    """Give a hidden path beside each of `paths` to write to; renames all of them at the end, or none.

    Makes the folders that are missing. When the block raises, what it wrote is removed.

    Raises:
        OSError: as the system says.
    """
    # Not tempfile's names, whose files only their owner may read; and a name has at most 255 bytes.
    aside = [path.with_name(f".{path.name[:16]}.{uuid.uuid4().hex}.part") for path in paths]
    try:
        for path in paths:
            path.parent.mkdir(parents=True, exist_ok=True)
        yield aside
        for written in aside:
            sync(written)
        for written, path in zip(aside, paths, strict=True):
            written.replace(path)
    finally:
        for written in aside:
            written.unlink(missing_ok=True)
    for folder in {path.parent for path in paths}:
        sync(folder)


def write_durably(path: Path, content: bytes) -> None:
    """Write a file, whole or not at all.

    Raises:
        OSError: as the system says.
    """
    with write_aside(path) as (aside,):
        aside.write_bytes(content)


def replace_durably(aside: Path, path: Path) -> None:
    """Put a file that was written aside, or a folder whose files are synced, into its place.

    Raises:
        OSError: as the system says.
    """
    sync(aside)
    aside.replace(path)
    sync(path.parent)


def sync(path: Path) -> None:
    """Bring a file's content, or a folder's list of names, from the system's memory onto the disk.

    Raises:
        OSError: when a file cannot be synced, as on a full disk.
    """
    if not path.is_dir():
        with path.open("rb+") as file:
            os.fsync(file.fileno())
    elif os.name == "posix":  # Windows cannot open a folder
        folder = os.open(path, os.O_RDONLY)
        try:
            # Some network drives cannot sync a folder; the files in it are safe even so.
            with contextlib.suppress(OSError):
                os.fsync(folder)
        finally:
            os.close(folder)


def remove_files(paths: Iterable[Path]) -> None:
    """Delete files; those that are gone already do not matter.

    Raises:
        OSError: as the system says; some may be left.
    """
    every = list(paths)
    parts = [every[place::_NUM_REMOVERS] for place in range(min(_NUM_REMOVERS, len(every)))]
    if not parts:
        return
    try:
        # A disk that hands back what it frees takes 2 ms for each file, nearly all of it waiting.
        with ThreadPoolExecutor(len(parts)) as threads:
            list(threads.map(_remove_each, parts))
    except RuntimeError:  # no thread can start, as where the process may have no more
        _remove_each(every)


def _remove_each(paths: Iterable[Path]) -> None:
    for path in paths:
        path.unlink(missing_ok=True)


@contextlib.contextmanager
def hold_alone(path: Path, on_wait: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Let one process at a time write to a file.

    Args:
        on_wait: called when another process has it.
    """
    from filelock import FileLock, Timeout

    lock = FileLock(path.with_name(f".{path.name.removeprefix('.')}.lock"))
    # Some network drives have no locks, and what cannot be locked because it cannot be written says so when it is.
    with contextlib.suppress(OSError, NotImplementedError):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            on_wait()
            lock.acquire()
    try:
        yield
    finally:
        if lock.is_locked:
            with contextlib.suppress(OSError):  # Windows removes it by itself
                Path(lock.lock_file).unlink(missing_ok=True)
        lock.release()
