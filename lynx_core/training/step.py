"""One step: packs dealt out, read and drawn ahead, forward and backward, weights updated.

A loss or gradient that is not finite, on any process, makes all of them skip the update. Whether one is, is the
only thing that the CPU waits for the GPU to tell, once a step: all figures come with it.
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
from ..models.packed_wan import count_latent_tokens
from ..rng import RNGKey
from .configuration import StageConfig, TrainingConfig
from .curriculum import Cursors, PackIndices, PackStream, find_stage
from .distributed import DistributedContext
from .flow_matching import PackBatch, loss_weight_share, make_batch, sample_losses
from .optimizer import (
    EMA,
    NamedParameters,
    clip_gradients,
    set_learning_rate,
)
from .throughput import StepFlops, Stopwatch


@dataclass(frozen=True)
class LoadedPack:
    """A pack that is ready to run."""

    batch: PackBatch
    """On the CPU."""
    sample_ids: tuple[str, ...]
    lengths: tuple[int, ...]
    """Tokens of each sample."""
    weights: tuple[float, ...]
    """In the loss."""
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
    """Gives the steps of one process in order, one ahead, its noise, timesteps and dropout drawn.

    The processes that share each pack get it from the first of them.

    Args:
        parts: of the adapter; what it has no part for is left out.
    """

    def __init__(
        self,
        stream: PackStream,
        dataset: PairDataset,
        config: TrainingConfig,
        nulls: Nulls,
        parts: AdapterConfigs,
        context: DistributedContext,
    ) -> None:
        self.stream, self.dataset, self.stages = stream, dataset, config.stages
        self.objective, self.nulls, self.parts, self.context = config.objective, nulls, parts, context
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="pack loader")
        self._ahead: Future[LoadedStep] | None = None

    def next_step(self) -> LoadedStep:
        """Give the packs of the next step, and start to load those of the step after it. A collective."""
        return self.context.share_step(self._take() if self.context.leads_group else None)

    def _take(self) -> LoadedStep:
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
        packs = self.stream.next_step(number)
        dealt = deal_packs(packs, self.context.data_rank, self.context.data_size)
        loaded = tuple(self._load_pack(number, pack, is_spare) for pack, is_spare in dealt)
        return LoadedStep(self.stages[number], loaded, dict(self.stream.cursors))

    def _load_pack(self, number: int, pack: PackIndices, is_spare: bool) -> LoadedPack:
        samples = self.dataset.load_pack(pack.samples, counts=not is_spare)
        if self.stages[number].kind == "first_frames":
            samples = [sample.keep_frames(1) for sample in samples]
        return self.draw_pack(samples, _match_keys(samples, pack), is_spare)

    def draw_pack(
        self, samples: Sequence[Sample], keys: Sequence[RNGKey], is_spare: bool = False
    ) -> LoadedPack:
        """Draw noise, timestep and dropout of samples, and put their pack together."""
        batch = make_batch(samples, keys, self.nulls, self.objective, self.parts, torch.device("cpu"))
        if self.context.device.type == "cuda":
            batch = batch.map_tensors(Tensor.pin_memory)  # so that the copy waits for nothing
        return LoadedPack(
            batch,
            tuple(sample.id for sample in samples),
            count_latent_tokens(batch.inputs.latents).lengths,
            tuple(batch.weights.tolist()),
            is_spare,
        )


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
class SampleLoss:
    """What one sample of this process gave."""

    sample_id: str
    t: float
    loss: float
    weight: float


@dataclass(frozen=True)
class StepOutcome:
    """What a step did; all but the last two are the same on every process."""

    loss: float
    grad_norm: float
    is_skipped: bool
    num_tokens: int
    num_samples: int
    fill: float
    """Tokens over budget of all its packs, 0 to 1."""
    is_stop_wanted: bool
    has_write_failed: bool
    flops: float
    """Of forward and backward on all processes, without what checkpointing computes again."""
    samples: tuple[SampleLoss, ...]
    """Of the packs of this process."""
    forward_seconds: float
    """From where all processes began together to the end of this one's last forward."""


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
    flops: StepFlops

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
        totals = self._reduce_totals(loaded.packs, stop_wanted, has_write_failed)
        self.optimizer.zero_grad(set_to_none=True)
        watch = Stopwatch(self.context.device)
        share, losses = self._run_packs(loaded.packs, totals[0].float(), watch)
        loss = self.context.all_reduce_sum(share)
        grad_norm = clip_gradients(self.parameters, self.config.optimizer.max_grad_norm)
        # The one place where the CPU waits for the device.
        figures = torch.cat([totals, torch.stack([loss, grad_norm, *losses]).double()]).tolist()
        total_values, (loss_value, norm_value), loss_values = figures[:7], figures[7:9], figures[9:]
        _, num_tokens, num_samples, num_packs, flops, stops, failures = total_values
        is_finite = math.isfinite(loss_value) and math.isfinite(norm_value)
        if is_finite:
            set_learning_rate(self.optimizer, learning_rate)
            self.optimizer.step()
            if self.ema is not None:
                self.ema.update()
        return StepOutcome(
            loss=loss_value,
            grad_norm=norm_value,
            is_skipped=not is_finite,
            num_tokens=int(num_tokens),
            num_samples=int(num_samples),
            fill=num_tokens / (self.config.packing.max_tokens * num_packs),
            is_stop_wanted=stops > 0,
            has_write_failed=failures > 0,
            flops=flops,
            samples=_name_losses(self._counted(loaded.packs), loss_values),
            forward_seconds=watch.seconds(),
        )

    def _counted(self, packs: Sequence[LoadedPack]) -> list[LoadedPack]:
        """The packs that this process counts: those that no other does."""
        return [pack for pack in packs if not pack.is_spare and self.context.leads_group]

    def _reduce_totals(self, packs: Sequence[LoadedPack], *flags: bool) -> Tensor:
        """Over all processes: loss weight, tokens, samples, packs and FLOPs, then the flags; [7], float64."""
        counted = self._counted(packs)
        own = [
            sum(weight for pack in counted for weight in pack.weights),
            sum(length for pack in counted for length in pack.lengths),
            sum(len(pack.lengths) for pack in counted),
            len(counted),
            sum(self.flops.count(pack.lengths) for pack in counted),
            *flags,
        ]
        # On the device, since NCCL adds nothing up on the CPU.
        return self.context.all_reduce_sum(self._put(torch.tensor(own, dtype=torch.float64)))

    def _run_packs(
        self, packs: Sequence[LoadedPack], total_weight: Tensor, watch: Stopwatch
    ) -> tuple[Tensor, list[Tensor]]:
        """Forward and backward of all packs: this process's share of the loss, and the losses of what it counts."""
        share = torch.zeros((), device=self.context.device)
        seen: list[Tensor] = []
        for number, pack in enumerate(packs, start=1):
            is_last = number == len(packs)
            with self.context.accumulate(self.model, is_last):
                batch = pack.batch.map_tensors(self._put)
                losses = sample_losses(self.model(batch.inputs), batch.targets)
                part = loss_weight_share(losses, batch.weights * (not pack.is_spare), total_weight)
                if is_last:
                    watch.stop()
                # DDP and FSDP give the mean over processes, and each of a group its share of every gradient; the
                # loss is a sum over packs.
                (part * self.context.data_size).backward()
            if self._counted([pack]):
                share += part.detach()
                seen += losses.detach().unbind()
        return share, seen

    def _put(self, tensor: Tensor) -> Tensor:
        return tensor.to(self.context.device, non_blocking=True)


def _name_losses(packs: Sequence[LoadedPack], losses: Sequence[float]) -> tuple[SampleLoss, ...]:
    rows = [
        row for pack in packs for row in zip(pack.sample_ids, pack.batch.times, pack.weights, strict=True)
    ]
    named = zip(rows, losses, strict=True)
    return tuple(SampleLoss(sample_id, t, loss, weight) for (sample_id, t, weight), loss in named)
