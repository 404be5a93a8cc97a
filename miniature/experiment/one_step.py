"""How much of the truth must be seen: clean videos predicted in one step from a target with noise in it.

Where the base fails although most of the target is there, no adapter can help; where the full model fails from
noise alone, the adapter does not yet say enough.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lynx_core.data.encoders import WanVideoEncoder

from ..parts.pixel_signal import to_signal
from .measures import Measured, Truth
from .runs import Bench, Run, open_parts
from .sampling import BatchSampler, decode_latents, draw_noise, find_device

NOISE_SHARES = (1.0, 0.9, 0.75, 0.5, 0.25)
ONE_STEP_CASES = 64
_MEASURES = ("top1", "cosine", "mark", "action")
_NOISE_SEED = 7


def measure_one_step(
    bench: Bench, truth: Truth, variants: Mapping[str, Run], work: Path, num_cases: int
) -> list[dict[str, Any]]:
    """A row for each share of noise: by variant the measures of what one step predicts.

    Args:
        work: folder of the making, with the VAE.
    """
    encoder = WanVideoEncoder(work / "vae")
    clips = [to_signal(case.draw_target()).movedim(1, 0) for case in bench.cases[:num_cases]]
    clean = torch.stack([encoder.encode(clip).float() for clip in clips]).to(find_device(bench.vae))
    rows: list[dict[str, Any]] = [{"noise": share} for share in NOISE_SHARES]
    for name, run in variants.items():
        sampler = BatchSampler(bench.wan, open_parts(run))
        for row in rows:
            latents = _predict_clean(bench, sampler, run, clean, row["noise"])
            estimates = Measured(truth, [bench.read(decode_latents(bench.vae, latents))]).estimates()
            row[name] = {measure: estimates[measure] for measure in _MEASURES}
    return rows


@torch.no_grad()
def _predict_clean(bench: Bench, sampler: BatchSampler, run: Run, clean: Tensor, share: float) -> Tensor:
    """[cases, 16, t, h, w], without guidance."""
    noise = torch.stack([draw_noise(number, _NOISE_SEED) for number in range(len(clean))]).to(clean.device)
    noisy = clean.lerp(noise, share)
    wanted, _ = bench.conditions(run, range(len(clean)))
    with torch.autocast(clean.device.type, torch.bfloat16):
        velocity = sampler.predict(noisy, share, sampler.prepare(wanted), bench.settings)
    return noisy - share * velocity.float()
