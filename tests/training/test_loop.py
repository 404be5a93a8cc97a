"""A whole tiny run: two stages, what it leaves, and what it does when something is wrong."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from small_media import write_rows
from small_run import make_configuration, parse_configuration, plain_configuration, read_result
from standin_faces import face_from_landmarks, write_detector_pack
from standin_installation import CENTRED_LANDMARKS
from tiny_packs import hash_weights
from video import read_video

from lynx_core.formats.adapter import open_adapter
from lynx_core.formats.adapter_weights import save_modules
from lynx_core.formats.conversion import convert_adapter
from lynx_core.models.adapter_configs import configure_variant
from lynx_core.models.adapter_modules import AdapterModules
from lynx_core.training import step as step_module
from lynx_core.training.checkpoint import CheckpointError
from lynx_core.training.configuration import TrainingConfig
from lynx_core.training.distributed import AdapterForward
from lynx_core.training.loop import Trainer, TrainingError, TrainingResult, open_run, train
from lynx_core.training.preflight import PreflightError
from lynx_core.training.run_lock import StopSignal
from lynx_core.training.trained_state import read_weights


def run_config(config: TrainingConfig) -> tuple[Trainer, TrainingResult]:
    """Run a configuration and give the trainer as well."""
    with open_run(config) as trainer:
        trainer.resume(accept_changes=False)
        return trainer, trainer.run(StopSignal())


@pytest.fixture(scope="module")
def finished(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trainer]:
    """A run of all eight steps with validation and TensorBoard."""
    torch.set_num_threads(1)
    output = tmp_path_factory.mktemp("finished") / "run"
    run = {**plain_configuration(world, output)["run"], "trackers": ["tensorboard"]}
    validation = {"every": 4, "num_samples": 2, "video_samples": 1, "video_steps": 2}
    config = make_configuration(world, output, run=run, validation=validation)
    trainer, result = run_config(config)
    assert result == TrainingResult("finished", 8)
    yield trainer


def test_trained_adapter_opens_and_converts(finished: Trainer, tmp_path: Path) -> None:
    output = finished.config.run.output
    adapter = open_adapter(output / "adapter.safetensors")
    assert set(adapter.parts) == {"resampler", "id", "ref"}
    # What was exported is the EMA, in the weights' own order of names.
    result = read_result(output)
    layer = adapter.read_ref_layer(1)
    assert torch.equal(layer.to_v_ref.weight, result["ema ref.1.to_v_ref.weight"])
    assert not torch.equal(layer.to_v_ref.weight, result["weights ref.1.to_v_ref.weight"])
    assert layer.to_v_ref.weight.any(), "values start at zero and must have moved"
    files = convert_adapter(open_adapter(output / "adapter.safetensors"), "release", tmp_path / "release")
    assert {file.name for file in files} == {
        "resampler.safetensors",
        "ip_layers.safetensors",
        "ref_layers.safetensors",
    }
    assert open_adapter(tmp_path / "release").id == adapter.id


def test_base_is_untouched(finished: Trainer, world: Path) -> None:
    from diffusers import WanTransformer3DModel

    model = finished.model
    assert isinstance(model, AdapterForward)
    trained_on = model._hidden_base[0].transformer
    assert hash_weights(trained_on) == hash_weights(WanTransformer3DModel.from_pretrained(world / "base"))


def test_figures_reach_tensorboard_and_videos_are_written(finished: Trainer) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    output = finished.config.run.output
    events = EventAccumulator(str(next((output / "logs").rglob("events.out.tfevents.*")).parent))
    events.Reload()
    tags = set(events.Tags()["scalars"])
    assert {"loss", "fill", "tokens_per_second", "validation/loss", "loss_by_timestep/q3"} <= tags
    names = sorted(path.name for path in (output / "validation").iterdir())
    assert [name[5:13] for name in names] == ["00000000", "00000004", "00000008"]
    assert all((output / "validation" / name).stat().st_size > 500 for name in names)


def test_figures_reach_wandb_beside_tensorboard(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As docs/clusters.md has it; the package is no part of the development environment."""
    wandb = pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.chdir(tmp_path)
    output = tmp_path / "run"
    run = {**plain_configuration(world, output)["run"], "trackers": ["tensorboard", "wandb"]}
    stage = [{"name": "images", "kind": "images", "steps": 1}]
    logged: list[dict[str, float]] = []
    honest = wandb.Run.log
    monkeypatch.setattr(
        wandb.Run, "log", lambda self, values, **more: (logged.append(values), honest(self, values, **more))
    )
    train(make_configuration(world, output, run=run, stages=stage))
    assert {"loss", "fill", "tokens_per_second"} <= set(logged[-1])
    assert list((output / "logs").rglob("*.wandb")) and list((output / "logs").rglob("events.out.tfevents.*"))
    assert not (tmp_path / "wandb").exists()


