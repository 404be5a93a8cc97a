"""Reads the packs of the next step while the present one computes."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Protocol

from ..data.sample import Sample
from ..rng import RNGKey
from .configuration import StageConfig
from .curriculum import Cursors, PackIndices, PackStream, find_stage


class PackReader(Protocol):
    """What the loader needs of a data set; a PairDataset gives it."""

    def load_pack(self, indices: Sequence[int]) -> list[Sample]: ...


@dataclass(frozen=True)
class LoadedPack:
    """The samples of a pack, and the key of what chance decides for each."""

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
        self, stream: PackStream, reader: PackReader, stages: Sequence[StageConfig], accumulation: int
    ) -> None:
        self.stream, self.reader, self.stages = stream, reader, stages
        self.accumulation = accumulation
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="pack loader")
        self._ahead: Future[LoadedStep] | None = None

    def next_step(self) -> LoadedStep:
        """Give the packs of the next step and begin with those of the one after it."""
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
        samples = self.reader.load_pack(order.samples)
        if self.stages[number].kind == "first_frames":
            samples = [sample.keep_frames(1) for sample in samples]
        return LoadedPack(tuple(samples), match_keys(samples, order))


def match_keys(samples: Sequence[Sample], order: PackIndices) -> tuple[RNGKey, ...]:
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
