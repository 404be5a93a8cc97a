"""Means with their uncertainty: bootstrap over cases and training seeds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

NUM_RESAMPLES = 2000
LEVEL = 0.95


@dataclass(frozen=True)
class Estimate:
    """A mean with its 95 % confidence interval over `n` values."""

    mean: float
    lo: float
    hi: float
    n: int

    def as_json(self) -> dict[str, float]:
        """Plain numbers, rounded."""
        figures = {name: round(getattr(self, name), 4) for name in ("mean", "lo", "hi")}
        return {**figures, "n": self.n}


def estimate_mean(values: np.ndarray) -> Estimate:
    """Mean of [seeds, cases]; cases with a NaN in any seed do not count.

    Seeds and cases are drawn anew, each as a whole: the videos of one person under several seeds are not
    independent of each other.
    """
    return _bootstrap(lambda rows: float(rows[0].mean()), values)


def estimate_r2(read: np.ndarray, true: np.ndarray) -> Estimate:
    """Share of the variance of `true` that `read` explains, both [seeds, cases]; below 0 when worse than the mean."""
    spread = (true - true.mean()) ** 2
    return _bootstrap(lambda rows: float(1 - rows[0].mean() / rows[1].mean()), (read - true) ** 2, spread)


def estimate_correlation(a: np.ndarray, b: np.ndarray) -> Estimate:
    """Pearson's correlation of [seeds, cases] with [seeds, cases]."""
    return _bootstrap(lambda rows: float(np.corrcoef(rows[0].ravel(), rows[1].ravel())[0, 1]), a, b)


def _bootstrap(statistic: Callable[[list[np.ndarray]], float], *values: np.ndarray) -> Estimate:
    known = ~np.any([np.isnan(each.astype(float)).any(0) for each in values], axis=0)
    kept = [each.astype(float)[:, known] for each in values]
    seeds, cases = kept[0].shape
    if not cases:
        raise ValueError("there is no case to take a mean over")
    rng = np.random.default_rng(0)
    drawn = []
    for _ in range(NUM_RESAMPLES):
        rows, columns = rng.integers(seeds, size=seeds), rng.integers(cases, size=cases)
        drawn.append(statistic([each[np.ix_(rows, columns)] for each in kept]))
    lo, hi = np.quantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Estimate(statistic(kept), float(lo), float(hi), seeds * cases)
