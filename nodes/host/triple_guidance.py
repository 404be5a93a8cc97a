"""Triple guidance of the release: `u + g_id * (i - u) + g * (c - i)`.

u = negative text + null identity, i = negative text + identity, c = prompt + identity.

That is ordinary cfg of scale g, `n + g * (c - n)`, against one mean of the two negative predictions:
`n = u + w * (i - u)` with `w = (g - g_id) / (g - 1)`, between u and i where 1 <= g_id <= g. So the
host's own cfg gets c and n and does the rest, and whatever other nodes put there (RescaleCFG,
RenormCFG, Video*CFG, CFG-Zero*, skip-layer guidance, cfg++ samplers) acts as it does in a KSampler.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import comfy.samplers
import node_helpers
import torch
from torch import Tensor

from .attention_hooks import is_attached
from .conditioning import Conditioning, carries_identity, make_middle
from .guidance_schedule import GuidanceSchedule, StepGuidance, find_step
from .wiring import find_wiring_faults

CondBatchFunction = Callable[[dict[str, Any]], list[Tensor]]

CALC_COND_BATCH = "sampler_calc_cond_batch_function"
"""The host's option under which another node computes the two predictions of cfg."""

SAME_PROMPT = (
    "positive and negative are one prompt, so cfg does nothing. A bypassed subgraph hands its first conditioning on "
    "as all of them: bypass Lynx Apply inside of it instead."
)


@dataclass(frozen=True)
class Guidance:
    """Which guidance the conditionings call for."""

    middle: Conditioning | None
    """Negative prompt with identity; None means ordinary cfg of positive and negative."""

    lines: tuple[str, ...]
    """What of the wiring defeats it, and what is computed."""


def choose_guidance(
    model: Any,
    positive: Conditioning,
    negative: Conditioning,
    middle: Conditioning | None,
    schedule: GuidanceSchedule,
    sigmas: Sequence[float] | None = None,
) -> Guidance:
    """Choose ordinary cfg where nothing carries an identity, triple guidance otherwise.

    A middle that is not connected is made of the negative's text and the positive's identity.

    Args:
        sigmas: of the steps, where they are known.

    Raises:
        ValueError: when it cannot be made, because the positive joins several identities.
    """
    lines = []
    if middle is None and carries_identity(positive):
        middle = make_middle(positive, negative)
        lines.append("middle is not connected: made of negative's text and positive's identity.")
    conds = {"positive": positive, "negative": negative, "middle": middle}
    is_triple = middle is not None and any(map(carries_identity, conds.values()))
    # Without a person anywhere this may be plain Wan, which is no fault.
    faults = (
        find_wiring_faults(conds) if is_triple or is_attached(model) or carries_identity(negative) else []
    )
    if not is_triple:
        same = [SAME_PROMPT] if positive is negative else []
        ordinary = (
            f"Ordinary cfg {schedule.cfg:g}{schedule.prompt_window}: no identity in the conditionings, identity_cfg is "
            "not used."
        )
        return Guidance(None, (*faults, *same, ordinary))
    lines.append(f"Triple guidance, {schedule.describe(sigmas, model.get_model_object('model_sampling'))}")
    if schedule.identity_every > 1 and StepGuidance(schedule.cfg, schedule.identity_cfg).count < 3:
        lines.append("identity_cfg_every does nothing: identity_cfg is 1 or the value of cfg.")
    # Two lines of a note are seen without scrolling: what is wrong comes first.
    return Guidance(middle, (*faults, *lines))


