"""What keeps a run from starting is told before it starts, all of it, by `train` and by its dry run."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from small_media import write_rows
from small_run import MINI_CONFIG, make_configuration

from lynx_core.cli.main import main
from lynx_core.formats.adapter_weights import save_modules
from lynx_core.models.adapter_configs import configure_variant
from lynx_core.models.adapter_modules import AdapterModules
from lynx_core.models.packed_wan import PackedWan
from lynx_core.training import estimate, model_checks
from lynx_core.training.estimate import count_more_checkpoints

MODES = (("--dry-run",), ())


@pytest.fixture
def workplace(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to work in, with the miniature's files under `mini`; loading a base is an error."""
    (tmp_path / "mini").symlink_to(world, target_is_directory=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(PackedWan, "__init__", lambda *_, **__: pytest.fail("a base was loaded"))
    return tmp_path


@pytest.fixture
def refuse(workplace: Path, capsys: pytest.CaptureFixture[str]) -> Any:
    """Runs the command, which must refuse, in both modes; gives what it prints to the user."""

    def refuse(*arguments: str) -> str:
        printed = []
        for mode in MODES:
            assert main(["train", str(MINI_CONFIG), "run.output=run", *arguments, *mode]) == 1
            printed.append(capsys.readouterr().err)
            assert not list(workplace.glob("run/checkpoints/*"))
        messages = [text[text.index("comfy-lynx: ") :] for text in printed]
        assert messages[0] == messages[1], "the dry run says the same"
        return messages[0]

    return refuse


def test_all_problems_are_in_one_message(refuse: Any) -> None:
    message = refuse(
        "base.transformer=no/base",
        "data.vae=no/vae",
        "data.text_encoder=no/text",
        "data.tokenizer=no/tokenizer",
        "data.face_recogniser=no/face.pth",
        "adapter.init=['no/adapter']",
        "run.trackers=['wandb', 'nonsense']",
        "data.validation_manifest=no/heldout.jsonl",
        "validation.every=5000",
        "stages.1.steps=100",
        "data.manifest=mini/data/images.jsonl",
    )
    assert message.startswith("comfy-lynx: 10 problems keep the run from starting:")
    for expected in (
        "there is no base model at no/base",
        "the VAE is not at no/vae",
        "the text encoder is not at no/text",
        "the tokenizer is not at no/tokenizer",
        "the face recogniser is not at no/face.pth",
        "no/adapter does not exist",
        "the package of 'wandb' is not installed: pip install wandb",
        "there is no tracker 'nonsense'; choose from aim",
        "there is no manifest at no/heldout.jsonl",
        "stage videos: it wants videos, and none of the 5 samples is one",
    ):
        assert expected in message


def test_sizes_that_do_not_divide_are_refused(refuse: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    alone = refuse("distributed.sequence_parallel_size=2")
    assert "sequence_parallel_size is 2, and the number of processes is 1, no multiple of it" in alone
    assert "torchrun --nproc-per-node 2" in alone
    monkeypatch.setenv("WORLD_SIZE", "3")
    message = refuse("distributed.sequence_parallel_size=3")
    assert "sequence_parallel_size is 3, which does not divide the 2 attention heads" in message
    assert "choose one of 1, 2" in message
    message = refuse("distributed.shard_base=true", "distributed.shard_size=2")
    assert "distributed.shard_size is 2, and the number of processes is 3" in message
    assert "only for what is sharded" in refuse("distributed.shard_size=2")
    message = refuse("distributed.shard_base=true", "base.gradient_checkpointing=false")
    assert "base.gradient_checkpointing" in message and "needed with distributed.shard_base" in message
    assert "sequence_parallel_size is 1 or more, got 0" in refuse("distributed.sequence_parallel_size=0")


def test_compiling_needs_a_compiler(refuse: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setattr(model_checks.shutil, "which", lambda _: None)
    assert "base.compile needs a C++ compiler on the CPU" in refuse("base.compile=true", "run.device=cpu")


def _shared_rows(world: Path, folder: Path, change: Mapping[str, str]) -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in (world / "data" / "heldout.jsonl").read_text().splitlines()]
    for row in rows:
        row["target"] = str(world / "data" / row["target"])
        row["references"] = [str(world / "data" / name) for name in row["references"]]
    for key, name in change.items():
        copied = shutil.copy(world / "data" / name, folder / f"copied_{name}")
        rows[0][key] = [str(copied)] if key == "references" else str(copied)
    return rows


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"target": "image0.png"}, "targets of 1 of 2 held-out pairs .* copied_image0.png of .* pair image0"),
        ({"references": "face_clip0.png"}, "people, .* of 1 of 2 held-out pairs .* training pair image0"),
    ],
)
def test_held_out_people_and_files_are_in_no_training_pair(
    world: Path, workplace: Path, refuse: Any, change: dict[str, str], message: str
) -> None:
    # Under another name, in another place.
    write_rows(workplace / "heldout.jsonl", _shared_rows(world, workplace, change))
    found = refuse("data.validation_manifest=heldout.jsonl", "validation.every=4")
    assert re.search(message, found)


