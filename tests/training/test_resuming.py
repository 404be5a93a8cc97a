"""Straight through = killed and resumed, to the bit, with one process and with two; and resuming with changes.

The kills are SIGKILL: at random moments, and at every point of writing a checkpoint.
"""

from __future__ import annotations

import json
import os
import random
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from small_run import (
    Run,
    assert_same_bits,
    make_configuration,
    newest_step,
    parse_configuration,
    plain_configuration,
    read_result,
)
from torch import Tensor

from lynx_core.hashing import hash_every_byte
from lynx_core.rng import RNGKey
from lynx_core.training import step as step_module
from lynx_core.training.checkpoint import CheckpointError, find_damage
from lynx_core.training.flow_matching import make_batch
from lynx_core.training.loop import Trainer, TrainingError, open_run, train
from lynx_core.training.optimizer import warm_up_decay
from lynx_core.training.run_lock import StopSignal

NUM_STEPS = 8
SIGKILLED, STOPPED = -9, 130
SYNCS = {"own part": 1, "table of tensors": 2, "state": 3, "list of files": 4, "folder": 5, "around it": 6}
"""Of the main process, for each checkpoint; the others sync their part alone."""


def configuration_with_cache(root: Path, output: Path) -> dict[str, Any]:
    """With a reference cache, which after a kill holds other entries than without it."""
    values = plain_configuration(root, output)
    values["base"]["reference_cache_gb"] = 1.0
    return values


@pytest.fixture(scope="module")
def straight(world: Path, tmp_path_factory: pytest.TempPathFactory):
    """Result of a run that was never stopped, by number of processes."""

    @cache
    def get(num_processes: int) -> dict[str, Tensor]:
        output = tmp_path_factory.mktemp("straight") / "run"
        assert Run(configuration_with_cache(world, output), num_processes).join() == [0] * num_processes
        return read_result(output)

    return get


@pytest.mark.parametrize("num_processes", [1, 2])
def test_killed_at_random_moments(world: Path, tmp_path: Path, straight, num_processes: int) -> None:
    values = configuration_with_cache(world, tmp_path / "run")
    waits = random.Random(num_processes)
    for step in (2, 5):  # in the stage of images, and in that of videos
        run = Run(values, num_processes, "slow_down", 0.08)
        run.wait_for_step(tmp_path / "run", step)
        run.processes[0].join(waits.uniform(0, 0.15))
        run.kill()
        assert run.processes[0].exitcode == SIGKILLED, "it must not have finished before"
    assert newest_step(tmp_path / "run") >= 5
    assert Run(values, num_processes).join() == [0] * num_processes
    assert_same_bits(straight(num_processes), read_result(tmp_path / "run"))


KILLS = [(num_processes, 0, sync) for num_processes in (1, 2, 4) for sync in SYNCS.values()]


@pytest.mark.parametrize(
    ("num_processes", "rank", "sync"),
    [*KILLS[:6], KILLS[6], KILLS[9], KILLS[11], KILLS[13], (2, 1, 1), (4, 3, 1)]
    if os.environ.get("LYNX_KILLS") != "all"
    else [*KILLS, *((n, rank, 1) for n in (2, 4) for rank in range(1, n))],
)
def test_killed_while_writing_a_checkpoint(
    world: Path, tmp_path: Path, straight, num_processes: int, rank: int, sync: int
) -> None:
    output = tmp_path / "run"
    values = configuration_with_cache(world, output)
    # Of the fourth checkpoint, the last on images.
    run = Run(values, num_processes, "die_at_sync", (rank, 4, sync))
    run.processes[rank].join(60)
    assert run.processes[rank].exitcode == SIGKILLED
    run.kill()  # the others wait for it
    # The last sync is that of the folder around it, after the renaming.
    assert newest_step(output) == (4 if sync == SYNCS["around it"] else 3)
    assert Run(values, num_processes).join() == [0] * num_processes
    assert_same_bits(straight(num_processes), read_result(output))


def test_ctrl_c_saves_and_leaves(world: Path, tmp_path: Path) -> None:
    output, started = tmp_path / "run", tmp_path / "started"
    values = configuration_with_cache(world, output)
    values["run"]["checkpoint_every"] = 100_000
    values["stages"][0]["steps"] = 4000
    run = Run(values, 2, "announce_steps", str(started))
    while not started.exists() and run.processes[0].is_alive():
        run.processes[0].join(0.05)
    run.interrupt()
    assert run.join() == [STOPPED, STOPPED], "one process is told, both save and leave"
    step = newest_step(output)
    assert 1 <= step < 4000
    assert find_damage(output / "checkpoints" / f"step-{step:08d}") is None


