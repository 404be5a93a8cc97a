"""The curriculum: which stage comes next, and which of its packs.

Each stage counts its own steps, epochs and packs, so a stage that is made longer later resumes where it
stood and repeats neither samples nor noise. The packs of a stage run epoch after epoch; each epoch's plan
is a pure function of (seed, stage, epoch, lengths, packs of a step), so four numbers a stage are the whole
state. Packs are planned for all processes and then dealt out: the number of processes may change at any step.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from ..rng import ORDER_OF_SAMPLES, RNGKey, derive_seed, shuffled_part
from .configuration import StageConfig, StageKind
from .configuration_file import ConfigurationError
from .draws import PART_SAMPLES, Draws, Kinds, count_repeats, plan_epoch_items
from .packing import PackingConfig, PackingReport, PackPlan, plan_part


@dataclass(frozen=True)
class Cursor:
    """Where a stage stands: all that has to be stored to resume it."""

    steps: int = 0
    """That were done."""
    epoch: int = 0
    part: int = 0
    """Of the epoch; one of at most 2^20 samples has one part."""
    index: int = 0
    """Of the next pack in its part, counted over all processes."""

    @property
    def is_started(self) -> bool:
        return self != Cursor()


Cursors = Mapping[str, Cursor]
"""Of each stage by its name; a stage that has not begun may be missing."""


def find_stage(cursors: Cursors, stages: Sequence[StageConfig]) -> int | None:
    """The first stage with steps left, or None when all stages are done."""
    for number, stage in enumerate(stages):
        if cursors.get(stage.name, Cursor()).steps < stage.steps:
            return number
    return None


def count_steps_left(cursors: Cursors, stages: Sequence[StageConfig]) -> int:
    """Steps of all stages that are not done yet."""
    return sum(max(stage.steps - cursors.get(stage.name, Cursor()).steps, 0) for stage in stages)


def describe_stages(cursors: Cursors, stages: Sequence[StageConfig]) -> str:
    """Steps done of each stage, as "images 4 of 8, videos 2 of 4"."""
    return ", ".join(
        f"{stage.name} {cursors.get(stage.name, Cursor()).steps} of {stage.steps}" for stage in stages
    )


def _select_samples(kind: StageKind, latent_frames: np.ndarray) -> np.ndarray:
    """Which samples a stage uses, [samples] bool: images have one latent frame, videos more."""
    if kind in ("mixed", "first_frames"):
        return np.ones(len(latent_frames), dtype=bool)
    return latent_frames == 1 if kind == "images" else latent_frames > 1


@dataclass(frozen=True, eq=False)
class SampleTable:
    """What planning needs to know of all samples, one entry a sample."""

    ids: Sequence[str]
    kinds: Kinds
    lengths: np.ndarray
    """Tokens, integers, at most the budget."""
    latent_frames: np.ndarray
    """Integers."""

    @classmethod
    def make(
        cls, ids: Sequence[str], kinds: Sequence[str], lengths: npt.ArrayLike, latent_frames: npt.ArrayLike
    ) -> SampleTable:
        """Make a table from plain sequences."""
        return cls(
            ids,
            Kinds.of(kinds),
            np.asarray(lengths, dtype=np.int64),
            np.asarray(latent_frames, dtype=np.int64),
        )

    def stage_lengths(
        self, kind: StageKind, samples: np.ndarray | list[int] | slice = slice(None)
    ) -> np.ndarray:
        """Tokens of some samples, or all, as a stage uses them."""
        lengths = self.lengths[samples]
        return lengths // self.latent_frames[samples] if kind == "first_frames" else lengths


@dataclass(frozen=True)
class PackIndices:
    """One pack to run: indices of samples, and each one's RNG key, which gives its noise, timestep and dropout."""

    samples: tuple[int, ...]
    keys: tuple[RNGKey, ...]
    index: int
    """Of the pack in its epoch, different for each."""


