"""`comfy-lynx prepare` and `comfy-lynx train` as typed."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from small_run import MINI_CONFIG, REPO_DIR

from lynx_core.cli.main import main
from lynx_core.formats.adapter import open_adapter


@pytest.fixture
def workplace(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to work in, with the miniature's files under `mini`."""
    (tmp_path / "mini").symlink_to(world, target_is_directory=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run_command(verb: str, *arguments: str) -> int:
    return main([verb, str(MINI_CONFIG), "run.output=run", *arguments])


def test_dry_run_shows_plan_memory_and_packs(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command("train", "--dry-run", "--card-gb", "80", "--processes", "2") == 0
    out = capsys.readouterr().out
    for expected in (
        "2 blocks of width 32",
        "memory of each process, estimated: ",
        "ways to run it on 2 x 80 GB",
        "advice: distributed.sharding=ddp\n",
        "12 samples",
        "stage images (images): 4 steps",
        "stage videos (videos): 4 steps",
        "pack 0: ",
        "tokens of 18: image",
        "start at step 0",
    ):
        assert expected in out
    assert not (workplace / "run" / "checkpoints").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--card-gb", "80"], "--card-gb is for --dry-run; add that, or leave it out"),
        (["--processes", "2"], "--processes is for --dry-run"),
        (["--dry-run", "--card-gb", "-1"], "--card-gb is above 0, got -1.0"),
        (["--dry-run", "--card-gb", "nan"], "--card-gb is above 0, got nan"),
        (["--dry-run", "--processes", "0"], "--processes is above 0, got 0"),
    ],
)
def test_options_of_the_dry_run_that_make_no_sense(
    workplace: Path, capsys: pytest.CaptureFixture[str], options: list[str], message: str
) -> None:
    assert run_command("train", *options) == 1
    assert message in capsys.readouterr().err


def test_prepare_train_and_resume(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command("prepare", "data.cache=cache") == 0
    out = capsys.readouterr().out
    assert "12 pairs ready, 0 skipped" in out and "2 pairs ready" in out
    assert run_command("train", "data.cache=cache", "stages.1.steps=1") == 0
    assert run_command("train", "data.cache=cache", "stages.1.steps=2") == 0
    err = capsys.readouterr().err
    assert "resuming from run/checkpoints/step-00000005 after step 5" in err
    assert "changed since the checkpoint: stages" in err
    assert open_adapter(workplace / "run" / "adapter.safetensors").ref is not None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["optimizer.lr=1"], "unknown key optimizer.lr; keys of optimizer: kind, learning_rate, "),
        (["base.transformer=nowhere"], "there is no base model at nowhere"),
        (["data.manifest=none.jsonl"], "there is no manifest at none.jsonl"),
        (["packing.max_tokens=8"], "are longer than the budget of 8 tokens"),
        (["stages.1.kind=first_frames", "data.vae=nowhere"], "the VAE is not at nowhere"),
        (["run.trackers=['nonsense']"], "run.trackers"),
    ],
)
def test_refusals_are_one_line(
    workplace: Path, capsys: pytest.CaptureFixture[str], arguments: Sequence[str], message: str
) -> None:
    assert run_command("train", *arguments) == 1
    err = capsys.readouterr().err
    assert message in err.splitlines()[-1] and err.splitlines()[-1].startswith("comfy-lynx: ")


@pytest.mark.parametrize("last", [["--dry-run"], ["--resume-from", "0"]])
def test_overrides_are_taken_before_and_after_options(
    workplace: Path, capsys: pytest.CaptureFixture[str], last: Sequence[str]
) -> None:
    between = [
        "stages.0.steps=2",
        *last,
        "stages.1.steps=x",
        "optimizer.eps=-1",
        "--accept-changes",
        "run.seed=-1",
    ]
    assert run_command("train", *between) == 1
    err = capsys.readouterr().err
    for problem in (
        "stages.1.steps is a whole number",
        "optimizer.eps is more than 0",
        "run.seed is 0 or more",
    ):
        assert problem in err


@pytest.mark.parametrize("word", ["--dry-rum", "-x"])
def test_misspelt_options_are_refused(workplace: Path, word: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        run_command("train", "--accept-changes", "run.seed=1", word)
    assert re.search(rf"unrecognized arguments: .*{word}", capsys.readouterr().err)


def test_other_verbs_take_no_overrides(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["doctor", "run.seed=1"])
    assert "unrecognized arguments: run.seed=1" in capsys.readouterr().err


def test_start_shows_progress_and_no_foreign_warnings(workplace: Path) -> None:
    arguments = [
        "optimizer.kind=adamw8bit_torchao",
        "base.quantisation=int8",
        "stages.0.steps=2",
        "stages.1.steps=1",
    ]
    # A process of its own, since libraries warn when they are imported. torchao would compile its step.
    result = subprocess.run(
        [sys.executable, "-m", "lynx_core.cli.main", "train", str(MINI_CONFIG), "run.output=run", *arguments],
        capture_output=True,
        check=False,
        text=True,
        env={**os.environ, "PYTHONPATH": str(REPO_DIR), "TORCHDYNAMO_DISABLE": "1"},
    )
    assert result.returncode == 0, result.stderr
    for foreign in ("gemm_4bit", "torchao` Tensor", "No CUDA runtime", "Warning"):
        assert foreign not in result.stderr
    # log_every is 4: the first step is shown all the same, with the rate and what is left.
    assert re.search(r"^step 1/3 images: .* tokens/s, .* left", result.stderr, re.MULTILINE)
