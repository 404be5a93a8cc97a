"""Means over subjects x prompts with intervals: the crossed bootstrap.

Videos of one person are not independent, nor are those of one prompt. Each draw takes subjects and prompts anew,
both at once, so cells count as often as both of theirs were drawn (Owen 2007, "The pigeonhole bootstrap"). Methods
share the draws and only cells that both have are compared, so what a hard prompt costs all of them drops out of a
difference. The pigeonhole bootstrap is a little wider than needed: it counts the noise of single videos up to three
times, which 800 of them make small.

Letters: D draws, S subjects, P prompts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

LEVEL = 0.95
MIN_DRAWS = 2000


@dataclass(frozen=True)
class Interval:
    """A mean with its 95 % interval."""

    mean: float
    low: float
    high: float
    num_cells: int

    @property
    def excludes_zero(self) -> bool:
        return self.low > 0 or self.high < 0


class CrossedBootstrap:
    """Draws of subjects and prompts, the same for everything that is estimated with it.

    Args:
        num_subjects, num_prompts: of the tables.
        draws: 2,000 or more.
    """

    def __init__(self, num_subjects: int, num_prompts: int, draws: int = MIN_DRAWS, seed: int = 0) -> None:
        if draws < MIN_DRAWS:
            raise ValueError(f"a bootstrap takes at least {MIN_DRAWS} draws, got {draws}")
        rng = np.random.default_rng(seed)
        self._subjects = rng.multinomial(num_subjects, np.full(num_subjects, 1 / num_subjects), draws).astype(
            float
        )
        self._prompts = rng.multinomial(num_prompts, np.full(num_prompts, 1 / num_prompts), draws).astype(
            float
        )

    def draw_means(self, values_SP: np.ndarray) -> np.ndarray:
        """Mean of each draw, [D]; NaN cells are missing, and so is a draw that has no cell."""
        known = ~np.isnan(values_SP)
        sums = np.einsum(
            "ds,sp,dp->d", self._subjects, np.where(known, values_SP, 0.0), self._prompts, optimize=True
        )
        counts = np.einsum("ds,sp,dp->d", self._subjects, known.astype(float), self._prompts, optimize=True)
        with np.errstate(invalid="ignore", divide="ignore"):
            return sums / counts

    def estimate(self, values_SP: np.ndarray) -> Interval | None:
        """The mean of a table [S, P]; None when it is empty."""
        count = int((~np.isnan(values_SP)).sum())
        if not count:
            return None
        low, high = np.nanquantile(self.draw_means(values_SP), [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
        return Interval(float(np.nanmean(values_SP)), float(low), float(high), count)

    def compare(self, first_SP: np.ndarray, second_SP: np.ndarray) -> Interval | None:
        """Mean of first minus second over the cells that both have."""
        return self.estimate(first_SP - second_SP)


def bootstrap_rows(values: np.ndarray, draws: int = MIN_DRAWS, seed: int = 0) -> Interval | None:
    """The mean of independent values [n], as anchors by photo; None when there is none."""
    values = values[~np.isnan(values)]
    if not len(values):
        return None
    drawn = np.random.default_rng(seed).integers(len(values), size=(draws, len(values)))
    low, high = np.quantile(values[drawn].mean(1), [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(float(values.mean()), float(low), float(high), len(values))


def fit_mixed_model(values_SP: np.ndarray) -> Interval:
    """The mean by a mixed model with subjects and prompts as crossed random effects, as a check of the bootstrap."""
    import statsmodels.api
    from scipy.stats import norm

    subjects, prompts = np.nonzero(~np.isnan(values_SP))
    y = values_SP[subjects, prompts]
    effects: Mapping[str, Any] = {"subject": subjects, "prompt": prompts}
    designs = {name: (codes[:, None] == np.unique(codes)).astype(float) for name, codes in effects.items()}
    names = list(designs)
    components = statsmodels.regression.mixed_linear_model.VCSpec(
        names,
        [[[f"{name}{i}" for i in range(designs[name].shape[1])]] for name in names],
        [[designs[name]] for name in names],
    )
    model = statsmodels.api.MixedLM(y, np.ones((len(y), 1)), groups=np.zeros(len(y)), exog_vc=components)
    fitted = model.fit(reml=True)
    half = float(norm.ppf((1 + LEVEL) / 2) * fitted.bse_fe[0])
    mean = float(fitted.fe_params[0])
    return Interval(mean, mean - half, mean + half, len(y))
