"""From the samples of a pack to what the model takes: noise added, nulls put in.

The nulls are those of inference: the empty prompt's encoding for the text, an embedding of zeros for
the ID (the resampler makes tokens of it as of any other), and the latent of the mid-grey image for
the reference, which goes through the reference pass as any other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..data.sample import Nulls, Sample
from ..models.adapter_configs import AdapterConfigs
from ..models.packed_inputs import PackedInputs
from ..rng import RNGKey
from ..spec import null_embedding
from .configuration import ObjectiveConfig
from .flow_matching import (
    TIMESTEP_SCALE,
    SampleDraw,
    add_noise,
    compute_loss_weight,
    draw_sample,
    velocity_target,
)


@dataclass(frozen=True)
class PackBatch:
    """One pack on the device."""

    inputs: PackedInputs
    targets: list[Tensor]
    """Velocity of each sample, [16, frames, height, width], float32."""
    weights: Tensor
    """[N], each sample's weight in the loss."""
    times: tuple[float, ...]
    """t of each sample, 0 to 1."""


def make_batch(
    samples: Sequence[Sample],
    keys: Sequence[RNGKey],
    nulls: Nulls,
    objective: ObjectiveConfig,
    parts: AdapterConfigs,
    device: torch.device,
) -> PackBatch:
    """Draw what chance decides for each sample, and put the pack together.

    Args:
        parts: of the adapter; what it has no part for is left out.
    """
    draws = [
        draw_sample(sample.latents.shape, objective, key) for sample, key in zip(samples, keys, strict=True)
    ]
    pairs = list(zip(samples, draws, strict=True))
    return PackBatch(
        inputs=_assemble(
            [add_noise(sample.latents.float(), draw.noise, draw.t).to(device) for sample, draw in pairs],
            [draw.t for draw in draws],
            [nulls.empty_text if draw.null_text else sample.text for sample, draw in pairs],
            [_choose_embedding(sample, draw) for sample, draw in pairs],
            [_choose_reference(sample, draw, nulls) for sample, draw in pairs],
            nulls,
            parts,
            device,
        ),
        targets=[velocity_target(sample.latents.float(), draw.noise).to(device) for sample, draw in pairs],
        weights=torch.tensor(
            [compute_loss_weight(sample.num_tokens, objective.loss_reduction) for sample in samples],
            device=device,
        ),
        times=tuple(draw.t for draw in draws),
    )


def _choose_embedding(sample: Sample, draw: SampleDraw) -> Tensor:
    return null_embedding() if draw.null_id or sample.embedding is None else sample.embedding


def _choose_reference(sample: Sample, draw: SampleDraw, nulls: Nulls) -> Tensor:
    if draw.null_reference or sample.reference_latents is None:
        return nulls.grey_reference
    return sample.reference_latents


def _assemble(
    latents: list[Tensor],
    times: list[float],
    texts: list[Tensor],
    embeddings: list[Tensor],
    references: list[Tensor],
    nulls: Nulls,
    parts: AdapterConfigs,
    device: torch.device,
) -> PackedInputs:
    timesteps = torch.tensor(times, dtype=torch.float64) * TIMESTEP_SCALE
    return PackedInputs(
        latents=latents,
        timesteps=timesteps.float().to(device),
        texts=[text.to(device) for text in texts],
        embeddings=torch.stack(embeddings).float().to(device) if parts.id else None,
        reference_latents=[latent.to(device) for latent in references] if parts.ref else None,
        reference_text=nulls.reference_text.to(device) if parts.ref else None,
    )
