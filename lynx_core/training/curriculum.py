"""The order of things: which stage comes next, and which of its packs.

Each stage counts its own steps, epochs and packs, so a stage that is made longer later goes on where it
stood and repeats neither samples nor noise. The packs of a stage run epoch after epoch; each epoch's plan
is a pure function of (seed, stage, epoch, lengths), so three numbers a stage say where a run stands.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from ..data.sampling import plan_epoch_items
from ..rng import RNGKey, derive_seed
from .configuration import ConfigurationError, StageConfig, StageKind
from .packing import PackingConfig, PackPlan, plan_epoch


@dataclass(frozen=True)
class Cursor:
    """Where a stage stands: all that has to be stored to go on with it."""

    steps: int = 0
    """That were done."""
    epoch: int = 0
    index: int = 0
    """Of the next pack in its epoch, counted for each process."""

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


def select_samples(kind: StageKind, latent_frames: np.ndarray) -> np.ndarray:
    """Which samples a stage uses, [samples] bool: images have one latent frame, videos more."""
    if kind in ("mixed", "first_frames"):
        return np.ones(len(latent_frames), dtype=bool)
    return latent_frames == 1 if kind == "images" else latent_frames > 1


@dataclass(frozen=True, eq=False)
class SampleTable:
    """What planning needs to know of all samples, one entry a sample."""

    ids: Sequence[str]
    kinds: Sequence[str]
    lengths: np.ndarray
    """Tokens, int64, at most the budget."""
    latent_frames: np.ndarray
    """int64."""

    @classmethod
    def make(
        cls, ids: Sequence[str], kinds: Sequence[str], lengths: npt.ArrayLike, latent_frames: npt.ArrayLike
    ) -> SampleTable:
        """Make a table from plain sequences."""
        return cls(ids, kinds, np.asarray(lengths, dtype=np.int64), np.asarray(latent_frames, dtype=np.int64))

    def stage_lengths(self, kind: StageKind) -> np.ndarray:
        """Tokens of each sample as a stage uses it."""
        return self.lengths // self.latent_frames if kind == "first_frames" else self.lengths


@dataclass(frozen=True)
class PackIndices:
    """One pack to run: indices of samples, and the key of what chance decides for each."""

    samples: tuple[int, ...]
    keys: tuple[RNGKey, ...]
    index: int
    """Of the pack in its epoch."""


class PackStream:
    """The packs of one process, one after the other, through stages and epochs.

    Args:
        kind_weights: how often each kind of pair is drawn; None takes each sample once an epoch.
    """

    def __init__(
        self,
        table: SampleTable,
        stages: Sequence[StageConfig],
        packing: PackingConfig,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        kind_weights: Mapping[str, float] | None = None,
    ) -> None:
        self.table, self.stages, self.packing = table, stages, packing
        self.seed, self.rank, self.world_size = seed, rank, world_size
        self.kind_weights = kind_weights
        self.cursors: dict[str, Cursor] = {}
        self._eligible = [select_samples(stage.kind, table.latent_frames) for stage in stages]
        self._plans: dict[tuple[int, int], _Epoch] = {}

    def next_pack(self, stage: int) -> PackIndices:
        """Give the next pack that this process runs of a stage, and move on."""
        name = self.stages[stage].name
        cursor = self.cursors.get(name, Cursor())
        epoch = self._plan(stage, cursor.epoch)
        if cursor.index >= len(epoch.plan):
            cursor = replace(cursor, epoch=cursor.epoch + 1, index=0)
            epoch = self._plan(stage, cursor.epoch)
        order = self._order(epoch, stage, cursor)
        self.cursors[name] = replace(cursor, index=cursor.index + 1)
        return order

    def finish_step(self, stage: int) -> None:
        """Count a step of a stage."""
        name = self.stages[stage].name
        cursor = self.cursors.get(name, Cursor())
        self.cursors[name] = replace(cursor, steps=cursor.steps + 1)

    def plan(self, stage: int, epoch: int) -> PackPlan:
        """The plan of an epoch of a stage.

        Raises:
            ConfigurationError, DataError, PackingError: when the stage has no sample, none with a weight, or
                fewer packs than processes.
        """
        return self._plan(stage, epoch).plan

    def _plan(self, stage: int, epoch: int) -> _Epoch:
        if (stage, epoch) not in self._plans:
            if not self._eligible[stage].any():
                raise ConfigurationError(
                    f"it wants {self.stages[stage].kind}, and none of the {len(self.table.ids)} samples is one; "
                    "add some, or change the stage's kind"
                )
            seed = derive_seed(self.seed, "plan", self.stages[stage].name)
            items = plan_epoch_items(
                self.table.kinds, self.kind_weights, seed=seed, epoch=epoch, eligible=self._eligible[stage]
            )
            plan = plan_epoch(
                self.table.stage_lengths(self.stages[stage].kind),
                self.packing,
                seed=seed,
                epoch=epoch,
                world_size=self.world_size,
                items=items,
            )
            # One epoch is kept: of a million samples a plan is 20 MB.
            self._plans = {(stage, epoch): _Epoch(plan, count_repeats(plan.samples))}
        return self._plans[stage, epoch]

    def _order(self, epoch: _Epoch, stage: int, cursor: Cursor) -> PackIndices:
        number = epoch.plan.schedule[cursor.index, self.rank]
        places = slice(epoch.plan.starts[number], epoch.plan.starts[number + 1])
        samples = tuple(int(index) for index in epoch.plan.samples[places])
        name = self.stages[stage].name
        repeats = (int(repeat) for repeat in epoch.repeats[places])
        keys = tuple(
            RNGKey(self.seed, name, cursor.epoch, self.table.ids[index], repeat)
            for index, repeat in zip(samples, repeats, strict=True)
        )
        return PackIndices(samples, keys, cursor.index)


@dataclass(frozen=True, eq=False)
class _Epoch:
    plan: PackPlan
    repeats: np.ndarray


def count_repeats(samples: np.ndarray) -> np.ndarray:
    """For each entry, how many entries before it are equal; int64."""
    order = np.argsort(samples, kind="stable")
    ordered = samples[order]
    is_first = np.concatenate([[True], ordered[1:] != ordered[:-1]])
    starts = np.flatnonzero(is_first)
    repeats = np.empty(len(samples), dtype=np.int64)
    repeats[order] = np.arange(len(samples)) - starts[np.cumsum(is_first) - 1]
    return repeats
