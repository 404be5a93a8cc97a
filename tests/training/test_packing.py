"""Packing: nothing lost, nothing over the budget, and the same plan in every process."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter

import numpy as np
import pytest

from lynx_core.tokens import count_tokens, latent_shape
from lynx_core.training.configuration_file import ConfigurationError
from lynx_core.training.packing import (
    PackingConfig,
    PackingError,
    estimate_flops,
    fit_to_budget,
    group_by_flops,
    plan_epoch,
    plan_packs,
)

CONFIG = PackingConfig(max_tokens=1000, window=8, model_dim=64)


def mixed_lengths(count: int, seed: int = 0, largest: int = 1000) -> np.ndarray:
    return np.random.default_rng(seed).integers(10, largest + 1, count)


def packs_of(plan) -> list[list[int]]:
    return [plan.pack(index) for index in range(len(plan))]


@pytest.mark.parametrize(
    ("frames", "height", "width", "tokens"),
    [(81, 640, 640, 33_600), (1, 640, 640, 1600), (81, 480, 832, 32_760), (5, 16, 16, 2)],
)
def test_token_counts(frames: int, height: int, width: int, tokens: int) -> None:
    assert count_tokens(latent_shape(frames, height, width)) == tokens


@pytest.mark.parametrize("wrong", [(80, 640, 640), (0, 640, 640), (81, 648, 640), (81, 640, 0)])
def test_token_counts_refuse_what_the_vae_does_not_take(wrong: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match=r"4k\+1|multiple of 16"):
        latent_shape(*wrong)


@pytest.mark.parametrize("packs_per_step", [1, 2, 3, 8])
@pytest.mark.parametrize("count", [61, 500])
def test_every_sample_is_placed_once_and_no_pack_is_over_the_budget(packs_per_step: int, count: int) -> None:
    lengths = mixed_lengths(count)
    plan = plan_epoch(lengths, CONFIG, seed=3, epoch=1, packs_per_step=packs_per_step)
    packs = packs_of(plan)
    assert len(packs) % packs_per_step == 0
    assert sorted(i for pack in packs for i in pack) == list(range(count))
    sums = [int(lengths[pack].sum()) for pack in packs]
    assert max(sums) <= CONFIG.max_tokens
    assert plan.report.fill == pytest.approx(sum(sums) / (len(packs) * CONFIG.max_tokens))
    assert plan.report.num_samples == count and plan.report.num_packs == len(packs)


def test_first_fit_equals_a_plain_reference() -> None:
    """With a window that never fills, the packs are those of textbook first fit."""
    lengths = mixed_lengths(300, largest=700)
    expected: list[list[int]] = []
    for index, length in enumerate(lengths):
        for pack in expected:
            if lengths[pack].sum() + length <= 1000:
                pack.append(index)
                break
        else:
            expected.append([index])
    pack_of = plan_packs(lengths, 1000, window=1000)
    assert [list(np.flatnonzero(pack_of == n)) for n in range(len(expected))] == expected


def test_window_bounds_the_open_packs() -> None:
    lengths = mixed_lengths(400, largest=600)
    pack_of = plan_packs(lengths, 1000, window=4)
    last_seen = {pack: position for position, pack in enumerate(pack_of)}
    for position, pack in enumerate(pack_of):
        is_open = [p for p in set(pack_of[: position + 1]) if last_seen[p] > position]
        assert len(is_open) <= 4, (position, pack)


def test_items_choose_and_repeat_samples() -> None:
    lengths = mixed_lengths(50)
    items = [7, 7, 7, *range(20, 40)]
    plan = plan_epoch(lengths, CONFIG, seed=0, epoch=0, packs_per_step=2, items=items)
    assert Counter(i for pack in packs_of(plan) for i in pack) == Counter(items)


def test_epochs_and_seeds_differ_and_repeat_themselves() -> None:
    lengths = mixed_lengths(200)

    def packs(seed: int, epoch: int) -> list[list[int]]:
        return packs_of(plan_epoch(lengths, CONFIG, seed=seed, epoch=epoch, packs_per_step=2))

    assert packs(0, 0) == packs(0, 0)
    assert packs(0, 0) != packs(0, 1)
    assert packs(0, 0) != packs(1, 0)


def test_packs_of_a_step_cost_alike() -> None:
    lengths = mixed_lengths(4000)
    plan = plan_epoch(lengths, CONFIG, seed=0, epoch=0, packs_per_step=8)
    costs = np.array([estimate_flops(lengths[pack], CONFIG).sum() for pack in packs_of(plan)])
    steps = costs.reshape(-1, 8)
    grouped = steps.max(1).sum() / steps.mean(1).sum()
    shuffled = np.random.default_rng(0).permutation(costs).reshape(-1, 8)
    at_random = shuffled.max(1).sum() / shuffled.mean(1).sum()
    assert plan.report.imbalance == pytest.approx(grouped)
    assert grouped < 1.01
    assert at_random > 1.1, "the workload shows nothing"


def test_cost_does_not_drift_over_the_epoch() -> None:
    costs = np.arange(800, dtype=float)
    grouped = group_by_flops(costs, 8, seed=0, epoch=0)
    assert sorted(grouped) == list(range(800))
    halves = costs[grouped[:400]].mean(), costs[grouped[400:]].mean()
    assert abs(halves[0] - halves[1]) < 100
    places = grouped.reshape(-1, 8).argmax(axis=1)
    assert len(set(places)) == 8, "the dearest pack always has the same place in its step"
    assert len(group_by_flops(costs[:797], 8, seed=0, epoch=0)) == 797, "nothing is lost that fills no step"


def test_flops_are_the_stated_estimate() -> None:
    config = PackingConfig(model_dim=8, attention_weight=2.0)
    assert estimate_flops(np.array([10, 3]), config).tolist() == [
        24 * 10 * 64 + 4 * 2 * 100 * 8,
        24 * 3 * 64 + 4 * 2 * 9 * 8,
    ]


def test_packs_are_split_so_that_steps_are_full() -> None:
    # 9 packs of 4 samples in steps of 8: 7 are split.
    plan = plan_epoch([250] * 36, CONFIG, seed=0, epoch=0, packs_per_step=8)
    assert (plan.report.num_packs, plan.report.num_split) == (16, 7)
    assert sorted(i for pack in packs_of(plan) for i in pack) == list(range(36))


@pytest.mark.parametrize("count", [2, 11])
def test_packs_of_one_sample_fill_no_step_and_are_all_there(count: int) -> None:
    plan = plan_epoch([900] * count, CONFIG, seed=0, epoch=0, packs_per_step=4)
    assert (plan.report.num_packs, plan.report.num_split) == (count, 0)
    assert plan.report.num_steps == -(-count // 4)
    assert sorted(i for pack in packs_of(plan) for i in pack) == list(range(count))


def test_nothing_to_pack_is_refused() -> None:
    with pytest.raises(PackingError, match="no sample to pack"):
        plan_epoch([], CONFIG, seed=0, epoch=0, packs_per_step=1)


def test_over_long_samples_are_refused_by_name() -> None:
    shapes = [(1, 20, 20), (21, 20, 20), (1, 80, 80)]
    with pytest.raises(
        PackingError, match=r"2 of 3 .* budget of 1000 tokens: b \(2100 tokens\), c \(1600 tokens\)"
    ):
        fit_to_budget(shapes, CONFIG, names=["a", "b", "c"])
    with pytest.raises(PackingError, match="apply fit_to_budget first"):
        plan_epoch([10, 1001], CONFIG, seed=0, epoch=0, packs_per_step=1)


def test_over_long_samples_are_trimmed_to_whole_latent_frames() -> None:
    config = PackingConfig(max_tokens=1000, oversize="trim")
    fitted = fit_to_budget([(1, 20, 20), (21, 20, 24), (3, 20, 20)], config)
    assert fitted.lengths.tolist() == [100, 8 * 120, 300]
    assert fitted.trimmed == {1: 8}
    with pytest.raises(PackingError, match="a single frame of these does not fit"):
        fit_to_budget([(1, 80, 80)], config)


@pytest.mark.parametrize(
    "wrong",
    [{"max_tokens": 0}, {"window": 0}, {"oversize": "drop"}, {"model_dim": 0}, {"attention_weight": -1.0}],
)
def test_bad_configurations_are_refused(wrong: dict) -> None:
    with pytest.raises(ConfigurationError, match=f"packing.{next(iter(wrong))} is "):
        PackingConfig(**wrong)


PRINT_PLAN = """
import hashlib, numpy as np
from lynx_core.training.packing import PackingConfig, plan_epoch
lengths = (np.arange(500) * 7919) % 991 + 10
plan = plan_epoch(lengths, PackingConfig(max_tokens=1000, window=8), seed=5, epoch=2, packs_per_step=3)
packs = [plan.pack(i) for i in range(len(plan))]
print(hashlib.sha256(repr(packs).encode()).hexdigest())
"""


def test_plan_is_the_same_in_every_process_and_version() -> None:
    """Also a golden: a plan that changes would break the resume of runs that have begun."""
    digests = {
        subprocess.run(
            [sys.executable, "-c", PRINT_PLAN],
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
        for hash_seed in ("0", "4242")
    }
    assert digests == {"84729f36c6a4f9602cb27834c3fd8279488265d084202a8883b4b0f814c67452"}
