"""Stages, cursors and weighted kinds: every sample in its turn, the same in every process."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from lynx_core.data.errors import DataError
from lynx_core.training import curriculum
from lynx_core.training.configuration import StageConfig
from lynx_core.training.configuration_file import ConfigurationError
from lynx_core.training.curriculum import (
    Cursor,
    PackIndices,
    PackStream,
    SampleTable,
    count_repeats,
    count_steps_left,
    find_stage,
    plan_epoch_items,
)
from lynx_core.training.packing import PackingConfig
from lynx_core.training.step import deal_packs

STAGES = (StageConfig("images", "images", 3), StageConfig("videos", "videos", 2))
FRAMES = np.array([1, 1, 1, 1, 3, 3, 5])
TABLE = SampleTable.make(list("abcdefg"), ["x", "x", "y", "y", "x", "y", "y"], 4 * FRAMES, FRAMES)
PACKING = PackingConfig(max_tokens=20, model_dim=16)


def make_stream(**changes: object) -> PackStream:
    arguments = {"table": TABLE, "stages": STAGES, "packing": PACKING, "seed": 3, **changes}
    return PackStream(**arguments)


def next_pack(stream: PackStream, stage: int) -> PackIndices:
    (pack,) = stream.next_step(stage)
    return pack


def test_stages_follow_each_other_by_their_own_steps() -> None:
    stream = make_stream()
    order = []
    while (stage := find_stage(stream.cursors, STAGES)) is not None:
        order.append(stage)
        stream.next_step(stage)
    assert order == [0, 0, 0, 1, 1] and count_steps_left(stream.cursors, STAGES) == 0
    longer = (replace(STAGES[0], steps=5), STAGES[1])
    assert find_stage(stream.cursors, longer) == 0 and count_steps_left(stream.cursors, longer) == 2
    shorter = (replace(STAGES[0], steps=1), replace(STAGES[1], steps=3))
    assert find_stage(stream.cursors, shorter) == 1 and count_steps_left(stream.cursors, shorter) == 1


def test_stages_see_their_kind_of_samples() -> None:
    stream = make_stream()
    images = {index for _ in range(4) for index in next_pack(stream, 0).samples}
    assert "videos" not in stream.cursors
    videos = {index for _ in range(4) for index in next_pack(stream, 1).samples}
    assert images == {0, 1, 2, 3} and videos == {4, 5, 6}


def test_stage_goes_on_where_it_stood_after_another() -> None:
    straight, interrupted = make_stream(), make_stream()
    expected = [next_pack(straight, 0) for _ in range(6)]
    found = [next_pack(interrupted, 0) for _ in range(3)]
    next_pack(interrupted, 1)
    assert found + [next_pack(interrupted, 0) for _ in range(3)] == expected


def test_first_frames_take_every_sample_as_an_image() -> None:
    stream = make_stream(stages=(StageConfig("frames", "first_frames", 1),))
    assert (TABLE.stage_lengths("first_frames") == 4).all()
    assert stream.plan(0, 0).report.num_samples == len(FRAMES)


@pytest.mark.parametrize("weights", [None, {"x": 3.0, "y": 1.0}])
def test_any_place_can_be_taken_up(weights: dict[str, float] | None) -> None:
    straight = make_stream(kind_weights=weights)
    orders, cursors = [], []
    for _ in range(12):
        cursors.append(dict(straight.cursors))
        orders.append(next_pack(straight, 0))
    for place in (0, 1, 5, 11):
        resumed = make_stream(kind_weights=weights)
        resumed.cursors = dict(cursors[place])
        assert [next_pack(resumed, 0) for _ in range(12 - place)] == orders[place:]
    assert cursors[-1]["images"].epoch > 0, "the test must cross an epoch"


@pytest.mark.parametrize("world_size", [1, 2, 3, 4, 6, 8])
def test_any_number_of_processes_shares_the_packs_of_a_step(world_size: int) -> None:
    stream = make_stream(packing=replace(PACKING, max_tokens=8), packs_per_step=4)
    for _ in range(3):
        packs = stream.next_step(0)
        dealt = [deal_packs(packs, rank, world_size) for rank in range(world_size)]
        assert len({len(own) for own in dealt}) == 1, "all take part in as many gatherings of gradients"
        counted = [pack.keys for own in dealt for pack, is_spare in own if not is_spare]
        assert sorted(counted, key=str) == sorted((pack.keys for pack in packs), key=str)


@pytest.mark.parametrize("weights", [None, {"x": 3.0, "y": 1.0}])
def test_an_epoch_in_parts_draws_what_a_whole_one_draws(
    monkeypatch: pytest.MonkeyPatch, weights: dict[str, float] | None
) -> None:
    rng = np.random.default_rng(0)
    frames = rng.choice([1, 3, 5], 300)
    table = SampleTable.make([str(i) for i in range(300)], list(rng.choice(["x", "y"], 300)), frames, frames)
    mixed = (StageConfig("all", "mixed", 1),)

    def draw_epoch(part_samples: int) -> list[PackIndices]:
        monkeypatch.setattr(curriculum, "PART_SAMPLES", part_samples)
        stream = make_stream(table=table, stages=mixed, packs_per_step=3, kind_weights=weights)
        packs, cursors = [], []
        while stream.cursors.get("all", Cursor()).epoch == 0:
            cursors.append(dict(stream.cursors))
            packs.append(stream.next_step(0))
        resumed = make_stream(table=table, stages=mixed, packs_per_step=3, kind_weights=weights)
        resumed.cursors = dict(cursors[-2])
        assert resumed.next_step(0) == packs[-2]
        return [pack for step in packs for pack in step if pack.keys[0].epoch == 0]

    whole, parts = (sorted((key for pack in draw_epoch(n) for key in pack.keys), key=str) for n in (1000, 37))
    assert whole == parts and len(parts) == 300
    assert len({pack.index for pack in draw_epoch(37)}) == len(draw_epoch(37))


def test_keys_differ_for_repeats_epochs_and_stages() -> None:
    stream = make_stream(kind_weights={"x": 5.0, "y": 1.0})
    keys = [key for stage in (0, 1) for _ in range(6) for key in next_pack(stream, stage).keys]
    assert len(set(keys)) == len(keys)
    assert any(key.repeat for key in keys)
    assert count_repeats(np.array([4, 2, 4, 4, 2])).tolist() == [0, 0, 1, 2, 1]


def test_stage_without_samples_is_refused() -> None:
    images = SampleTable.make(["a"], ["x"], [4], [1])
    with pytest.raises(ConfigurationError, match="it wants videos, and none of the 1 samples"):
        make_stream(table=images).plan(1, 0)


KINDS = ["single-scene"] * 60 + ["multi-scene"] * 30 + ["augmented"] * 10
EQUAL = {"single-scene": 1.0, "multi-scene": 1.0, "augmented": 1.0}


def plan(epoch: int, weights: dict[str, float] | None = None, **options) -> np.ndarray:
    return plan_epoch_items(KINDS, weights, seed=7, epoch=epoch, **options)


def test_without_weights_each_sample_comes_once() -> None:
    assert sorted(plan(3)) == list(range(100))


def test_shares_are_exact_over_the_epochs() -> None:
    counts: Counter[str] = Counter()
    for epoch in range(30):
        items = plan(epoch, EQUAL)
        counts.update(KINDS[index] for index in items)
        assert abs(len(items) - 100) <= 2
    assert counts == {"single-scene": 1000, "multi-scene": 1000, "augmented": 1000}


def test_every_sample_of_a_kind_comes_before_any_comes_again() -> None:
    seen: Counter[int] = Counter()
    for epoch in range(9):
        seen.update(plan(epoch, EQUAL).tolist())
        for kind in EQUAL:
            times = [seen[index] for index in range(100) if KINDS[index] == kind]
            assert max(times) - min(times) <= 1, (epoch, kind)


def test_an_epoch_follows_from_its_number_alone() -> None:
    straight = [plan(epoch, EQUAL).tolist() for epoch in range(6)]
    assert plan(5, EQUAL).tolist() == straight[5]
    assert len({tuple(sorted(items)) for items in straight}) > 1
    assert plan_epoch_items(KINDS, EQUAL, seed=8, epoch=0).tolist() != straight[0]


def test_weight_zero_leaves_a_kind_out() -> None:
    items = plan(0, {"single-scene": 2.0, "multi-scene": 1.0, "augmented": 0.0})
    assert {KINDS[index] for index in items} == {"single-scene", "multi-scene"}
    assert len(items) == 90


def test_stages_choose_eligible_samples_and_a_number_of_items() -> None:
    eligible = np.arange(100) % 2 == 0
    assert sorted(plan(0, eligible=eligible)) == list(range(0, 100, 2))
    items = plan(1, EQUAL, eligible=eligible, num_items=12)
    assert len(items) == 12 and all(eligible[items])
    assert len(plan(0, num_items=250)) == 250


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({"single-scene": 1.0}, "no weight for augmented, multi-scene; give 0"),
        ({**EQUAL, "multi-scen": 1.0}, "weight for 'multi-scen'.*did you mean 'multi-scene'"),
        ({**EQUAL, "augmented": -1.0}, "weight of 'augmented' is 0 or more, got -1"),
        (dict.fromkeys(EQUAL, 0.0), "all weights of .* are 0"),
    ],
)
def test_bad_weights_are_refused(weights: dict[str, float], message: str) -> None:
    with pytest.raises(DataError, match=message):
        plan(0, weights)


def test_nothing_eligible_is_refused() -> None:
    with pytest.raises(DataError, match="none of the 100 samples is eligible"):
        plan(0, eligible=np.zeros(100, dtype=bool))
