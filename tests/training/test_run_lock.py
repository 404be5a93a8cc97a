"""Two runs in one folder: the second is told who has it; a run that was killed holds nothing."""

from __future__ import annotations

import json
import os
import threading
import time
from pathlib import Path

import pytest
from small_run import MINI_CONFIG, Run, plain_configuration

from lynx_core.cli.main import main
from lynx_core.training import run_lock
from lynx_core.training.run_lock import HOLDER_NAME, Holder, RunLock, RunLockError, read_holder

NOTES: list[str] = []


@pytest.fixture(autouse=True)
def _short_watch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_lock, "BEAT_S", 0.05)
    monkeypatch.setattr(run_lock, "WATCH_S", 0.5)
    NOTES.clear()


def test_second_run_is_told_who_has_the_folder(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mini").symlink_to(world, target_is_directory=True)
    monkeypatch.chdir(tmp_path)
    values = plain_configuration(world, tmp_path / "run")
    values["stages"][0]["steps"] = 4000
    # Two processes of one run are one run.
    first = Run(values, 2, "slow_down", 0.05)
    try:
        first.wait_for_step(tmp_path / "run", 1)
        pid = first.processes[0].pid
        before = sorted((tmp_path / "run").rglob("*.distcp"))
        for mode in ([], ["--dry-run"]):
            assert main(["train", str(MINI_CONFIG), "run.output=run", *mode]) == 1
            message = capsys.readouterr().err.splitlines()[-1]
            assert f"another run writes to run: process {pid} on {os.uname().nodename}, since 20" in message
            assert "name another run.output" in message
        assert before and all(process.is_alive() for process in first.processes)
    finally:
        first.kill()
    # kill -9 leaves the name, and not the lock.
    holder = read_holder(tmp_path / "run")
    assert holder is not None and holder.pid == pid
    start = time.monotonic()
    RunLock(tmp_path / "run").acquire(NOTES.append)
    assert time.monotonic() - start < run_lock.WATCH_S and not NOTES


def _hold_elsewhere(output: Path, beats: int) -> threading.Thread:
    """Write as a run on another machine does, whose lock does not reach this one."""

    def write(beat: int) -> None:
        holder = {"host": "node7", "machine": "x", "pid": 4, "since": "2026", "beat": beat}
        (output / f"{HOLDER_NAME}.other").write_text(json.dumps(holder))
        (output / f"{HOLDER_NAME}.other").replace(output / HOLDER_NAME)

    def live() -> None:
        for beat in range(1, beats):
            time.sleep(0.05)
            write(beat)

    output.mkdir()
    write(0)
    thread = threading.Thread(target=live)
    thread.start()
    return thread


def test_run_on_another_machine_is_seen_by_its_sign_of_life(tmp_path: Path) -> None:
    other = _hold_elsewhere(tmp_path / "run", beats=10)
    lock = RunLock(tmp_path / "run")
    with pytest.raises(RunLockError, match="process 4 on node7, since 2026"):
        lock.acquire(NOTES.append)
    assert "watching for" in NOTES[0]
    other.join()
    # It was killed now.
    lock.acquire(NOTES.append)
    assert "no sign of life" in NOTES[-1]
    with pytest.raises(RunLockError):
        RunLock(tmp_path / "run").acquire(NOTES.append)
    first = read_holder(tmp_path / "run")
    time.sleep(0.3)
    second = read_holder(tmp_path / "run")
    assert isinstance(first, Holder) and second is not None and second.beat > first.beat
    lock.release()
    assert read_holder(tmp_path / "run") is None
    lock = RunLock(tmp_path / "run")
    lock.acquire(NOTES.append)
    lock.release()