def test_planted_unseeded_noise_is_noticed(world: Path, tmp_path: Path, straight) -> None:
    values = configuration_with_cache(world, tmp_path / "run")
    assert Run(values, 1, "unseed").join() == [0]
    with pytest.raises(AssertionError, match="tensors differ"):
        assert_same_bits(straight(1), read_result(tmp_path / "run"))


def stages(images: int, videos: int) -> list[dict[str, Any]]:
    return [
        {"name": "images", "kind": "images", "steps": images},
        {"name": "videos", "kind": "videos", "steps": videos},
    ]


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[RNGKey]:
    """The key of every sample of every training step, which gives its noise, timestep and dropout."""
    keys: list[RNGKey] = []

    def make(samples: Any, pack_keys: Any, *rest: Any) -> Any:
        keys.extend(pack_keys)
        return make_batch(samples, pack_keys, *rest)

    monkeypatch.setattr(step_module, "make_batch", make)
    return keys


def test_lengthening_an_earlier_stage_repeats_nothing(
    world: Path, tmp_path: Path, drawn: list[RNGKey], capsys: pytest.CaptureFixture[str]
) -> None:
    assert train(make_configuration(world, tmp_path / "run", stages=stages(3, 2))).step == 5
    result = train(make_configuration(world, tmp_path / "run", stages=stages(7, 4)))
    assert result.step == 11
    assert len(set(drawn)) == len(drawn), "a sample met the same noise twice"
    longer = {key for key in drawn if key.stage == "images"}
    drawn.clear()
    train(make_configuration(world, tmp_path / "straight", stages=stages(7, 4)))
    assert longer == {key for key in drawn if key.stage == "images"}, (
        "samples come in the order of one long stage"
    )
    assert "after step 5 of 11 (images 3 of 7, videos 2 of 4)" in capsys.readouterr().err


@pytest.mark.parametrize("format_then", [2, 3])
def test_checkpoint_of_an_older_format_is_refused(world: Path, tmp_path: Path, format_then: int) -> None:
    config = make_configuration(world, tmp_path / "run", stages=stages(1, 1))
    train(config)
    checkpoint = tmp_path / "run" / "checkpoints" / "step-00000002"
    path = checkpoint / "state.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "format": format_then}))
    for file in (checkpoint / ".metadata", *checkpoint.glob("*.distcp")):
        file.rename(checkpoint / f"{file.name.strip('._')}.safetensors")  # there were other files then
    complete = {
        file.name: {"bytes": file.stat().st_size, "sha256": hash_every_byte(file)}
        for file in checkpoint.iterdir()
        if file.name != "complete.json"
    }
    (checkpoint / "complete.json").write_text(json.dumps({"files": complete}))
    with pytest.raises(
        CheckpointError, match=f"has format {format_then}, this version reads 4; .*adapter.init"
    ):
        train(config)


