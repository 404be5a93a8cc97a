"""The crossed bootstrap, against simulations and a mixed model."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

from lynx_core.evaluation.statistics import CrossedBootstrap, bootstrap_rows, fit_mixed_model


def draw_table(rng: np.random.Generator, subjects: int, prompts: int, mean: float = 0.6) -> np.ndarray:
    """Subjects differ by 0.1, prompts by 0.05, single videos by 0.05 (standard deviations)."""
    parts = rng.normal(0, 0.1, (subjects, 1)), rng.normal(0, 0.05, (1, prompts))
    return mean + parts[0] + parts[1] + rng.normal(0, 0.05, (subjects, prompts))


def test_intervals_hold_the_truth_about_as_often_as_they_say() -> None:
    rng = np.random.default_rng(1)
    bootstrap = CrossedBootstrap(20, 12)
    inside = naive = 0
    for _ in range(200):
        table = draw_table(rng, 20, 12)
        interval = bootstrap.estimate(table)
        assert interval is not None
        inside += interval.low <= 0.6 <= interval.high
        flat = bootstrap_rows(table.ravel())
        assert flat is not None
        naive += flat.low <= 0.6 <= flat.high
    assert 0.88 <= inside / 200 <= 1
    assert naive / 200 < 0.6, "videos taken for independent give intervals that are far too narrow"


def test_it_agrees_with_a_mixed_model() -> None:
    table = draw_table(np.random.default_rng(2), 12, 8)
    interval = CrossedBootstrap(12, 8).estimate(table)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = fit_mixed_model(table)
    assert interval is not None
    assert interval.mean == pytest.approx(model.mean, abs=1e-3)
    assert (interval.high - interval.low) == pytest.approx(model.high - model.low, rel=0.35)


def test_differences_are_paired() -> None:
    """A constant gain is seen exactly, however far apart people and prompts are."""
    table = draw_table(np.random.default_rng(3), 10, 6)
    gain = CrossedBootstrap(10, 6).compare(table + 0.01, table)
    assert gain is not None and gain.excludes_zero
    assert gain.low == pytest.approx(0.01) and gain.high == pytest.approx(0.01)


def test_only_cells_that_both_have_are_compared() -> None:
    first, second = np.array([[1.0, np.nan], [3.0, 4.0]]), np.array([[0.5, 9.0], [np.nan, 3.5]])
    difference = CrossedBootstrap(2, 2).compare(first, second)
    assert difference is not None and difference.mean == pytest.approx(0.5) and difference.num_cells == 2


def test_empty_tables_have_no_figure_and_few_draws_are_refused() -> None:
    assert CrossedBootstrap(2, 2).estimate(np.full((2, 2), np.nan)) is None
    assert bootstrap_rows(np.array([np.nan])) is None
    with pytest.raises(ValueError, match="at least 2000"):
        CrossedBootstrap(2, 2, draws=100)
