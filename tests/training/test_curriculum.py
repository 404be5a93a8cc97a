"""Stages and the order of packs: pure functions of three numbers a stage."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from lynx_core.training.configuration import StageConfig
from lynx_core.training.configuration_file import ConfigurationError
from lynx_core.training.curriculum import (
    PackStream,
    SampleTable,
    count_repeats,
    count_steps_left,
    find_stage,
)
from lynx_core.training.packing import PackingConfig

STAGES = (StageConfig("images", "images", 3), StageConfig("videos", "videos", 2))
FRAMES = np.array([1, 1, 1, 1, 3, 3, 5])
TABLE = SampleTable.make(list("abcdefg"), ["x", "x", "y", "y", "x", "y", "y"], 4 * FRAMES, FRAMES)
PACKING = PackingConfig(max_tokens=20, model_dim=16)


def make_stream(**changes: object) -> PackStream:
    arguments = {"table": TABLE, "stages": STAGES, "packing": PACKING, "seed": 3, **changes}
    return PackStream(**arguments)


def test_stages_follow_each_other_by_their_own_steps() -> None:
    stream = make_stream()
    order = []
    while (stage := find_stage(stream.cursors, STAGES)) is not None:
        order.append(stage)
        stream.finish_step(stage)
    assert order == [0, 0, 0, 1, 1] and count_steps_left(stream.cursors, STAGES) == 0
    longer = (replace(STAGES[0], steps=5), STAGES[1])
    assert find_stage(stream.cursors, longer) == 0 and count_steps_left(stream.cursors, longer) == 2
    shorter = (replace(STAGES[0], steps=1), replace(STAGES[1], steps=3))
    assert find_stage(stream.cursors, shorter) == 1 and count_steps_left(stream.cursors, shorter) == 1


def test_stages_see_their_kind_of_samples() -> None:
    stream = make_stream()
    images = {index for _ in range(4) for index in stream.next_pack(0).samples}
    assert "videos" not in stream.cursors
    videos = {index for _ in range(4) for index in stream.next_pack(1).samples}
    assert images == {0, 1, 2, 3} and videos == {4, 5, 6}


def test_stage_goes_on_where_it_stood_after_another() -> None:
    straight, interrupted = make_stream(), make_stream()
    expected = [straight.next_pack(0) for _ in range(6)]
    found = [interrupted.next_pack(0) for _ in range(3)]
    interrupted.next_pack(1)
    assert found + [interrupted.next_pack(0) for _ in range(3)] == expected


def test_first_frames_take_every_sample_as_an_image() -> None:
    stream = make_stream(stages=(StageConfig("frames", "first_frames", 1),))
    assert (TABLE.stage_lengths("first_frames") == 4).all()
    assert sum(len(stream.plan(0, 0).pack(step, 0)) for step in range(len(stream.plan(0, 0)))) == len(FRAMES)


@pytest.mark.parametrize("weights", [None, {"x": 3.0, "y": 1.0}])
def test_any_place_can_be_taken_up(weights: dict[str, float] | None) -> None:
    straight = make_stream(kind_weights=weights)
    orders, cursors = [], []
    for _ in range(12):
        cursors.append(dict(straight.cursors))
        orders.append(straight.next_pack(0))
    for place in (0, 1, 5, 11):
        resumed = make_stream(kind_weights=weights)
        resumed.cursors = dict(cursors[place])
        assert [resumed.next_pack(0) for _ in range(12 - place)] == orders[place:]
    assert cursors[-1]["images"].epoch > 0, "the test must cross an epoch"


def test_ranks_share_an_epoch_without_overlap() -> None:
    streams = [
        make_stream(packing=replace(PACKING, max_tokens=8), rank=rank, world_size=2) for rank in (0, 1)
    ]
    steps = len(streams[0].plan(0, 0))
    seen = [index for stream in streams for _ in range(steps) for index in stream.next_pack(0).samples]
    assert sorted(seen) == [0, 1, 2, 3]


def test_keys_differ_for_repeats_epochs_and_stages() -> None:
    stream = make_stream(kind_weights={"x": 5.0, "y": 1.0})
    keys = [key for stage in (0, 1) for _ in range(6) for key in stream.next_pack(stage).keys]
    assert len(set(keys)) == len(keys)
    assert any(key.repeat for key in keys)
    assert count_repeats(np.array([4, 2, 4, 4, 2])).tolist() == [0, 0, 1, 2, 1]


def test_stage_without_samples_is_refused() -> None:
    images = SampleTable.make(["a"], ["x"], [4], [1])
    with pytest.raises(ConfigurationError, match="it wants videos, and none of the 1 samples"):
        make_stream(table=images).plan(1, 0)