def test_validation_is_repeatable_and_changes_nothing(finished: Trainer) -> None:
    before = {name: parameter.clone() for name, parameter in finished.parameters.items()}
    first, again = (finished.validation.run(8) for _ in range(2))
    assert first == again and 0 < first["loss"] < 10
    assert all(torch.equal(before[name], p) for name, p in finished.parameters.items())


def test_validation_measures_likeness_through_a_detector(
    finished: Trainer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    video = next((finished.config.run.output / "validation").glob("*.mp4"))
    height, width = read_video(video).frames[0].shape[:2]
    side = min(height, width)
    face = face_from_landmarks(CENTRED_LANDMARKS * side + np.float32([width - side, height - side]) / 2)
    likeness = []
    for name, faces in (("found", [face]), ("hidden", [])):
        write_detector_pack(tmp_path / name, "buffalo_l", faces, (height, width))
        data = replace(finished.config.data, face_models=tmp_path / name)
        monkeypatch.setattr(finished.validation, "config", replace(finished.config, data=data))
        likeness.append(finished.validation.run(8)["face_similarity"])
    assert 0 < abs(likeness[0]) <= 1
    assert likeness[1] == 0, "a hidden face is a failure, not left out"


def test_low_rank_trains_the_updates_only(finished: Trainer, world: Path, tmp_path: Path) -> None:
    start = finished.config.run.output / "adapter.safetensors"
    settings = {"init": [str(start)], "lora_rank": 2, "variant": "id_only"}
    config = make_configuration(world, tmp_path / "run", adapter=settings)
    trainer, _ = run_config(config)
    assert trainer.parameters and all(".lora_" in name for name in trainer.parameters)
    before, after = load_file(start), load_file(tmp_path / "run" / "adapter.safetensors")
    moved = {name for name in after if not torch.equal(before[name], after[name])}
    assert moved == {name for name in after if name.startswith("id.") and name.endswith("_ip.weight")}
    assert not any(name.startswith("ref.") for name in after)


@pytest.mark.parametrize("kind", ["adamw8bit_torchao", "adamw8bit_bitsandbytes", "muon"])
def test_other_optimizers_resume_exactly(world: Path, tmp_path: Path, kind: str) -> None:
    if kind != "muon":
        pytest.importorskip(kind.split("_")[1])
    results = []
    for name, stops in (("straight", [3]), ("resumed", [2, 3])):
        for steps in stops:
            stage = [{"name": "images", "kind": "images", "steps": steps}]
            config = make_configuration(world, tmp_path / name, stages=stage, optimizer={"kind": kind})
            with torch.compiler.set_stance(
                "force_eager"
            ):  # torchao would compile its step, which takes a minute
                trainer, _ = run_config(config)
        results.append(load_file(tmp_path / name / "adapter.safetensors"))
    assert kind == "muon" or any(
        value.dtype == torch.uint8 or type(value).__name__ == "OptimState8bit"
        for state in trainer.optimizer.state.values()
        for value in state.values()
        if isinstance(value, torch.Tensor)
    ), "the small model must have weights that are large enough for 8 bits"
    assert all(torch.equal(results[0][name], results[1][name]) for name in results[0])


def _spoil_losses(monkeypatch: pytest.MonkeyPatch, bad_steps: set[int]) -> None:
    """Make the loss of some steps not finite; each step of the configuration runs one pack."""
    honest = step_module.sample_losses
    calls = iter(range(100))

    def losses(*arguments: Any) -> torch.Tensor:
        factor = float("nan") if next(calls) in bad_steps else 1.0
        return honest(*arguments) * factor

    monkeypatch.setattr(step_module, "sample_losses", losses)


def test_step_without_finite_loss_is_skipped(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _spoil_losses(monkeypatch, {2})
    run = {**plain_configuration(world, tmp_path / "run")["run"], "keep_every": 1}
    trainer, result = run_config(make_configuration(world, tmp_path / "run", run=run))
    assert result.ended == "finished" and trainer.skipped_total == 1 and trainer.skipped_in_row == 0
    printed = capsys.readouterr().err
    assert "step 3 skipped: loss nan" in printed and "samples without a finite loss: " in printed
    for kind in ("weights/", "ema/"):
        second, third, fourth = (read_weights(trainer.checkpoints.path_of(step), kind) for step in (2, 3, 4))
        assert all(torch.equal(second[key], third[key]) for key in second), "the skipped step moved nothing"
        assert any(not torch.equal(third[key], fourth[key]) for key in third), "the next one did"
    steps = {int(state["step"]) for state in trainer.optimizer.state.values()}
    assert steps == {7}, "the optimiser must not have seen the skipped step"


def test_run_stops_after_the_stated_number_of_skipped_steps(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _spoil_losses(monkeypatch, set(range(3, 100)))
    run = {**plain_configuration(world, tmp_path / "run")["run"], "max_skipped_in_row": 3}
    with pytest.raises(
        TrainingError, match="3 steps in a row had no finite loss or gradient, the last was step 6"
    ):
        run_config(make_configuration(world, tmp_path / "run", run=run))


def _stop_early(world: Path, output: Path, **changes: Any) -> None:
    stage = [{"name": "images", "kind": "images", "steps": 2}]
    run_config(make_configuration(world, output, stages=stage, **changes))


def test_changed_data_are_noticed(world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _stop_early(world, tmp_path / "run")
    rows = [json.loads(line) for line in (world / "data" / "train.jsonl").read_text().splitlines()]
    for row in rows:
        row["target"] = str(world / "data" / row["target"])
        row["references"] = [str(world / "data" / name) for name in row["references"]]
    changed = write_rows(tmp_path / "fewer.jsonl", rows[1:])
    values = plain_configuration(world, tmp_path / "run")
    values["data"]["manifest"] = str(changed)
    config = parse_configuration(values)
    with pytest.raises(CheckpointError, match="rows or files of the dataset") as caught:
        train(config)
    assert "--accept-changes" in str(caught.value) and "12 then, 11 now" in str(caught.value)
    assert train(config, accept_changes=True).step == 8
    assert "accepted change: rows or files of the dataset" in capsys.readouterr().err


def test_changed_base_and_adapter_are_noticed(world: Path, tmp_path: Path) -> None:
    _stop_early(world, tmp_path / "run")
    with pytest.raises(CheckpointError, match=r"holds another adapter: .* restore the sections \[adapter\]"):
        train(make_configuration(world, tmp_path / "run", adapter={"variant": "ref_only"}))
    config = make_configuration(world, tmp_path / "run")
    with open_run(config) as trainer:
        trainer.resume(accept_changes=False)
        trainer._base_fingerprint = "another"
        trainer.save_checkpoint()
        trainer.writer.finish()
        del trainer._base_fingerprint
        with pytest.raises(CheckpointError, match="the base's files"):
            trainer.resume(accept_changes=False)


@pytest.mark.parametrize(
    ("dim", "recogniser", "message"),
    [
        (64, "facexlib/arcface_ir_se50", "wrong base for this adapter: .* dim 64"),
        (32, "insightface/antelopev2/glintr100", "is for the recogniser insightface/antelopev2/glintr100"),
    ],
)
def test_adapter_of_another_base_or_recogniser_is_refused(
    world: Path, tmp_path: Path, dim: int, recogniser: str, message: str
) -> None:
    configs = configure_variant("full", dim, 2, resampler_dim=64, resampler_depth=1, resampler_heads=1)
    path = tmp_path / "other.safetensors"
    save_modules(AdapterModules.create(configs, 0, recogniser=recogniser), path)
    with pytest.raises(PreflightError, match=message):
        train(make_configuration(world, tmp_path / "run", adapter={"init": [str(path)]}))


def test_damaged_sample_is_replaced_and_counted(world: Path, tmp_path: Path) -> None:
    rows = [json.loads(line) for line in (world / "data" / "train.jsonl").read_text().splitlines()]
    for row in rows:
        row["target"] = str(world / "data" / row["target"])
        row["references"] = [str(world / "data" / name) for name in row["references"]]
    broken = tmp_path / "broken.mp4"
    raw = Path(rows[1]["target"]).read_bytes()
    broken.write_bytes(raw[:200])
    rows[1]["target"] = str(broken)
    values = plain_configuration(world, tmp_path / "run")
    values["data"]["manifest"] = str(write_rows(tmp_path / "rows.jsonl", rows))
    trainer, result = run_config(parse_configuration(values))
    assert result.ended == "finished" and len(trainer.source.quarantine) == 1
    assert trainer.source.quarantine.rejections[0].id == rows[1]["id"]
