"""Mutated files of every kind are read or refused, never anything else.

The suite opens a sample; `python tests/fuzz/runner.py` opens 12,000, and LYNX_FUZZ=all does so from here.
"""

from __future__ import annotations

import json
import os
import pickle
import random
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parent))

from mutations import mutate
from runner import Watch, find_fault, open_many, supervise
from targets import MEDIA, Target, make_targets

from lynx_core.spec import LynxError

CORPUS = Path(__file__).parent / "corpus"
KINDS = (
    "adapter", "identity", "recogniser", "base", "configuration", "benchmark", "curation", "manifest", "index", "workflow",
    "augmenter", "subjects", "prompts", "photo", "video",
)  # fmt: skip
SAMPLED = 12
MOST_GROWTH_MB = 200
REFUSED_SEEDS = ("old.bin", "base.safetensors", "animated.gif", "animated.png", "animated.webp")
"""Of the unchanged files: no adapter, no whole base, and animations, which are no photos."""

JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()),
    lambda values: st.lists(values, max_size=4) | st.dictionaries(st.text(max_size=8), values, max_size=4),
    max_leaves=8,
)


@pytest.fixture(scope="module")
def targets(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Target]]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield make_targets(tmp_path_factory.mktemp("seeds"))


@pytest.fixture(scope="module")
def watch() -> Watch:
    return Watch()


def test_every_kind_is_named(targets: dict[str, Target]) -> None:
    assert tuple(targets) == KINDS
    assert all(target.seeds for target in targets.values())


@pytest.mark.parametrize("kind", KINDS)
def test_files_as_they_are_open(targets: dict[str, Target], kind: str, tmp_path: Path) -> None:
    """Or else a mutated one that is refused would say nothing."""
    for seed in targets[kind].seeds:
        path = tmp_path / seed.name
        path.write_bytes(seed.raw)
        try:
            targets[kind].open(path)
        except LynxError as error:
            if seed.name not in REFUSED_SEEDS:
                raise AssertionError(f"{seed.name} is refused: {error}") from error


@pytest.mark.parametrize("kind", KINDS)
def test_mutated_files_are_read_or_refused(targets: dict[str, Target], kind: str, tmp_path: Path) -> None:
    assert list(open_many(targets[kind], range(10**6, 10**6 + SAMPLED), tmp_path)) == []


@pytest.mark.parametrize(
    "path", sorted(CORPUS.glob("*/*")), ids=lambda path: f"{path.parent.name}-{path.name}"
)
def test_what_once_failed_is_read_or_refused(
    targets: dict[str, Target], watch: Watch, path: Path, tmp_path: Path
) -> None:
    copy = tmp_path / path.name
    copy.write_bytes(path.read_bytes())
    assert watch.open(targets[path.parent.name], copy) is None


@pytest.mark.parametrize("kind", ["manifest", "workflow", "augmenter", "subjects", "index"])
@settings(
    max_examples=25, deadline=None, database=None, derandomize=True, suppress_health_check=list(HealthCheck)
)
@given(data=st.data())
def test_any_json_in_place_of_a_value(
    targets: dict[str, Target], watch: Watch, kind: str, tmp_path_factory: pytest.TempPathFactory, data: Any
) -> None:
    """What byte flips do not come upon: values of every type at every place."""
    seed = next(seed for seed in targets[kind].seeds if seed.name.endswith((".jsonl", ".json")))
    first, *rest = [seed.raw.decode()] if seed.name.endswith(".json") else seed.raw.decode().splitlines()
    content = json.loads(first)
    place, key = content, data.draw(st.sampled_from(sorted(content)))
    while isinstance(place[key], dict) and place[key] and data.draw(st.booleans()):
        place = place[key]
        key = data.draw(st.sampled_from(sorted(place)))
    place[key] = data.draw(JSON_VALUES)
    path = tmp_path_factory.mktemp("any") / seed.name
    path.write_text("\n".join([json.dumps(content), *rest]) + "\n")
    assert watch.open(targets[kind], path) is None


class Payload:
    """Unpickled, it makes a folder."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("kind", ["adapter", "identity", "recogniser", "base"])
@pytest.mark.parametrize("suffix", [".bin", ".pt", ".safetensors", ".gguf"])
def test_no_pickle_runs(
    targets: dict[str, Target], watch: Watch, kind: str, suffix: str, tmp_path: Path
) -> None:
    import torch

    ran = tmp_path / "ran"
    for number, save in enumerate((lambda p: p.write_bytes(pickle.dumps({"a": Payload(ran)})), lambda p: torch.save({"a": Payload(ran)}, p))):  # fmt: skip
        path = tmp_path / f"hostile{number}{suffix}"
        save(path)
        assert watch.open(targets[kind], path) is None
        assert not ran.exists()


def test_the_watch_itself_sees_what_it_is_for(watch: Watch, tmp_path: Path) -> None:
    path = tmp_path / "x.bin"
    path.touch()

    def refuse(message: str) -> Any:
        def open_it(_: Path) -> None:
            raise LynxError(message)

        return open_it

    assert watch.open(Target("a", (), refuse(f"{path} is damaged; make it anew")), path) is None
    assert "does not name the file" in str(watch.open(Target("a", (), refuse("it is damaged")), path))
    assert "builtins.KeyError" in str(watch.open(Target("a", (), lambda p: {}[p]), path))
    assert "runs subprocess.Popen" in str(
        watch.open(Target("a", (), lambda p: os.popen("true").read()), path)
    )
    assert find_fault(f"{path.name} \ud800", path) == "a message that cannot be printed"


def test_mutations_are_the_same_for_the_same_number() -> None:
    raw = json.dumps({"a": [1, 2, {"b": "c"}]}).encode() * 20
    some = [mutate(raw, random.Random(number)) for number in range(200)]
    assert some == [mutate(raw, random.Random(number)) for number in range(200)]
    assert sum(changed != raw for changed in some) > 190


@pytest.mark.skipif(
    os.environ.get("LYNX_FUZZ") != "all", reason="LYNX_FUZZ=all opens 12,000 files, in half an hour"
)
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("kind", KINDS)
def test_thousands(kind: str, tmp_path: Path) -> None:
    faults, growth_mb = supervise(kind, 1000 if kind in MEDIA else 834, tmp_path)
    assert faults == []
    assert growth_mb < MOST_GROWTH_MB
