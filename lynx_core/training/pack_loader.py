"""Deals the packs of a step out to the processes, and reads those of one process ahead of their use."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace

from ..data.dataset import PairDataset
from ..data.sample import Sample
from ..rng import RNGKey
from .configuration import StageConfig
from .curriculum import Cursors, PackIndices, PackStream, find_stage


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