@pytest.mark.parametrize("kinds", [("adamw", "muon"), ("adamw", "adamw8bit_torchao"), ("muon", "adamw")])
def test_another_optimizer_is_refused_or_starts_anew(
    world: Path, tmp_path: Path, kinds: tuple[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    then, now = kinds
    run = tmp_path / "run"
    train(make_configuration(world, run, stages=stages(2, 1), optimizer={"kind": then}))
    config = make_configuration(world, run, stages=stages(3, 1), optimizer={"kind": now})
    with pytest.raises(
        CheckpointError, match=f'optimizer.kind \\("{then}" then, "{now}" now\\).*--accept-changes'
    ):
        train(config)
    with open_run(config) as trainer:
        trainer.resume(accept_changes=True)
        assert not trainer.optimizer.state, "foreign moments mean nothing to it"
        with torch.compiler.set_stance("force_eager"):
            assert trainer.run(StopSignal()).step == 4
    err = capsys.readouterr().err
    assert f"{then} then, {now} now: its moments start from zero" in err and "a new epoch" not in err


def test_resuming_from_an_earlier_step(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = {**plain_configuration(world, tmp_path / "run")["run"], "keep_last": 3}
    config = make_configuration(world, tmp_path / "run", run=run)
    train(config)
    first = read_result(tmp_path / "run")
    with pytest.raises(ValueError, match=r"no checkpoint of step 5 .* steps there: 6, 7, 8"):
        train(config, resume_from=5)
    assert train(config, resume_from=6).step == 8
    second = read_result(tmp_path / "run")
    assert all(torch.equal(first[name], second[name]) for name in first)
    err = capsys.readouterr().err
    aside = tmp_path / "run" / "checkpoints" / "after-step-00000006-1"
    assert f"the checkpoints after step 6 are in {aside} now" in err
    assert sorted(path.name for path in aside.iterdir()) == ["step-00000007", "step-00000008"]
    names = sorted(path.name for path in (tmp_path / "run" / "checkpoints").glob("step-*"))
    assert names == ["step-00000006", "step-00000007", "step-00000008"], (
        "new ones are not pushed out by old ones"
    )


def test_trackers_show_each_step_once(world: Path, tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    changes = {"trackers": ["tensorboard"], "log_every": 1, "keep_last": 9}
    run = {**plain_configuration(world, tmp_path / "run")["run"], **changes}
    config = make_configuration(world, tmp_path / "run", run=run)
    train(config)
    train(config, resume_from=5)
    events = EventAccumulator(str(next((tmp_path / "run" / "logs").rglob("events.out.tfevents.*")).parent))
    events.Reload()
    assert [event.step for event in events.Scalars("loss")] == list(range(1, 9))


def test_skipped_steps_push_out_no_good_checkpoint(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = step_module.sample_losses
    calls = iter(range(100))
    monkeypatch.setattr(
        step_module, "sample_losses", lambda *a: honest(*a) * (1.0 if next(calls) < 3 else float("nan"))
    )
    run = {**plain_configuration(world, tmp_path / "run")["run"], "max_skipped_in_row": 5, "keep_last": 2}
    with pytest.raises(TrainingError, match=r"--resume-from STEP \(there are: 2, 3, 7\)"):
        train(make_configuration(world, tmp_path / "run", run=run))
    monkeypatch.undo()
    assert train(make_configuration(world, tmp_path / "run", run=run), resume_from=3).step == 8


def _run(world: Path, output: Path, **changes: Mapping[str, Any]) -> Trainer:
    with open_run(make_configuration(world, output, **changes)) as trainer:
        trainer.resume(accept_changes=False)
        trainer.run(StopSignal())
        return trainer


def test_validation_measures_the_exported_weights(world: Path, tmp_path: Path) -> None:
    validation = {"every": 8, "num_samples": 2, "video_samples": 1, "video_steps": 2}
    fast = {"learning_rate": 3e-2, "ema_decay": 0.99}
    trainer = _run(world, tmp_path / "run", validation=validation, optimizer=fast)
    exported = load_file(tmp_path / "run" / "adapter.safetensors")
    found = trainer.validation.run(8)["loss"]
    video = trainer.validation.sample_video(trainer.validation.samples[0])
    trainer.validation.ema = None
    last = trainer.validation.run(8)["loss"]
    assert found != last, "the EMA and the last weights must differ for the test to tell"
    with torch.no_grad():
        for name, parameter in trainer.parameters.items():
            parameter.copy_(exported[name])
    assert trainer.validation.run(8)["loss"] == found
    assert not torch.equal(trainer.validation.sample_video(trainer.validation.samples[0]), video)


def test_ema_forgets_where_it_started(world: Path, tmp_path: Path) -> None:
    assert [warm_up_decay(0.9999, n) for n in (0, 8, 90)] == [0.1, 0.5, 0.91]
    assert warm_up_decay(0.9999, 10**6) == 0.9999
    trainer = _run(world, tmp_path / "run", optimizer={"ema_decay": 0.9999})
    assert trainer.ema is not None and trainer.ema.num_updates == 8
    name = next(name for name in trainer.parameters if name.endswith("to_v_ref.weight"))
    # Values start at zero; with a fixed decay the EMA would have gone a thousandth of the way.
    assert trainer.ema.averages[name].norm() > 0.4 * trainer.parameters[name].norm()


def test_ema_that_is_switched_on_or_off_says_so(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for steps, decay, message in (
        (2, 0.0, ""),
        (3, 0.9, "the checkpoint has no EMA: it starts from the weights of this step"),
        (4, 0.0, "the checkpoint's EMA is dropped: optimizer.ema_decay is 0 now"),
    ):
        _run(world, tmp_path / "run", stages=stages(steps, 1), optimizer={"ema_decay": decay})
        assert message in capsys.readouterr().err


def test_changed_base_of_low_rank_updates_is_noticed(world: Path, tmp_path: Path) -> None:
    _run(world, tmp_path / "start", stages=stages(1, 1))
    _run(world, tmp_path / "other", stages=stages(2, 1))
    values = plain_configuration(world, tmp_path / "run")
    values["stages"] = stages(1, 1)
    init = tmp_path / "init.safetensors"
    values["adapter"] |= {"init": [str(init)], "lora_rank": 2}
    init.write_bytes((tmp_path / "start" / "adapter.safetensors").read_bytes())
    train(parse_configuration(values))
    init.write_bytes((tmp_path / "other" / "adapter.safetensors").read_bytes())
    values["stages"] = stages(1, 2)
    with pytest.raises(CheckpointError, match=r"the files of adapter\.init"):
        train(parse_configuration(values))