def test_validation_manifest_has_usable_rows(workplace: Path, refuse: Any) -> None:
    (workplace / "heldout.jsonl").touch()
    assert "heldout.jsonl has no rows" in refuse(
        "data.validation_manifest=heldout.jsonl", "validation.every=4"
    )
    (workplace / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    row = {
        "id": "a",
        "target": "broken.png",
        "references": ["broken.png"],
        "caption": "x",
        "kind": "augmented",
    }
    write_rows(workplace / "heldout.jsonl", [row])
    assert "no usable " in refuse("data.validation_manifest=heldout.jsonl", "validation.every=4")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["data.kind_weights={single-scene=0, multi-scene=0, augmented=0}"],
            "stage videos: all weights of augmented, multi-scene, single-scene are 0",
        ),
        (["data.kind_weights={single-scene=1}"], "stage images: no weight for augmented, multi-scene"),
        (["packing.max_tokens=8"], "are longer than the budget of 8 tokens"),
        (["adapter.resampler_init=none.bin"], "adapter.resampler_init: there is no file at none.bin"),
    ],
)
def test_stages_can_be_planned(refuse: Any, arguments: Sequence[str], message: str) -> None:
    assert message in refuse(*arguments)


def test_more_processes_than_packs_run_packs_of_several_epochs(
    workplace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "64")
    assert main(["train", str(MINI_CONFIG), "run.output=run", "--dry-run"]) == 0
    shown = capsys.readouterr().out
    assert "stage images (images): 4 steps of 64 packs, " in shown
    assert float(shown.split("4 steps of 64 packs, ")[1].split(" epochs")[0]) > 20


def test_output_must_be_writable(workplace: Path, refuse: Any) -> None:
    (workplace / "file").touch()
    assert "file: it is a file" in refuse("run.output=file/run")


def test_room_is_what_the_policy_keeps(refuse: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(".")
    monkeypatch.setattr(estimate.shutil, "disk_usage", lambda _: usage._replace(free=2_000_000))
    message = refuse("run.keep_every=1")
    assert "run will take" in message and "8 checkpoints of" in message and "0.002 GB are free" in message


@pytest.mark.parametrize(
    ("there", "start", "keep_last", "keep_every", "most"),
    [([], 0, 2, 0, 3), ([], 0, 100, 0, 10), ([], 0, 2, 2, 6), ([4, 5], 5, 2, 0, 1), ([10], 10, 2, 0, 0)],
)
def test_most_checkpoints_at_a_time(
    there: list[int], start: int, keep_last: int, keep_every: int, most: int, tmp_path: Path
) -> None:
    config = make_configuration(
        tmp_path,
        tmp_path,
        run={
            "output": "x",
            "checkpoint_every": 1,
            "keep_last": keep_last,
            "keep_every": keep_every,
        },
    )
    assert count_more_checkpoints(there, start, 10, config.run) == most


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-10])


@pytest.mark.parametrize("folder", ["base", "models/vae", "models/text_encoder"])
def test_incomplete_models_are_told(world: Path, workplace: Path, refuse: Any, folder: str) -> None:
    shutil.copytree(world / folder, workplace / "copy")
    key = {"base": "base.transformer", "models/vae": "data.vae"}.get(folder, "data.text_encoder")
    weights = next((workplace / "copy").glob("*.safetensors"))
    _cut(weights)
    assert f"{weights.name} is cut short" in refuse(f"{key}=copy")
    weights.unlink()
    assert "there is no file of weights" in refuse(f"{key}=copy")
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}
    (workplace / "copy" / "model.safetensors.index.json").write_text(json.dumps(index))
    assert "2 of 2 files of weights are missing" in refuse(f"{key}=copy")
    (workplace / "copy" / "config.json").unlink()
    assert "config.json" in refuse(f"{key}=copy")


