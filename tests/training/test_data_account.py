"""What `prepare` and `train` say about data they leave out, and what they can do without."""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from small_media import write_image, write_rows
from small_run import MINI_CONFIG, REPO_DIR

from lynx_core.cli.main import main

CACHE_AND_RUN = ("data.cache=cache", "run.output=run")


@pytest.fixture
def workplace(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to work in, with the miniature's models, and media of its own under `mini`."""
    (tmp_path / "mini").mkdir()
    for name in ("models", "base"):
        (tmp_path / "mini" / name).symlink_to(world / name, target_is_directory=True)
    shutil.copytree(world / "data", tmp_path / "mini" / "data")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run_command(verb: str, *arguments: str, config: Path = MINI_CONFIG) -> int:
    return main([verb, str(config), *CACHE_AND_RUN, *arguments])


def read_rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def lose_rows(data: Path, number: int) -> None:
    """Make the targets of the first rows unreadable, in turn missing and no media."""
    for place, row in enumerate(read_rows(data / "train.jsonl")[:number]):
        if place % 2:
            (data / row["target"]).unlink()
        else:
            (data / row["target"]).write_bytes(b"no media" * 100)


def test_a_run_that_loses_most_rows_stops(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lose_rows(workplace / "mini" / "data", 8)
    assert run_command("train") == 1
    err = capsys.readouterr().err
    assert "8 of 12 rows of mini/data/train.jsonl are quarantined, 67%" in err
    assert "data.max_quarantined allows 20%" in err
    assert (
        "4 skipped: target not found; first: line 2, id clip0: mini/data/clip0.mp4: paths are relative" in err
    )
    assert not (workplace / "run" / "adapter.safetensors").exists()
    assert run_command("prepare") == 1
    assert "a run would stop: 8 of 12 rows" in capsys.readouterr().err


def test_a_run_says_what_it_leaves_out(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """At its start, with each line of figures, and at its end."""
    data = workplace / "mini" / "data"
    lose_rows(data, 2)
    rows = read_rows(data / "train.jsonl")
    for row in rows[2:4]:  # found only when the samples are loaded
        write_image(data / row["references"][0], (100, 60))
    assert run_command("train", "data.max_quarantined=0.5", "run.log_every=2") == 0
    lines = capsys.readouterr().err.splitlines()
    first_step = next(number for number, line in enumerate(lines) if line.startswith("step "))
    start = "\n".join(lines[:first_step])
    assert "files of mini/data/train.jsonl: 0 of 12" in start
    assert "mini/data/train.jsonl: 12 rows, 10 to train on" in start and "2 skipped" in start
    assert "1 skipped: target not found; first: line 2, id clip0" in start
    assert "all of them: run/train-quarantine.jsonl" in start
    steps = [line for line in lines if line.startswith("step ")]
    assert len(steps) == 5, "the first step, and every second"
    assert all("of 12 rows of mini/data/train.jsonl skipped" in line for line in steps)
    assert "4 of 12 rows" in steps[-1] and "draws given to other samples" in steps[-1]
    end = "\n".join(lines[lines.index(steps[-1]) + 1 :])
    assert end.startswith("4 of 12 rows of mini/data/train.jsonl skipped (")
    assert "2 skipped: no face; first: line 3, id image1" in end
    kept = read_rows(workplace / "run" / "train-quarantine.jsonl")
    assert sorted(entry["line"] for entry in kept) == [1, 2, 3, 4]
    assert all(entry["id"] and entry["reason"] and entry["detail"] for entry in kept)


def test_prepare_keeps_an_account_of_each_manifest(
    workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """In the run's folder, where training finds it, and neither deletes the other's."""
    data = workplace / "mini" / "data"
    lose_rows(data, 1)
    heldout = read_rows(data / "heldout.jsonl")
    (data / heldout[1]["target"]).unlink()
    assert run_command("prepare", "data.max_quarantined=0.5") == 0
    shown = capsys.readouterr()
    run = workplace / "run"
    assert [entry["id"] for entry in read_rows(run / "train-quarantine.jsonl")] == ["image0"]
    assert [entry["id"] for entry in read_rows(run / "heldout-quarantine.jsonl")] == [heldout[1]["id"]]
    assert {entry["reason"] for entry in read_rows(run / "train-warnings.jsonl")} == {"112 px crop"}
    assert not list((workplace / "cache").glob("*quarantine*"))
    assert "all of them: run/train-quarantine.jsonl" in shown.out
    assert "11 to look at: 112 px crop; first: line 2, id clip0" in shown.out
    for stage, total in (("files", 12), ("faces", 11), ("captions", 11), ("latents", 11)):
        assert f"{stage}: 0 of {total}\n" in shown.err and f"{stage}: 1 of {total}" in shown.err
    assert shown.err.startswith(f"reading {MINI_CONFIG}")


def test_manifests_of_one_name_have_accounts_of_their_own(workplace: Path) -> None:
    data = workplace / "mini" / "data"
    (data / "validation").mkdir()
    for name in ("image6.png", "face_image6.png"):
        shutil.copy(data / name, data / "validation" / name)
    row = read_rows(data / "heldout.jsonl")[0]
    write_rows(data / "validation" / "train.jsonl", [row, {**row, "id": "lost", "target": "lost.png"}])
    lose_rows(data, 1)
    chosen = ("data.validation_manifest=mini/data/validation/train.jsonl", "data.max_quarantined=0.5")
    assert run_command("prepare", *chosen) == 0
    assert [e["id"] for e in read_rows(workplace / "run" / "train-quarantine.jsonl")] == ["image0"]
    assert [e["id"] for e in read_rows(workplace / "run" / "train-validation-quarantine.jsonl")] == ["lost"]


def make_read_only(folder: Path) -> None:
    for path in [folder, *folder.rglob("*")]:
        path.chmod(stat.S_IMODE(path.stat().st_mode) & ~0o222)


def test_read_only_cache_without_the_media(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Prepared, made read-only, the media removed: `prepare` and `train` work with what is cached."""
    assert run_command("prepare") == 0
    capsys.readouterr()
    for path in (workplace / "mini" / "data").iterdir():
        if path.suffix != ".jsonl":
            path.unlink()
    make_read_only(workplace / "cache")
    before = sorted((str(path), path.stat().st_mtime_ns) for path in (workplace / "cache").rglob("*"))
    # Root may write whatever the mode says, unless it gives up the right to.
    as_others = (
        ["setpriv", "--bounding-set=-dac_override", "--inh-caps=-dac_override"] if os.getuid() == 0 else []
    )
    for verb, expected in (("prepare", "12 pairs ready, 0 skipped"), ("train", "12 to train on")):
        done = subprocess.run(
            [*as_others, sys.executable, "-m", "lynx_core.cli.main", verb, str(MINI_CONFIG), *CACHE_AND_RUN],
            env={**os.environ, "PYTHONPATH": str(REPO_DIR), "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            check=False,
        )
        shown = done.stdout + done.stderr
        assert done.returncode == 0, shown[-3000:]
        assert "Traceback" not in shown
        assert expected in shown
        # A run opens the index and looks at no file.
        assert ("24 files are gone; what the cache has made of them is used" in shown) == (verb == "prepare")
    assert (workplace / "run" / "adapter.safetensors").is_file()
    assert sorted((str(path), path.stat().st_mtime_ns) for path in (workplace / "cache").rglob("*")) == before


def test_files_of_a_run_have_the_mode_of_ordinary_files(workplace: Path) -> None:
    lose_rows(workplace / "mini" / "data", 1)
    before = os.umask(0o002)
    try:
        assert run_command("prepare") == 0
        assert run_command("train", "stages.0.steps=1", "stages.1.steps=1") == 0
    finally:
        os.umask(before)
    files = [path for name in ("cache", "run") for path in (workplace / name).rglob("*") if path.is_file()]
    assert len(files) > 20
    modes = {str(path): oct(stat.S_IMODE(path.stat().st_mode)) for path in files}
    assert {path: mode for path, mode in modes.items() if mode != "0o664" and "/.run." not in path} == {}


def test_configuration_from_another_editor_and_with_variables(
    workplace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A byte order mark, CRLF, `~` and variables: in the file and in what is typed."""
    monkeypatch.setenv("HOME", str(workplace))
    monkeypatch.setenv("LYNX_DATA", str(workplace / "mini" / "data"))
    text = (
        MINI_CONFIG.read_text()
        .replace('"mini/data/', '"${LYNX_DATA}/')
        .replace('"mini/models', '"~/mini/models')
    )
    config = workplace / "windows.toml"
    for encoding in ("utf-8-sig", "utf-16"):
        config.write_bytes(text.replace("\n", "\r\n").encode(encoding))
        assert run_command("train", "data.cache=~/cache", "--dry-run", config=config) == 0
        assert "12 samples" in capsys.readouterr().out
    assert (workplace / "cache" / "files.jsonl").is_file()
    assert not list(workplace.glob("[~$]*"))
    for override, message in (
        (
            "data.cache=$LYNX_UNSET/cache",
            "data.cache names the environment variable LYNX_UNSET, which is not set",
        ),
        ('data.cache=" "', "data.cache is an empty path"),
        ("data.max_quarantined=2", "data.max_quarantined is a share from 0 to 1"),
    ):
        assert run_command("train", override, "--dry-run") == 1
        assert message in capsys.readouterr().err
