"""The configuration refuses what it cannot read, by name, and takes what it wrote itself."""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import Any

import pytest
from small_run import MINI_CONFIG, parse_configuration, plain_configuration

from lynx_core.training.configuration import read_configuration
from lynx_core.training.configuration_file import RENAMED_KEYS, ConfigurationError, as_plain
from lynx_core.training.optimizer import learning_rate_at

CONFIGS_DIR = Path(__file__).resolve().parents[2] / "configs"


@pytest.fixture
def values() -> dict[str, Any]:
    return plain_configuration(Path("world"), Path("out"))


def test_file_overrides_and_back() -> None:
    config = read_configuration(
        MINI_CONFIG,
        ["optimizer.learning_rate=2e-5", "stages.1.steps = 9", "run.output=/other", "validation.every=0"],
    )
    assert config.optimizer.learning_rate == 2e-5
    assert [stage.steps for stage in config.stages] == [4, 9]
    assert config.run.output == Path("/other")
    assert parse_configuration(as_plain(config)) == config


def test_an_empty_override_takes_a_key_out() -> None:
    changes = ["adapter.lora_alpha=4.0", "adapter.lora_alpha="]
    assert read_configuration(MINI_CONFIG, changes) == read_configuration(MINI_CONFIG)
    with pytest.raises(ConfigurationError, match=r"data\.vae is missing"):
        read_configuration(MINI_CONFIG, ["data.vae="])


