"""Weighted sampling of kinds: exact shares, no sample twice before all were seen, no state."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from lynx_core.data.errors import DataError
from lynx_core.training.curriculum import plan_epoch_items

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
