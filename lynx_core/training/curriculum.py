"""The curriculum: which stage comes next, which of its packs, and the prefetching loader that reads them.

Each stage counts its own steps, epochs and packs, so a stage that is made longer later resumes where it
stood and repeats neither samples nor noise. The packs of a stage run epoch after epoch; each epoch's plan
is a pure function of (seed, stage, epoch, lengths), so three numbers a stage are the whole state.

With weighted kinds of pairs, each kind is a stream of its own: one shuffled pass over its samples after
another. An epoch takes as many from each stream as the weights say and continues where the epoch before it
ended, so every sample of a kind is drawn once before any is drawn again, across epochs as well.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from ..data.dataset import PairDataset
from ..data.errors import DataError
from ..data.sample import Sample
from ..rng import ORDER_OF_KIND, RNGKey, derive_seed, shuffled
from .configuration import StageConfig, StageKind
from .configuration_file import ConfigurationError
from .packing import PackingConfig, PackPlan, plan_epoch


@dataclass(frozen=True)
class Cursor:
    """Where a stage stands: all that has to be stored to resume it."""

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
    """One pack to run: indices of samples, and each one's RNG key, which gives its noise, timestep and dropout."""

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
        self._eligible = [_select_samples(stage.kind, table.latent_frames) for stage in stages]
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


@dataclass(frozen=True)
class LoadedPack:
    """The samples of a pack, and the RNG key of each."""

    samples: tuple[Sample, ...]
    keys: tuple[RNGKey, ...]


@dataclass(frozen=True)
class LoadedStep:
    """What one process runs in one step."""

    stage: StageConfig
    packs: tuple[LoadedPack, ...]
    cursors: Cursors
    """Where the stages stand after this step."""


class PackLoader:
    """Gives the steps of one process in order, one ahead."""

    def __init__(
        self, stream: PackStream, dataset: PairDataset, stages: Sequence[StageConfig], accumulation: int
    ) -> None:
        self.stream, self.dataset, self.stages = stream, dataset, stages
        self.accumulation = accumulation
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
        packs = tuple(self._load_pack(number) for _ in range(self.accumulation))
        self.stream.finish_step(number)
        return LoadedStep(self.stages[number], packs, dict(self.stream.cursors))

    def _load_pack(self, number: int) -> LoadedPack:
        order = self.stream.next_pack(number)
        samples = self.dataset.load_pack(order.samples)
        if self.stages[number].kind == "first_frames":
            samples = [sample.keep_frames(1) for sample in samples]
        return LoadedPack(tuple(samples), _match_keys(samples, order))


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


def plan_epoch_items(
    kinds: Sequence[str] | np.ndarray,
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
    names = np.asarray(kinds)
    usable = np.arange(len(names)) if eligible is None else np.flatnonzero(eligible)
    if not len(usable):
        raise DataError(f"none of the {len(names)} samples is eligible for this stage")
    present = sorted(set(names[usable].tolist()))
    if weights is None:
        if num_items is None:
            return usable
        streams, shares = [usable], [1.0]
    else:
        _check_weights(weights, present, sorted(set(names.tolist())))
        present = [kind for kind in present if weights[kind] > 0]
        streams = [usable[names[usable] == kind] for kind in present]
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
            raise DataError(
                f"there is a weight for '{kind}', but the samples are of {', '.join(known)}{hint}"
            )
        if not (math.isfinite(weight) and weight >= 0):
            raise DataError(f"the weight of '{kind}' is 0 or more, got {weight}")
    missing = [kind for kind in present if kind not in weights]
    if missing:
        raise DataError(f"no weight for {', '.join(missing)}; give 0 to leave a kind out")
    if not sum(weights[kind] for kind in present):
        raise DataError(f"all weights of {', '.join(present)} are 0; nothing is left to train on")
