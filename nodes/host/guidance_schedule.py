"""When prompt and identity guide: windows over sampling, and an identity difference that is kept over some steps.

Limited-interval guidance (Kynkäänniemi et al. 2024, arXiv 2404.07724): outside of its window a guidance has scale 1,
and a prediction that no scale needs is not made. Between the steps that make it, the difference of identity
guidance, `i - u`, is the one of the last step that did.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor


@dataclass(frozen=True)
class GuidanceWindow:
    """The part of sampling in which a guidance acts, 0 to 1; both ends belong to it.

    Raises:
        ValueError: when it does not lie within 0 and 1, or ends before it starts.
    """

    start: float = 0.0
    end: float = 1.0

    def __post_init__(self) -> None:
        if not 0.0 <= self.start <= self.end <= 1.0:
            raise ValueError(
                f"the window must lie within 0 and 1 and start before it ends, got start {self.start:g}, end "
                f"{self.end:g}"
            )

    @property
    def is_whole(self) -> bool:
        return self.start == 0.0 and self.end == 1.0

    def holds(self, sigma: float, model_sampling: Any) -> bool:
        """Whether a noise level lies in it, as the host's timestep ranges count."""
        if self.is_whole:
            return True
        start, end = (float(model_sampling.percent_to_sigma(share)) for share in (self.start, self.end))
        return end <= sigma <= start

    def __str__(self) -> str:
        return "" if self.is_whole else f" from {self.start:.0%} to {self.end:.0%}"


@dataclass(frozen=True)
class StepGuidance:
    """The scales of one call of the model, and which negative predictions it needs."""

    cfg: float
    identity_cfg: float
    uses_kept: bool = False
    """Take the kept difference in place of the prediction of nobody."""

    @property
    def needs_nobody(self) -> bool:
        return not (math.isclose(self.identity_cfg, 1.0) or self.uses_kept)

    @property
    def needs_person(self) -> bool:
        # With the kept difference at cfg 1 the prompt's prediction is all that is left.
        return not math.isclose(self.cfg, 1.0 if self.uses_kept else self.identity_cfg)

    @property
    def count(self) -> int:
        """Predictions made."""
        return 1 + self.needs_nobody + self.needs_person


@dataclass(frozen=True)
class GuidanceSchedule:
    """Scales, their windows, and every how many steps the identity's difference is made.

    Raises:
        ValueError: when `identity_every` is below 1.
    """

    cfg: float
    identity_cfg: float
    prompt_window: GuidanceWindow = field(default_factory=GuidanceWindow)
    identity_window: GuidanceWindow = field(default_factory=GuidanceWindow)
    identity_every: int = 1

    def __post_init__(self) -> None:
        if self.identity_every < 1:
            raise ValueError(f"identity_cfg_every must be 1 or more, got {self.identity_every}")

    @property
    def is_constant(self) -> bool:
        return self.prompt_window.is_whole and self.identity_window.is_whole and self.identity_every == 1

    def scale_at(self, sigma: float, model_sampling: Any) -> StepGuidance:
        """Give the scales at a noise level; the difference is made anew."""
        return StepGuidance(
            self.cfg if self.prompt_window.holds(sigma, model_sampling) else 1.0,
            self.identity_cfg if self.identity_window.holds(sigma, model_sampling) else 1.0,
        )

    def plan(self, sigmas: Sequence[float], model_sampling: Any) -> Iterator[StepGuidance]:
        """Give what each step of a sampler does that calls the model once a step."""
        refreshed: int | None = None
        for step, sigma in enumerate(sigmas[:-1]):
            scales = self.scale_at(sigma, model_sampling)
            planned = self.keep(scales, step, refreshed)
            if planned.count == 3:
                refreshed = step
            yield planned

    def keep(self, scales: StepGuidance, step: int | None, refreshed: int | None) -> StepGuidance:
        """Let a step use the difference that step `refreshed` made, where that is due and saves a prediction."""
        if step is None or refreshed is None or scales.count < 3:
            return scales
        if not refreshed < step < refreshed + self.identity_every:
            return scales
        return StepGuidance(scales.cfg, scales.identity_cfg, uses_kept=True)

    def describe(self, sigmas: Sequence[float] | None, model_sampling: Any) -> str:
        """Say in words what is computed."""
        every = f" every {_ordinal(self.identity_every)} step" if self.identity_every > 1 else ""
        scales = (
            f"cfg {self.cfg:g}{self.prompt_window}, identity_cfg {self.identity_cfg:g}{self.identity_window}"
            f"{every}"
        )
        count = StepGuidance(self.cfg, self.identity_cfg).count
        predictions = f"{count} prediction{'s' if count > 1 else ''} a step"
        if self.is_constant:
            return f"{scales}: {predictions}."
        if sigmas is None:
            return f"{scales}: {predictions} where both act."
        made, steps = sum(step.count for step in self.plan(sigmas, model_sampling)), len(sigmas) - 1
        return f"{scales}: {made} predictions over {steps} steps, of {count * steps}."


def find_step(sigma: float, sigmas: Tensor | None) -> int | None:
    """Find the step of a schedule, falling to 0, that a noise level belongs to; None without a schedule or noise."""
    if sigmas is None or sigma == 0.0:
        return None
    # Samplers that keep time in a unit of their own come back to a sigma with its last digits changed.
    return max(sum(each >= sigma * (1 - 1e-5) for each in sigmas.tolist()) - 1, 0)


def _ordinal(number: int) -> str:
    suffix = {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}{'th' if 10 <= number % 100 <= 20 else suffix}"
