"""Triple guidance of the release: `u + g_id * (i - u) + g * (c - i)`.

u = negative text + null identity, i = negative text + identity, c = prompt + identity.
"""

from __future__ import annotations

import math
from typing import Any

import comfy.samplers
import node_helpers
from torch import Tensor


class TripleGuider(comfy.samplers.CFGGuider):
    """The host's guider with a third prediction, all three in one batch where memory allows."""

    def set_conds(self, positive: Any, negative: Any, middle: Any) -> None:
        middle = node_helpers.conditioning_set_values(middle, {"prompt_type": "negative"})
        self.inner_set_conds({"positive": positive, "negative": negative, "middle": middle})

    def set_cfg(self, cfg: float, identity_cfg: float) -> None:
        self.cfg = cfg
        self.identity_cfg = identity_cfg

    def predict_noise(
        self,
        x: Tensor,
        timestep: Tensor,
        model_options: dict[str, Any] | None = None,
        seed: int | None = None,
    ) -> Tensor:
        model_options = model_options or {}
        # Index 0 and 1 keep their usual meaning for the functions of other nodes.
        conds = [self.conds["positive"], self.conds["negative"], self.conds["middle"]]
        if not model_options.get("disable_cfg1_optimization", False):
            conds = self.drop_unused(conds)
        out = comfy.samplers.calc_cond_batch(self.inner_model, conds, x, timestep, model_options)
        for fn in model_options.get("sampler_pre_cfg_function", []):
            out = fn(
                {
                    "conds": conds,
                    "conds_out": out,
                    "cond_scale": self.cfg,
                    "timestep": timestep,
                    "input": x,
                    "sigma": timestep,
                    "model": self.inner_model,
                    "model_options": model_options,
                }
            )
        positive, negative, middle = out
        # A dropped prediction comes back as zeros: its coefficient is 0, but nobody else may see it.
        if conds[2] is None:
            middle = negative if conds[1] is not None else positive
        if conds[1] is None:
            negative = middle
        denoised = negative + self.identity_cfg * (middle - negative) + self.cfg * (positive - middle)
        for fn in model_options.get("sampler_post_cfg_function", []):
            denoised = fn(
                {
                    "denoised": denoised,
                    "cond": conds[0],
                    "uncond": conds[1] if conds[1] is not None else conds[2],
                    "cond_scale": self.cfg,
                    "model": self.inner_model,
                    "uncond_denoised": negative,
                    "cond_denoised": positive,
                    "sigma": timestep,
                    "model_options": model_options,
                    "input": x,
                }
            )
        return denoised

    def drop_unused(self, conds: list[Any]) -> list[Any]:
        """Leave out the predictions whose coefficient is 0."""
        positive, negative, middle = conds
        return [
            positive,
            None if math.isclose(self.identity_cfg, 1.0) else negative,
            None if math.isclose(self.cfg, self.identity_cfg) else middle,
        ]
