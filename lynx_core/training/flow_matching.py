"""Flow matching, as Wan was trained: x_t = (1 - t) x0 + t noise, target = noise - x0.

The loss of a step is a weighted sum over all its samples divided by the weight of all of them: of
every pack, of every accumulated pack, of every process. A mean of means would make a sample's weight depend on the
samples it is packed with (transformers issue 34191). With "token" a sample's weight is its number of tokens, so
one clip of 33,600 counts 21 times an image of 1,600; with "sample" all have the same.

The nulls are those of inference: the empty prompt's encoding for the text, an embedding of zeros for
the ID (the resampler makes tokens of it as of any other), and the latent of the mid-grey image for
the reference, which goes through the reference pass as any other.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..data.sample import Nulls, Sample
from ..models.adapter_configs import AdapterConfigs
from ..models.packed_wan import PackedInputs
from ..rng import RNGKey
from ..spec import null_embedding
from .configuration import LossReduction, ObjectiveConfig

TIMESTEP_SCALE = 1000.0
"""Wan's timestep embedding takes 1000 t."""


@dataclass(frozen=True)
class SampleDraw:
    """Noise, timestep and dropout of one draw of a sample."""

    t: float
    """Share of noise, 0 to 1."""
    noise: Tensor
    """Of the latents' shape, float32, CPU."""
    null_text: bool
    null_id: bool
    null_reference: bool


def draw_sample(shape: torch.Size, config: ObjectiveConfig, key: RNGKey) -> SampleDraw:
    """Draw noise, timestep and dropout: a pure function of the arguments."""
    noise = torch.randn(shape, generator=key.generator("noise"))
    text, identity, only_id, only_reference = torch.rand(4, generator=key.generator("dropout")).tolist()
    both = identity < config.identity_dropout
    return SampleDraw(
        t=draw_timestep(config, key.generator("timestep")),
        noise=noise,
        null_text=text < config.text_dropout,
        null_id=both or only_id < config.id_dropout,
        null_reference=both or only_reference < config.reference_dropout,
    )


def draw_timestep(config: ObjectiveConfig, generator: torch.Generator) -> float:
    """Draw one t in (0, 1) from the configured distribution."""
    if config.timestep_sampling == "logit_normal":
        normal = torch.randn((), generator=generator, dtype=torch.float64)
        return torch.sigmoid(config.logit_mean + config.logit_std * normal).item()
    uniform = torch.rand((), generator=generator, dtype=torch.float64).item()
    return shift_timestep(uniform, config.shift) if config.timestep_sampling == "shifted" else uniform


def shift_timestep(t: float, shift: float) -> float:
    """Move t towards noise: s t / (1 + (s - 1) t), as in SD3 (arXiv 2403.03206, equation 23)."""
    return shift * t / (1 + (shift - 1) * t)


def add_noise(x0: Tensor, noise: Tensor, t: float) -> Tensor:
    """The noisy latent x_t."""
    return (1 - t) * x0 + t * noise


def velocity_target(x0: Tensor, noise: Tensor) -> Tensor:
    """What the model is to predict."""
    return noise - x0


def compute_loss_weight(num_tokens: int, reduction: LossReduction) -> float:
    """Weight of a sample's mean squared error in the loss."""
    return float(num_tokens) if reduction == "token" else 1.0


def sample_losses(velocities: list[Tensor], targets: list[Tensor]) -> Tensor:
    """Mean squared error of each sample, [N], float32."""
    pairs = zip(velocities, targets, strict=True)
    return torch.stack([(velocity.float() - target).square().mean() for velocity, target in pairs])


def loss_weight_share(losses: Tensor, weights: Tensor, total_weight: Tensor | float) -> Tensor:
    """A pack's share of the loss of a step; the shares of all packs add up to it.

    Args:
        losses, weights: [N] of this pack.
        total_weight: of all samples of the step, over all packs and processes.
    """
    return (losses * weights).sum() / total_weight


@dataclass(frozen=True)
class PackBatch:
    """One pack with its noise, on the CPU or the device."""

    inputs: PackedInputs
    targets: list[Tensor]
    """Velocity of each sample, [16, frames, height, width], float32."""
    weights: Tensor
    """[N], each sample's weight in the loss."""
    times: tuple[float, ...]
    """t of each sample, 0 to 1."""

    def map_tensors(self, change: Callable[[Tensor], Tensor]) -> PackBatch:
        """Give the same with each tensor changed, as moved to a device."""
        inputs, targets = self.inputs.map_tensors(change), [change(target) for target in self.targets]
        return PackBatch(inputs, targets, change(self.weights), self.times)


def make_batch(
    samples: Sequence[Sample],
    keys: Sequence[RNGKey],
    nulls: Nulls,
    objective: ObjectiveConfig,
    parts: AdapterConfigs,
    device: torch.device,
) -> PackBatch:
    """Draw noise, timestep and dropout of each sample, and put the pack together.

    Args:
        parts: of the adapter; what it has no part for is left out.
    """
    draws = [
        draw_sample(sample.latents.shape, objective, key) for sample, key in zip(samples, keys, strict=True)
    ]
    pairs = list(zip(samples, draws, strict=True))
    return PackBatch(
        inputs=assemble_inputs(
            [add_noise(sample.latents.float(), draw.noise, draw.t).to(device) for sample, draw in pairs],
            [draw.t for draw in draws],
            [nulls.empty_text if draw.null_text else sample.text for sample, draw in pairs],
            [null_embedding() if draw.null_id else sample.embedding for sample, draw in pairs],
            [
                nulls.grey_reference if draw.null_reference else sample.reference_latents
                for sample, draw in pairs
            ],
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


def assemble_inputs(
    latents: list[Tensor],
    times: list[float],
    texts: list[Tensor],
    embeddings: list[Tensor],
    references: list[Tensor],
    nulls: Nulls,
    parts: AdapterConfigs,
    device: torch.device,
) -> PackedInputs:
    """Put a pack on the device, a list entry for each sample.

    Args:
        times: t of each sample, 0 to 1.
        parts: of the adapter; what it has no part for is left out.
    """
    timesteps = torch.tensor(times, dtype=torch.float64) * TIMESTEP_SCALE
    return PackedInputs(
        latents=latents,
        timesteps=timesteps.float().to(device),
        texts=[text.to(device) for text in texts],
        embeddings=torch.stack(embeddings).float().to(device) if parts.id else None,
        reference_latents=[latent.to(device) for latent in references] if parts.ref else None,
        reference_text=nulls.reference_text.to(device) if parts.ref else None,
    )


def make_smallest_inputs(
    nulls: Nulls, parts: AdapterConfigs, device: torch.device, num_tokens: int = 1
) -> PackedInputs:
    """A pack of one sample and a few tokens."""
    return assemble_inputs(
        [torch.zeros(nulls.grey_reference.shape[0], 1, 2, 2 * num_tokens, device=device)],
        [0.5],
        [nulls.empty_text],
        [null_embedding()],
        [nulls.grey_reference],
        nulls,
        parts,
        device,
    )
