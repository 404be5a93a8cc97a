"""Files are whole or not there: what stands at each moment of a write, and after one that fails."""

from __future__ import annotations

import errno
import os
import stat
import threading
from pathlib import Path

import pytest

from lynx_core import durable_file
from lynx_core.durable_file import remove_files, replace_durably, write_aside, write_durably


def list_files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


def test_every_file_is_synced_before_the_first_is_renamed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = tmp_path / "new" / "a.bin", tmp_path / "b.bin"
    second.write_bytes(b"before")
    seen: list[tuple[bool, bytes]] = []
    monkeypatch.setattr(
        durable_file.os, "fsync", lambda _: seen.append((first.exists(), second.read_bytes()))
    )
    with write_aside(first, second) as aside:
        for path in aside:
            path.write_bytes(b"now")
    # Two files while nothing has changed, then the folders that hold the new names.
    assert seen[:2] == [(False, b"before")] * 2 and seen[2:] == [(True, b"now")] * 2
    assert list_files(tmp_path) == ["a.bin", "b.bin"]


def test_a_full_disk_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    path = tmp_path / "a.bin"
    write_durably(path, b"before")
    monkeypatch.setattr(durable_file.os, "fsync", fail)
    with pytest.raises(OSError, match="No space"):
        write_durably(path, b"now")
    assert path.read_bytes() == b"before"
    assert list_files(tmp_path) == ["a.bin"]


def test_an_interrupted_write_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), write_aside(tmp_path / "a", tmp_path / "b") as (one, _):
        one.write_bytes(b"half")
        raise KeyboardInterrupt
    assert list_files(tmp_path) == []


def test_a_folder_that_cannot_be_synced_is_no_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse_folders(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "Invalid argument")

    monkeypatch.setattr(durable_file.os, "fsync", refuse_folders)
    aside = tmp_path / "aside"
    aside.write_bytes(b"now")
    replace_durably(aside, tmp_path / "a.bin")
    assert (tmp_path / "a.bin").read_bytes() == b"now"


def test_long_names_and_the_usual_permissions(tmp_path: Path) -> None:
    path, plain = tmp_path / ("a" * 250), tmp_path / "plain"
    plain.touch()
    write_durably(path, b"")
    assert path.stat().st_mode == plain.stat().st_mode


@pytest.mark.parametrize("threads_start", [True, False])
def test_many_files_are_deleted_and_one_that_is_gone_is_no_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, threads_start: bool
) -> None:
    paths = [tmp_path / str(number) for number in range(100)]
    for path in paths[1:]:
        path.touch()
    if not threads_start:

        def refuse(_: threading.Thread) -> None:
            raise RuntimeError("can't start new thread")

        monkeypatch.setattr(threading.Thread, "start", refuse)
    remove_files(paths[:99])
    assert list_files(tmp_path) == ["99"]
    remove_files([])
    (tmp_path / "folder").mkdir()
    with pytest.raises(OSError, match="folder"):
        remove_files([tmp_path / "folder"])
