"""The experiment on pairs: three sets of the same targets, and measures that see what is copied."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from miniature.experiment.cases import draw_cases
from miniature.making import REPO_DIR
from miniature.pairs_experiment.copying import COPIED, measure_colours, measure_copying
from miniature.pairs_experiment.footage import write_backgrounds, write_footage
from miniature.pairs_experiment.report import ARM_NAMES, MEASURE_NAMES, make_tables
from miniature.pairs_experiment.sets import ALL_KINDS, ARMS, BACKGROUND, FIRST_FRAME, make_sets
from miniature.world.labels import pose_numbers


@pytest.mark.filterwarnings("ignore")
def test_three_sets_have_the_same_targets(tmp_path: Path) -> None:
    write_footage(tmp_path / "footage", 2, lambda text: None)
    write_backgrounds(tmp_path / "backgrounds")
    make_sets(tmp_path, REPO_DIR / "assets" / "mini", lambda text: None)
    rows = {
        arm: [json.loads(line) for line in (tmp_path / "sets" / arm / "train.jsonl").read_text().splitlines()]
        for arm in ARMS
    }
    targets = {arm: {(row["target"], tuple(row.get("frame_range", ()))) for row in rows[arm]} for arm in ARMS}
    assert (
        targets[FIRST_FRAME] == targets[BACKGROUND] == targets[ALL_KINDS] and len(targets[FIRST_FRAME]) >= 4
    )
    assert {row["kind"] for row in rows[FIRST_FRAME]} == {"single-scene"}
    assert {row["kind"] for row in rows[BACKGROUND]} == {"augmented"}
    assert {row["kind"] for row in rows[ALL_KINDS]} >= {"augmented", "multi-scene"}
    assert all(Path(row["references"][0]).is_file() for arm in ARMS for row in rows[arm])


def fake_measured(copies: bool) -> tuple[SimpleNamespace, SimpleNamespace]:
    """What is read in videos that copy the photo's pose, light and background; or that do not."""
    rng, cases = np.random.default_rng(0), draw_cases()[:64]
    poses = rng.normal(size=(64, 9, 6))
    noise = rng.normal(size=(64, 5))
    plain = {"edge": np.zeros((64, 3)), "warmth": np.zeros(64), "light_side": np.zeros(64)}
    rows = {"poses": poses, "edge": noise[:, :3], "warmth": noise[:, 3], "light_side": noise[:, 4]}
    if copies:
        photos = np.stack([case.reference.draw_frame(0)[None] for case in cases])
        seen = measure_colours(photos)
        poses[:, 0] = [pose_numbers(case.reference.pose) for case in cases]
        rows |= {"edge": seen["edge"]}
        rows["warmth"] = np.array([[0, 1, -1][case.reference.scene.light] for case in cases], float)
        rows["light_side"] = np.array([-case.reference.scene.light_side for case in cases])
    return SimpleNamespace(cases=cases, rows=[rows]), SimpleNamespace(cases=cases, rows=[plain])


def test_copying_is_one_for_a_copy_and_none_for_chance() -> None:
    copied = {name: values.mean() for name, values in measure_copying(*fake_measured(True)).items()}
    free = {name: values.mean() for name, values in measure_copying(*fake_measured(False)).items()}
    assert set(copied) == set(free) == set(COPIED)
    assert all(value == pytest.approx(1, abs=1e-6) for value in copied.values())
    assert all(abs(value) < 0.35 for value in free.values())


def test_colours_are_those_of_the_picture() -> None:
    clip = np.full((1, 2, 64, 64, 3), 100, np.uint8)
    clip[..., :32, 0] = 200  # the left is red
    seen = measure_colours(clip)
    assert seen["light_side"][0] > 0 and seen["warmth"][0] > 0
    assert seen["edge"][0, 1] == pytest.approx(101)


def test_tables_have_a_row_for_each_measure() -> None:
    estimate = {"mean": 0.5, "lo": 0.4, "hi": 0.6, "n": 10}
    each = dict.fromkeys(MEASURE_NAMES, estimate)
    results = {
        "measures": dict.fromkeys(ARM_NAMES, each),
        "differences": {"all_kinds - background": each},
        "settings": {"pairs": {"all_kinds": {"multi-scene": 3}}},
    }
    tables = make_tables(results)
    assert tables["measures"].count("0.500 (0.400 to 0.600)") == len(MEASURE_NAMES) * len(ARM_NAMES)
    assert "(c) - (b)" in tables["differences"] and "| (c) all kinds | 0 | 0 | 3 |" in tables["pairs"]
