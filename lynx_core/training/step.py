"""One step: packs dealt out and read ahead, noise and nulls drawn, forward and backward, weights updated.

The nulls are those of inference: the empty prompt's encoding for the text, an embedding of zeros for
the ID (the resampler makes tokens of it as of any other), and the latent of the mid-grey image for
the reference, which goes through the reference pass as any other.

A loss or gradient that is not finite, on any process, makes all of them skip the update.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from ..data.dataset import PairDataset
from ..data.sample import Nulls, Sample
from ..models.adapter_configs import AdapterConfigs
from ..models.packed_wan import PackedInputs
from ..rng import RNGKey
from ..spec import null_embedding
from .configuration import ObjectiveConfig, StageConfig, TrainingConfig
from .curriculum import Cursors, PackIndices, PackStream, find_stage
from .distributed import DistributedContext
from .flow_matching import (
    TIMESTEP_SCALE,
    add_noise,
    compute_loss_weight,
    draw_sample,
    loss_weight_share,
    sample_losses,
    velocity_target,
)
from .optimizer import (
    EMA,
    NamedParameters,
    clip_gradients,
    set_learning_rate,
)


@dataclass(frozen=True)
class LoadedPack:
    """The samples of a pack, and the RNG key of each."""

    samples: tuple[Sample, ...]
    keys: tuple[RNGKey, ...]
    is_spare: bool = False
    """Another process runs it, too, and it counts there: this one has no pack of its own left in the step, and
    must take part in the gathering of gradients all the same."""


@dataclass(frozen=True)
class LoadedStep:
    """What one process runs in one step."""

    stage: StageConfig
    packs: tuple[LoadedPack, ...]
    cursors: Cursors
    """Where the stages stand after this step."""


def deal_packs(packs: Sequence[PackIndices], rank: int, world_size: int) -> list[tuple[PackIndices, bool]]:
    """What one of `world_size` processes runs of the packs of a step, each with whether it is a spare.

    All processes get the same number; where the packs do not divide, the last ones get the first pack as a spare.
    """
    rounds = -(-len(packs) // world_size)
    places = range(rank, rounds * world_size, world_size)
    return [(packs[place], False) if place < len(packs) else (packs[0], True) for place in places]


class PackLoader:
    """Gives the steps of one process in order, one ahead."""

    def __init__(
        self,
        stream: PackStream,
        dataset: PairDataset,
        stages: Sequence[StageConfig],
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.stream, self.dataset, self.stages = stream, dataset, stages
        self.rank, self.world_size = rank, world_size
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="pack loader")
        self._ahead: Future[LoadedStep] | None = None

    def next_step(self) -> LoadedStep:
        """Give the packs of the next step, and start to load those of the step after it."""
        future = self._ahead or self._thread.submit(self._load)
        loaded = future.result()
        is_over = find_stage(self.stream.cursors, self.stages) is None
        self._ahead = None if is_over else self._thread.submit(self._load)
        return loaded

    def close(self) -> None:
        self._thread.shutdown(cancel_futures=True)

    def _load(self) -> LoadedStep:
        number = find_stage(self.stream.cursors, self.stages)
        assert number is not None  # the loop ends with the last stage
        dealt = deal_packs(self.stream.next_step(number), self.rank, self.world_size)
        packs = tuple(self._load_pack(number, pack, is_spare) for pack, is_spare in dealt)
        return LoadedStep(self.stages[number], packs, dict(self.stream.cursors))

    def _load_pack(self, number: int, pack: PackIndices, is_spare: bool) -> LoadedPack:
        samples = self.dataset.load_pack(pack.samples, counts=not is_spare)
        if self.stages[number].kind == "first_frames":
            samples = [sample.keep_frames(1) for sample in samples]
        return LoadedPack(tuple(samples), _match_keys(samples, pack), is_spare)


def _match_keys(samples: Sequence[Sample], order: PackIndices) -> tuple[RNGKey, ...]:
    """Give each sample its planned key; one that replaces a damaged sample gets one of its own."""
    planned: dict[str, list[RNGKey]] = {}
    for key in order.keys:
        planned.setdefault(key.sample_id, []).append(key)
    keys = []
    for sample in samples:
        waiting = planned.get(sample.id)
        if waiting:
            keys.append(waiting.pop(0))
        else:
            keys.append(replace(order.keys[0], sample_id=sample.id, repeat=-1 - order.index))
    return tuple(keys)


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


def make_smallest_inputs(nulls: Nulls, parts: AdapterConfigs, device: torch.device) -> PackedInputs:
    """A pack of one token."""
    return assemble_inputs(
        [torch.zeros(nulls.grey_reference.shape[0], 1, 2, 2, device=device)],
        [0.5],
        [nulls.empty_text],
        [null_embedding()],
        [nulls.grey_reference],
        nulls,
        parts,
        device,
    )


@dataclass(frozen=True)
class SampleLoss:
    """What one sample of this process gave."""

    sample_id: str
    t: float
    loss: float
    weight: float


@dataclass(frozen=True)
class StepOutcome:
    """What a step did; all but `samples` is the same on every process."""

    loss: float
    grad_norm: float
    is_skipped: bool
    num_tokens: int
    num_samples: int
    fill: float
    """Tokens over budget of all its packs, 0 to 1."""
    is_stop_wanted: bool
    has_write_failed: bool
    samples: tuple[SampleLoss, ...]


@dataclass(frozen=True)
class TrainingStep:
    """Runs steps on what is trained."""

    config: TrainingConfig
    context: DistributedContext
    model: nn.Module
    """AdapterForward, wrapped by the context."""
    parameters: NamedParameters
    optimizer: torch.optim.Optimizer
    ema: EMA | None
    nulls: Nulls
    parts: AdapterConfigs

    def run(
        self,
        loaded: LoadedStep,
        learning_rate: float,
        stop_wanted: bool = False,
        has_write_failed: bool = False,
    ) -> StepOutcome:
        """Run a step.

        Args:
            stop_wanted: whether this process was asked to stop; any makes all of them know.
            has_write_failed: whether it knows that a checkpoint could not be written; likewise.
        """
        own = [pack for pack in loaded.packs if not pack.is_spare]
        totals = self._reduce_totals(own, stop_wanted, has_write_failed)
        total_weight, num_tokens, num_samples, num_packs, stops, failures = totals
        self.optimizer.zero_grad(set_to_none=True)
        loss = torch.zeros((), device=self.context.device)
        seen: list[SampleLoss] = []
        for number, pack in enumerate(loaded.packs, start=1):
            with self.context.accumulate(self.model, is_last=number == len(loaded.packs)):
                share, losses = self._run_pack(pack, total_weight)
            loss += share
            seen += losses
        loss_value = float(self.context.all_reduce_sum(loss))
        grad_norm = clip_gradients(self.parameters, self.config.optimizer.max_grad_norm)
        is_finite = math.isfinite(loss_value) and math.isfinite(grad_norm)
        if is_finite:
            set_learning_rate(self.optimizer, learning_rate)
            self.optimizer.step()
            if self.ema is not None:
                self.ema.update()
        return StepOutcome(
            loss=loss_value,
            grad_norm=grad_norm,
            is_skipped=not is_finite,
            num_tokens=int(num_tokens),
            num_samples=int(num_samples),
            fill=num_tokens / (self.config.packing.max_tokens * num_packs),
            is_stop_wanted=stops > 0,
            has_write_failed=failures > 0,
            samples=tuple(seen),
        )

    def _reduce_totals(self, packs: Sequence[LoadedPack], *flags: bool) -> list[float]:
        samples = [sample for pack in packs for sample in pack.samples]
        reduction = self.config.objective.loss_reduction
        own = [
            sum(compute_loss_weight(sample.num_tokens, reduction) for sample in samples),
            sum(sample.num_tokens for sample in samples),
            len(samples),
            len(packs),
            *flags,
        ]
        # On the device, since NCCL adds nothing up on the CPU.
        return self.context.all_reduce_sum(
            torch.tensor(own, dtype=torch.float64, device=self.context.device)
        ).tolist()

    def _run_pack(self, pack: LoadedPack, total_weight: float) -> tuple[torch.Tensor, list[SampleLoss]]:
        """Forward and backward of one pack; its share of the loss, detached."""
        batch = make_batch(
            pack.samples, pack.keys, self.nulls, self.config.objective, self.parts, self.context.device
        )
        losses = sample_losses(self.model(batch.inputs), batch.targets)
        weights = batch.weights * (not pack.is_spare)
        share = loss_weight_share(losses, weights, total_weight)
        # DDP and FSDP give the mean over processes, the loss is a sum over them.
        (share * self.context.world_size).backward()
        if pack.is_spare:
            return share.detach(), []
        values = zip(pack.samples, batch.times, losses.detach().tolist(), batch.weights.tolist(), strict=True)
        seen = [SampleLoss(sample.id, t, loss, weight) for sample, t, loss, weight in values]
        return share.detach(), seen