def _save_adapter(path: Path, variant: Any, num_blocks: int = 2, **changes: Any) -> None:
    small = {"resampler_dim": 64, "resampler_depth": 1, "resampler_heads": 1, "lite_token_dim": 24}
    save_modules(
        AdapterModules.create(configure_variant(variant, 32, num_blocks, **small, **changes), 0), path
    )


@pytest.mark.parametrize(
    ("made", "arguments", "message"),
    [
        ("full", ["adapter.variant=lite"], 'ID layers are full ones: 2 blocks, .* = "full" or "id_only"'),
        ("id_only", ["adapter.variant=lite"], 'ID layers are full ones: .* adapter.variant = "id_only"'),
        (
            "lite",
            ["adapter.variant=id_only"],
            'ID layers are lite ones: 1 blocks, .* adapter.variant = "lite"',
        ),
        ("lite", ["adapter.variant=full"], '"full" needs ref, and adapter.init .* has resampler, id'),
        ("id_only", ["adapter.variant=ref_only"], '"ref_only" needs ref'),
        ("full", ["adapter.resampler_depth=3"], "adapter.resampler_depth = 3 is for a new adapter, .* has 1"),
        ("full", ["adapter.lora_rank=33"], "adapter.lora_rank is at most 32, .* got 33"),
    ],
)
def test_adapter_to_start_from_fits_its_settings(
    workplace: Path, refuse: Any, made: Any, arguments: Sequence[str], message: str
) -> None:
    _save_adapter(workplace / "made.safetensors", made)
    found = refuse("adapter.init=['made.safetensors']", *arguments)
    assert re.search(message, found)
    assert "problems" not in found, "one misfit, one sentence"


def test_adapter_of_fewer_blocks_is_refused(workplace: Path, refuse: Any) -> None:
    _save_adapter(workplace / "made.safetensors", "full", num_blocks=1)
    found = refuse("adapter.init=['made.safetensors']")
    assert "has ID layers in 1 of the 2 blocks" in found and "none in 1" in found


def test_long_captions_are_counted(world: Path, workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [json.loads(line) for line in (world / "data" / "train.jsonl").read_text().splitlines()]
    for row in rows:
        row["target"] = str(world / "data" / row["target"])
        row["references"] = [str(world / "data" / name) for name in row["references"]]
    rows[3]["caption"] = "a man walks " * 300
    rows[4]["caption"] = "a man " * 400
    rows[5]["caption"] = "a " * 80
    write_rows(workplace / "train.jsonl", rows)
    assert main(["train", str(MINI_CONFIG), "run.output=run", "data.manifest=train.jsonl", "--dry-run"]) == 0
    out = capsys.readouterr().out
    assert "2 of 12 captions are longer than 512 tokens and are truncated" in out
    assert f"{rows[3]['id']} (" in out and f"{rows[4]['id']} (" in out


def test_dry_run_writes_nothing(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = sorted(workplace.iterdir())
    assert main(["train", str(MINI_CONFIG), "run.output=run", "data.cache=", "--dry-run"]) == 0
    assert sorted(workplace.iterdir()) == before


@pytest.mark.parametrize(
    ("arguments", "messages"),
    [
        (["adapter.variant=id_only", "adapter.ref_keys_init=base"], ["adapter.ref_keys_init"]),
        (["adapter.variant=ref_only", "adapter.resampler_init=x.bin"], ["adapter.resampler_init"]),
        (["adapter.init=['x']", "adapter.ref_keys_init=base"], ["adapter.ref_keys_init"]),
        (["adapter.init=['x']", "adapter.lora_rank=2", "adapter.lora_alpha=0"], ["adapter.lora_alpha"]),
        (
            [
                "optimizer.learning_rate=-1",
                "run.keep_last=0",
                "objective.text_dropout=2",
                "optimizer.lr=1",
                "run.sed=1",
            ],
            [
                "optimizer.learning_rate is more than 0, got -1",
                "run.keep_last is 1 or more, got 0",
                "objective.text_dropout is a share from 0 to 1, got 2",
                "unknown key optimizer.lr; keys of optimizer: kind, learning_rate, ",
                "unknown key run.sed; did you mean run.seed?",
            ],
        ),
    ],
)
def test_settings_that_would_do_nothing_or_make_no_sense(
    refuse: Any, arguments: Sequence[str], messages: Sequence[str]
) -> None:
    found = refuse(*arguments)
    assert all(message in found for message in messages)