class PackStream:
    """The packs of all processes, one after the other, through stages and epochs.

    Args:
        packs_per_step: of all processes together; packs of like cost stand side by side in a step.
        kind_weights: how often each kind of pair is drawn; None takes each sample once an epoch.
    """

    def __init__(
        self,
        table: SampleTable,
        stages: Sequence[StageConfig],
        packing: PackingConfig,
        seed: int,
        packs_per_step: int = 1,
        kind_weights: Mapping[str, float] | None = None,
    ) -> None:
        self.table, self.stages, self.packing = table, stages, packing
        self.seed, self.packs_per_step = seed, packs_per_step
        self.kind_weights = kind_weights
        self.cursors: dict[str, Cursor] = {}
        # One of each is kept: the draws of 50 M samples are 400 MB, a part's plan is 20 MB.
        self._draws: dict[tuple[int, int], Draws] = {}
        self._plans: dict[tuple[int, int, int, int], PackPlan] = {}

    def next_step(self, stage: int) -> list[PackIndices]:
        """Give the packs of the next step of a stage, and move on."""
        packs = [self._next_pack(stage) for _ in range(self.packs_per_step)]
        name = self.stages[stage].name
        self.cursors[name] = replace(self.cursors[name], steps=self.cursors[name].steps + 1)
        return packs

    def _next_pack(self, stage: int) -> PackIndices:
        name = self.stages[stage].name
        cursor = self.cursors.get(name, Cursor())
        draws, plan = self._plan(stage, cursor.epoch, cursor.part)
        while cursor.index >= len(plan):
            if cursor.part + 1 < draws.num_parts:
                cursor = replace(cursor, part=cursor.part + 1, index=0)
            else:
                cursor = replace(cursor, epoch=cursor.epoch + 1, part=0, index=0)
            draws, plan = self._plan(stage, cursor.epoch, cursor.part)
        self.cursors[name] = replace(cursor, index=cursor.index + 1)
        places = plan.pack(cursor.index)
        samples = tuple(draws.sample(place) for place in places)
        keys = tuple(
            RNGKey(self.seed, name, cursor.epoch, self.table.ids[index], draws.repeat(place))
            for index, place in zip(samples, places, strict=True)
        )
        # A part has fewer packs than samples, and few more samples than planned.
        return PackIndices(samples, keys, 2 * PART_SAMPLES * cursor.part + cursor.index)

    def plan(self, stage: int, epoch: int) -> EpochPlan:
        """The plan of an epoch of a stage, of which the first part is made.

        Raises:
            ConfigurationError, DataError, PackingError: when the stage has no sample, or none with a weight.
        """
        draws, plan = self._plan(stage, epoch, 0)
        packs = [[draws.sample(place) for place in plan.pack(index)] for index in range(min(3, len(plan)))]
        return EpochPlan(plan.report, draws.num_parts, len(draws), packs)

    def _plan(self, stage: int, epoch: int, part: int) -> tuple[Draws, PackPlan]:
        if (stage, epoch) not in self._draws:
            self._draws = {(stage, epoch): self._draw(stage, epoch)}
        draws = self._draws[stage, epoch]
        wanted = (stage, epoch, part, self.packs_per_step)
        if wanted not in self._plans:
            seed = self._plan_seed(stage)
            places = shuffled_part(len(draws), part, draws.num_parts, seed, ORDER_OF_SAMPLES, epoch)
            samples = places if draws.items is None else draws.items[places]
            lengths = self.table.stage_lengths(self.stages[stage].kind, samples)
            plan = plan_part(
                places,
                lengths,
                self.packing,
                seed=seed,
                epoch=epoch,
                packs_per_step=self.packs_per_step,
                part=part,
            )
            self._plans = {wanted: plan}
        return draws, self._plans[wanted]

    def _plan_seed(self, stage: int) -> int:
        return derive_seed(self.seed, "plan", self.stages[stage].name)

    def _draw(self, stage: int, epoch: int) -> Draws:
        kind, num_samples = self.stages[stage].kind, len(self.table.ids)
        eligible = _select_samples(kind, self.table.latent_frames)
        if not eligible.any():
            raise ConfigurationError(
                f"it wants {kind}, and none of the {num_samples} samples is one; add some, or change the "
                "stage's kind"
            )
        if self.kind_weights is None:
            is_whole = bool(eligible.all())
            items = None if is_whole else np.flatnonzero(eligible).astype(np.uint32)
            return Draws(items, None, num_samples if items is None else len(items))
        items = plan_epoch_items(
            self.table.kinds, self.kind_weights, seed=self._plan_seed(stage), epoch=epoch, eligible=eligible
        )
        return Draws(items.astype(np.uint32), count_repeats(items).astype(np.uint32), len(items))


@dataclass(frozen=True)
class EpochPlan:
    """What is known of an epoch from its first part."""

    report: PackingReport
    """Of the first part."""
    num_parts: int
    num_draws: int
    """Of samples, in the whole epoch."""
    first_packs: list[list[int]]
    """Indices of samples."""

    @property
    def num_packs(self) -> int:
        """In the whole epoch; estimated where there is more than one part."""
        return round(self.report.num_packs * self.num_draws / self.report.num_samples)

    def __str__(self) -> str:
        if self.num_parts == 1:
            return str(self.report)
        return f"{self.num_draws} samples; of the first {self.num_parts}th part: {self.report}"