@pytest.mark.parametrize(
    ("key", "meant"),
    [
        ("optimiser.kind", "optimizer"),
        ("optimizer.learnig_rate", "optimizer.learning_rate"),
        ("decoding.max_frame", "decoding.max_frames"),
        ("stages.0.stepps", "stages.0.steps"),
        # A key of this name in another section comes before a near spelling in this one.
        ("data.fps", "decoding.fps"),
        ("fps", "decoding.fps"),
        ("packing.seed", "run.seed"),
        ("optimizer.every", "validation.every"),
        ("packing.shift", "objective.shift or validation.shift"),
    ],
)
def test_unknown_key_is_refused_with_the_one_meant(key: str, meant: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        read_configuration(MINI_CONFIG, [f"{key}=1"])
    # An unknown section is named as such, not with the keys in it.
    named = key if meant != "optimizer" else "optimiser"
    where = f"{MINI_CONFIG} with the changes of the command line: "
    assert str(caught.value).removeprefix(where).startswith(f"unknown key {named}; did you mean {meant}? ")


@pytest.mark.parametrize("key", ["data.nonsense", "optimizer.zzz", "nonsense"])
def test_unknown_key_like_no_other_has_no_hint(key: str) -> None:
    with pytest.raises(ConfigurationError, match=f"unknown key {key}; ") as caught:
        read_configuration(MINI_CONFIG, [f"{key}=1"])
    assert "did you mean" not in str(caught.value)
    known = "keys of " + key.split(".")[0] if "." in key else "the file has the sections"
    assert known in str(caught.value)


@pytest.mark.parametrize(("old", "new"), RENAMED_KEYS.items())
@pytest.mark.parametrize("place", ["file", "command line"])
def test_keys_of_before_are_refused_with_the_new_name(old: str, new: str, place: str, tmp_path: Path) -> None:
    section, name = old.split(".")
    text, overrides = MINI_CONFIG.read_text(), [f"{old}=1"]
    if place == "file":
        head = f"[{section}]\n"
        text = text.replace(head, f"{head}{name} = 1\n") if head in text else f"{text}\n{head}{name} = 1\n"
        overrides = []
    (tmp_path / "old.toml").write_text(text)
    with pytest.raises(ConfigurationError, match=f"old.toml.*: {old} is called {new} now; rename it$"):
        read_configuration(tmp_path / "old.toml", overrides)
    # The table itself: the new key is one that something reads.
    assert new.split(".")[1] in as_plain(read_configuration(MINI_CONFIG, [_any_value_of(new)]))[section]


def _any_value_of(key: str) -> str:
    texts = {
        "objective.timestep_sampling": "uniform",
        "objective.loss_reduction": "token",
        "data.face_recogniser": "mini/x",
    }
    return f"{key}={texts.get(key, 1)}" if key != "data.face_model_pack" else f"{key}='x'"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("optimizer.decay_steps=99", "optimizer.decay_steps is at most 8, the steps of all stages, got 99"),
        ("optimizer.learning_rate=-1", "optimizer.learning_rate is more than 0, got -1"),
        ("optimizer.learning_rate=fast", "optimizer.learning_rate is a number, got 'fast'"),
        (
            "optimizer.gradient_accumulation_steps=1.5",
            "optimizer.gradient_accumulation_steps is a whole number",
        ),
        ("optimizer.kind=sgd", "one of adamw, adamw8bit_bitsandbytes"),
        ("packing.max_tokens=0", "packing.max_tokens is 1 or more, got 0"),
        ("decoding.max_frames=80", "4k\\+1"),
        ("adapter.lora_rank=8", "adapter.init"),
        ("base.gradient_checkpointing=1", "true or false"),
        ("data.faces_aligned=false", "data.face_models"),
        ("stages.5.steps=1", "there are 2 entries"),
        ("nonsense", "section.key=value"),
        ("stages.1.name=images", "stages.name"),
        ("objective.text_dropout=1.5", "a share from 0 to 1"),
    ],
)
def test_wrong_values_are_named(override: str, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        read_configuration(MINI_CONFIG, [override])


def test_missing_key_is_named(values: dict[str, Any]) -> None:
    del values["data"]["manifest"]
    with pytest.raises(ConfigurationError, match=r"data\.manifest is missing"):
        parse_configuration(values)


def test_unreadable_file(tmp_path: Path) -> None:
    (tmp_path / "bad.toml").write_text("[run\n")
    with pytest.raises(ConfigurationError, match="is no TOML"):
        read_configuration(tmp_path / "bad.toml")
    with pytest.raises(ConfigurationError, match="cannot be read"):
        read_configuration(tmp_path / "none.toml")


@pytest.mark.parametrize(
    "path",
    sorted(p for p in CONFIGS_DIR.glob("*.toml") if not p.name.startswith(("benchmark_", "curate_"))),
    ids=lambda path: path.stem,
)
def test_shipped_configurations_are_read(path: Path) -> None:
    config = read_configuration(path)
    assert config.total_steps > 0
    head = path.read_text().split("\n\n")[0]
    assert f"comfy-lynx train configs/{path.name}" in path.read_text()
    assert head.startswith("#")


def test_learning_rate_warms_up_and_decays() -> None:
    changes = ["optimizer.learning_rate=1", "optimizer.warmup_steps=3", "optimizer.decay_steps=3"]
    config = read_configuration(MINI_CONFIG, [*changes, "stages.0.steps=5", "stages.1.steps=5"])
    rates = [
        learning_rate_at(step, config.optimizer, config.total_steps) for step in range(config.total_steps)
    ]
    assert rates == [0.25, 0.5, 0.75, 1, 1, 1, 1, 0.75, 0.5, 0.25]


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_learning_rate_falls_all_along(schedule: str) -> None:
    changes = ["optimizer.learning_rate=1", f"optimizer.schedule={schedule}", "optimizer.warmup_steps=1"]
    config = read_configuration(MINI_CONFIG, changes)
    rates = [learning_rate_at(step, config.optimizer, 9) for step in range(9)]
    assert rates[0] == 0.5 and rates[1] == 1.0, "warm-up as with a constant rate"
    assert all(before > after > 0 for before, after in itertools.pairwise(rates[1:]))
    # Half of the way between the peak, at step 1, and 0, a step after the last.
    assert rates[5] == pytest.approx(0.5)
    expected = 1 / 8 if schedule == "linear" else 0.5 * (1 + math.cos(math.pi * 7 / 8))
    assert rates[8] == pytest.approx(expected)
    message = f'only for optimizer.schedule = "constant"; "{schedule}" falls all along'
    with pytest.raises(ValueError, match=message):
        read_configuration(MINI_CONFIG, [*changes, "optimizer.decay_steps=2"])