class TripleGuider(comfy.samplers.CFGGuider):
    """The host's guider with a third prediction, all three in one batch where memory allows.

    Without a middle conditioning it is the host's guider and nothing else.
    """

    def set_conds(self, positive: Any, negative: Any, middle: Any = None) -> None:
        conds = {"positive": positive, "negative": negative}
        if middle is not None:
            conds["middle"] = node_helpers.conditioning_set_values(middle, {"prompt_type": "negative"})
        self.inner_set_conds(conds)

    def set_cfg(self, cfg: float, identity_cfg: float = 1.0) -> None:
        self.set_schedule(GuidanceSchedule(cfg, identity_cfg))

    def set_schedule(self, schedule: GuidanceSchedule) -> None:
        self.schedule = schedule
        self.cfg = schedule.cfg
        self._kept = KeptDifference()

    def sample(self, *args: Any, **kwargs: Any) -> Tensor:
        self._kept = KeptDifference()
        try:
            return super().sample(*args, **kwargs)
        finally:
            self._kept = KeptDifference()

    def predict_noise(
        self,
        x: Tensor,
        timestep: Tensor,
        model_options: dict[str, Any] | None = None,
        seed: int | None = None,
    ) -> Tensor:
        options = model_options or {}
        step, number = self._plan(timestep, options)
        positive, negative, middle = (self.conds.get(name) for name in ("positive", "negative", "middle"))
        if middle is None:
            return comfy.samplers.sampling_function(
                self.inner_model, x, timestep, negative, positive, step.cfg, model_options=options, seed=seed
            )
        # A prediction whose coefficient is 0 is not made.
        if not options.get("disable_cfg1_optimization", False):
            negative = negative if step.needs_nobody else None
            middle = middle if step.needs_person else None

        def predict_pair(args: dict[str, Any]) -> list[Tensor]:
            args = {**args, "conds": [positive, negative, middle], "model_options": options}
            prompt, nobody, person = predict(args, options.get(CALC_COND_BATCH))
            if step.uses_kept:
                assert self._kept.difference is not None
                return combine_kept(step, prompt, person, self._kept.difference * timestep.max())
            if number is not None and nobody is not None and person is not None:
                self._kept = KeptDifference(number, (person - nobody) / timestep.max())
            return combine(step, prompt, nobody, person)

        return comfy.samplers.sampling_function(
            self.inner_model,
            x,
            timestep,
            middle if negative is None else negative,
            positive,
            step.cfg,
            model_options={**options, CALC_COND_BATCH: predict_pair},
            seed=seed,
        )

    def _plan(self, timestep: Tensor, options: dict[str, Any]) -> tuple[StepGuidance, int | None]:
        """Plan this call of the model, and number the step that it belongs to where differences are kept."""
        # The host's CFG Override sets `cfg` for the length of a call.
        schedule = replace(self.schedule, cfg=self.cfg)
        if schedule.is_constant:
            return StepGuidance(schedule.cfg, schedule.identity_cfg), None
        sigma = float(timestep.max())
        scales = schedule.scale_at(sigma, self.model_patcher.get_model_object("model_sampling"))
        if schedule.identity_every == 1 or options.get("disable_cfg1_optimization", False):
            return scales, None
        number = find_step(sigma, options.get("transformer_options", {}).get("sample_sigmas"))
        return schedule.keep(scales, number, self._kept.step), number


@dataclass(frozen=True)
class KeptDifference:
    """What the identity changes in a prediction without the prompt, of the last step that made it.

    Kept as a difference of velocities, which changes half as much from step to step as one of denoised latents: with
    every third step the video's latent is 0.02 from that of all predictions, in place of 0.035 (Mini Lynx).
    """

    step: int | None = None
    difference: Tensor | None = None
    """Of the denoised latents, divided by the noise level."""


def combine(step: StepGuidance, prompt: Tensor, nobody: Tensor | None, person: Tensor | None) -> list[Tensor]:
    """Combine the predictions into the two of ordinary cfg: with the prompt, and without it."""
    if nobody is None or person is None:
        without = next((t for t in (nobody, person) if t is not None), prompt)
        return [prompt, without]
    if math.isclose(step.cfg, 1.0):
        # The host's cfg looks at the first alone.
        return [prompt + (step.identity_cfg - 1.0) * (person - nobody), nobody]
    weight = (step.cfg - step.identity_cfg) / (step.cfg - 1.0)
    return [prompt, torch.lerp(nobody, person, weight)]


def combine_kept(
    step: StepGuidance, prompt: Tensor, person: Tensor | None, difference: Tensor
) -> list[Tensor]:
    """Do what `combine` does with a difference of person and nobody that an earlier step made."""
    if person is None:
        return [prompt + (step.identity_cfg - 1.0) * difference, prompt]
    weight = (step.identity_cfg - 1.0) / (step.cfg - 1.0)
    return [prompt, person - weight * difference]


def predict(args: dict[str, Any], other: CondBatchFunction | None) -> list[Tensor | None]:
    """Make the predictions of `args["conds"]`, positive first, None for None.

    Args:
        args: as the host hands them to a `sampler_calc_cond_batch_function`.
        other: such a function of another node; it takes a positive and one negative at a time.

    Raises:
        ValueError: when another node on the model counts on two predictions.
    """
    positive, *negatives = args["conds"]
    if other is not None:
        pairs = [other({**args, "conds": [positive, cond]}) for cond in negatives if cond is not None]
        pairs = pairs or [other({**args, "conds": [positive, None]})]
        made = [pairs[0][0], *(pair[1] for pair in pairs)]
    else:
        # Without gaps: to other nodes index 0 is the positive and 1 a negative.
        conds = [positive, *(cond for cond in negatives if cond is not None)]
        try:
            made = comfy.samplers.calc_cond_batch(
                args["model"], conds, args["input"], args["sigma"], args["model_options"]
            )
        except KeyError as error:
            if len(conds) == 3 and error.args == (2,):
                raise ValueError(
                    "Another node on this MODEL keeps something for two predictions a step, and triple guidance makes "
                    "three (caches such as TeaCache and MagCache do). Use EasyCache or LazyCache instead, or set "
                    "identity_cfg to 1 or to the value of cfg: that makes two."
                ) from error
            raise
    rest = iter(made[1:])
    return [made[0], *(None if cond is None else next(rest) for cond in negatives)]
