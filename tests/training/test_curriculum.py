"""Stages and the order of packs: pure functions of the step and three numbers."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from lynx_core.training.configuration import ConfigurationError, StageConfig
from lynx_core.training.curriculum import (
    Cursor,
    PackStream,
    SampleTable,
    StagePlace,
    count_repeats,
    find_stage,
)
from lynx_core.training.packing import PackingConfig

STAGES = (StageConfig("images", "images", 3), StageConfig("videos", "videos", 2))
FRAMES = np.array([1, 1, 1, 1, 3, 3, 5])
TABLE = SampleTable.make(list("abcdefg"), ["x", "x", "y", "y", "x", "y", "y"], 4 * FRAMES, FRAMES)
PACKING = PackingConfig(budget=20, model_dim=16)


def make_stream(**changes: object) -> PackStream:
    arguments = {"table": TABLE, "stages": STAGES, "packing": PACKING, "seed": 3, **changes}
    return PackStream(**arguments)


def test_stage_of_each_step() -> None:
    places = [find_stage(step, STAGES) for step in range(6)]
    assert places == [
        StagePlace(0, 0),
        StagePlace(0, 1),
        StagePlace(0, 2),
        StagePlace(1, 0),
        StagePlace(1, 1),
        None,
    ]


def test_stages_see_their_kind_of_samples() -> None:
    stream = make_stream()
    images = {index for _ in range(4) for index in stream.next_pack().samples}
    stream.enter_stage(1)
    assert stream.cursor == Cursor(1)
    videos = {index for _ in range(4) for index in stream.next_pack().samples}
    assert images == {0, 1, 2, 3} and videos == {4, 5, 6}
    stream.enter_stage(1)
    assert stream.cursor != Cursor(1), "entering the present stage starts nothing anew"


def test_first_frames_take_every_sample_as_an_image() -> None:
    stream = make_stream(stages=(StageConfig("frames", "first_frames", 1),))
    assert (TABLE.stage_lengths("first_frames") == 4).all()
    assert sum(len(stream.plan(0, 0).pack(step, 0)) for step in range(len(stream.plan(0, 0)))) == len(FRAMES)


@pytest.mark.parametrize("weights", [None, {"x": 3.0, "y": 1.0}])
def test_any_place_can_be_taken_up(weights: dict[str, float] | None) -> None:
    straight = make_stream(kind_weights=weights)
    orders, cursors = [], []
    for _ in range(12):
        cursors.append(straight.cursor)
        orders.append(straight.next_pack())
    for place in (0, 1, 5, 11):
        resumed = make_stream(kind_weights=weights)
        resumed.cursor = cursors[place]
        assert [resumed.next_pack() for _ in range(12 - place)] == orders[place:]
    assert cursors[-1].epoch > 0, "the test must cross an epoch"


def test_ranks_share_an_epoch_without_overlap() -> None:
    streams = [make_stream(packing=replace(PACKING, budget=8), rank=rank, world_size=2) for rank in (0, 1)]
    steps = len(streams[0].plan(0, 0))
    seen = [index for stream in streams for _ in range(steps) for index in stream.next_pack().samples]
    assert sorted(seen) == [0, 1, 2, 3]


def test_keys_differ_for_repeats_epochs_and_stages() -> None:
    stream = make_stream(kind_weights={"x": 5.0, "y": 1.0})
    keys = [key for _ in range(6) for key in stream.next_pack().keys]
    stream.enter_stage(1)
    keys += [key for _ in range(6) for key in stream.next_pack().keys]
    assert len(set(keys)) == len(keys)
    assert any(key.repeat for key in keys)
    assert count_repeats(np.array([4, 2, 4, 4, 2])).tolist() == [0, 0, 1, 2, 1]


def test_stage_without_samples_is_refused() -> None:
    images = SampleTable.make(["a"], ["x"], [4], [1])
    with pytest.raises(ConfigurationError, match="stage videos wants videos, and none of the 1 samples"):
        make_stream(table=images)
