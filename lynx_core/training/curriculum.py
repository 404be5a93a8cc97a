"""The curriculum: which stage comes next, which samples an epoch of it draws, and which of its packs are next.

Each stage counts its own steps, epochs and packs, so a stage that is made longer later resumes where it
stood and repeats neither samples nor noise. The packs of a stage run epoch after epoch; each epoch's plan
is a pure function of (seed, stage, epoch, lengths, packs of a step), so four numbers a stage are the whole
state. Packs are planned for all processes and then dealt out: the number of processes may change at any step.

With weighted kinds of pairs, each kind is a stream of its own: one shuffled pass over its samples after
another. An epoch takes as many from each stream as the weights say and continues where the epoch before it
ended, so every sample of a kind is drawn once before any is drawn again, across epochs as well.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from ..data.errors import DataError
from ..rng import ORDER_OF_KIND, ORDER_OF_SAMPLES, RNGKey, derive_seed, shuffled, shuffled_part
from .configuration import StageConfig, StageKind
from .configuration_file import ConfigurationError
from .packing import PackingConfig, PackingReport, PackPlan, plan_part

PART_SAMPLES = 1 << 20
"""The most samples that are planned at a time, about; fewer would change no fill that can be seen."""


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


@dataclass(frozen=True, eq=False)
class Kinds:
    """The kind of each sample."""

    names: tuple[str, ...]
    codes: np.ndarray
    """Places in `names`."""

    @classmethod
    def of(cls, kinds: Sequence[str] | np.ndarray | Kinds) -> Kinds:
        """Of a name for each sample."""
        if isinstance(kinds, Kinds):
            return kinds
        names, codes = np.unique(np.asarray(kinds), return_inverse=True)
        return cls(tuple(names.tolist()), codes)

    def present(self, samples: np.ndarray | slice = slice(None)) -> list[str]:
        """Names that some sample has, in order."""
        counts = np.bincount(self.codes[samples], minlength=len(self.names))
        return sorted(name for name, count in zip(self.names, counts, strict=True) if count)

    def find(self, name: str, samples: np.ndarray) -> np.ndarray:
        """Those of `samples` that are of a kind."""
        return samples[self.codes[samples] == self.names.index(name)]


@dataclass(frozen=True, eq=False)
class Draws:
    """The samples of one epoch, in no order that means anything."""

    items: np.ndarray | None
    """Index of each sample; None where all are drawn once."""
    repeats: np.ndarray | None
    """How often each was drawn before in this epoch; None where all are drawn once."""
    count: int

    def __len__(self) -> int:
        return self.count

    @property
    def num_parts(self) -> int:
        return -(-self.count // PART_SAMPLES)

    def sample(self, place: int) -> int:
        return place if self.items is None else int(self.items[place])

    def repeat(self, place: int) -> int:
        return 0 if self.repeats is None else int(self.repeats[place])


def count_repeats(samples: np.ndarray) -> np.ndarray:
    """For each entry, how many entries before it are equal; int64."""
    order = np.argsort(samples, kind="stable")
    ordered = samples[order]
    is_first = np.concatenate([[True], ordered[1:] != ordered[:-1]])
    starts = np.flatnonzero(is_first)
    repeats = np.empty(len(samples), dtype=np.int64)
    repeats[order] = np.arange(len(samples)) - starts[np.cumsum(is_first) - 1]
    return repeats


def plan_epoch_items(
    kinds: Sequence[str] | np.ndarray | Kinds,
    weights: Mapping[str, float] | None,
    *,
    seed: int,
    epoch: int,
    num_items: int | None = None,
    eligible: np.ndarray | None = None,
) -> np.ndarray:
    """Indices of the samples of one epoch, int64; their order means nothing, packing shuffles them.

    Args:
        kinds: of every sample.
        weights: kind -> share of the epoch, any positive scale; 0 leaves a kind out. None takes every
            eligible sample once.
        seed, epoch: 0 or more.
        num_items: how many; by default as many as there are eligible samples of the kinds with weight.
        eligible: [samples] bool, which samples a stage uses; all when None.

    Raises:
        DataError: for kinds without a weight, weights without a kind, negative or all-zero weights,
            and when nothing is eligible.
    """
    table = Kinds.of(kinds)
    usable = np.arange(len(table.codes)) if eligible is None else np.flatnonzero(eligible)
    if not len(usable):
        raise DataError(f"none of the {len(table.codes)} samples is eligible for this stage")
    present = table.present(usable)
    if weights is None:
        if num_items is None:
            return usable
        streams, shares = [usable], [1.0]
    else:
        _check_weights(weights, present, list(table.names))
        present = [kind for kind in present if weights[kind] > 0]
        streams = [table.find(kind, usable) for kind in present]
        total = sum(weights[kind] for kind in present)
        shares = [weights[kind] / total for kind in present]
    count = sum(len(stream) for stream in streams) if num_items is None else num_items
    taken = []
    for variant, (stream, share) in enumerate(zip(streams, shares, strict=True)):
        # Rounding the running totals keeps the long-run shares exact.
        first, end = (math.floor(number * count * share + 0.5) for number in (epoch, epoch + 1))
        taken.append(stream[_read_stream(len(stream), first, end, seed, variant)])
    return np.concatenate(taken)


def _read_stream(length: int, first: int, end: int, seed: int, variant: int) -> np.ndarray:
    """Places `first` to `end` of an endless run of shuffled passes over `length` samples."""
    passes = range(first // length, -(-end // length))
    orders = [shuffled(length, seed, ORDER_OF_KIND, number, variant) for number in passes]
    if not orders:
        return np.empty(0, dtype=np.int64)
    offset = passes[0] * length
    return np.concatenate(orders)[first - offset : end - offset]


def _check_weights(weights: Mapping[str, float], present: list[str], known: list[str]) -> None:
    for kind, weight in weights.items():
        if kind not in known:
            close = difflib.get_close_matches(kind, known, n=1, cutoff=0.3)
            hint = f"; did you mean '{close[0]}'?" if close else ""
            raise DataError(f"there is a weight for '{kind}', but the kinds are {', '.join(known)}{hint}")
        if not (math.isfinite(weight) and weight >= 0):
            raise DataError(f"the weight of '{kind}' is 0 or more, got {weight}")
    missing = [kind for kind in present if kind not in weights]
    if missing:
        raise DataError(f"no weight for {', '.join(missing)}; give 0 to leave a kind out")
    if not sum(weights[kind] for kind in present):
        raise DataError(f"all weights of {', '.join(present)} are 0; nothing is left to train on")


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
