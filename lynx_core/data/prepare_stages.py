"""The stages of a preparation as work for the engine: faces, captions, latents, each a record in and a record out.

What a stage makes are entries of the cache; its records tell what became of a pair. A pair whose files,
settings and networks are as they were is not looked at again; one that was rejected is.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import torch

from ..engine.stage import EngineError, Rejected, Stage
from .cache.tensor_cache import TensorCache
from .dataset_index import reject
from .encoders import Encoders
from .errors import DataError, MediaError
from .manifest import Pair
from .media.decoding import ClipPlan, photo_decoder_versions, video_decoder_versions
from .pair_table import IndexEntry
from .quarantine import Rejection
from .sample import Features

StageName = Literal["faces", "captions", "latents"]
_VERSION = 1
_NUM_BATCHES, _MOST_ROWS = 64, 256
"""A stage has so many batches, or larger ones of no more rows than this; what is done is noted after each."""


@dataclass(frozen=True)
class PairRecord:
    """What a stage needs of a pair; nothing of its place in the manifest."""

    id: str
    caption: str
    kind: str
    target: str
    references: tuple[str, ...]
    target_hash: str
    reference_hashes: tuple[str, ...]
    sizes_px: tuple[int, ...]
    pts: tuple[int, ...] | None

    @classmethod
    def of(cls, entry: IndexEntry) -> PairRecord:
        pair, plan = entry.pair, entry.plan
        return cls(
            pair.id,
            pair.caption,
            pair.kind,
            str(pair.target.absolute()),
            tuple(str(path.absolute()) for path in pair.references),
            entry.target_hash,
            entry.reference_hashes,
            plan.sizes_px,
            None if plan.pts is None else tuple(plan.pts.tolist()),
        )

    def entry(self) -> IndexEntry:
        """The pair, as `Features` takes it."""
        references = tuple(Path(path) for path in self.references)
        pair = Pair(self.id, Path(self.target), references, self.caption, self.kind, 0)
        plan = ClipPlan.restore(self.sizes_px, self.pts)
        return IndexEntry(pair, plan, self.target_hash, self.reference_hashes)


@dataclass(frozen=True)
class PairDone:
    """What a stage did for a pair."""

    id: str
    made: int
    """Cache entries."""
    reused: int
    damaged: int
    written_bytes: int
    warnings: str
    """JSON: [reason, detail] of each."""


def make_stage(
    name: StageName,
    encoders: Encoders,
    cache_dir: Path,
    num_workers: int,
    num_pairs: int,
    gpus: float = 0.0,
    generation: str = "",
) -> Stage:
    """A stage over `PairRecord`s.

    Args:
        generation: of the shards; with another one every pair is looked at again.
        num_pairs: that it is for, from which follows how many are done at a time.
    """
    decoders = [video_decoder_versions(), photo_decoder_versions()]
    return Stage(
        name,
        _VERSION,
        PairRecord,
        PairDone,
        settings=[encoders.fingerprint(), decoders, generation],
        open_worker=partial(_open_worker, name, encoders, Path(cache_dir).absolute(), num_workers),
        batch_rows=min(max(num_pairs // _NUM_BATCHES, 1), _MOST_ROWS),
        gpus=gpus,
    )


def _open_worker(
    name: StageName, encoders: Encoders, cache_dir: Path, num_workers: int
) -> Callable[[Sequence[PairRecord]], list[list[PairDone | Rejected]]]:
    if num_workers > 1:
        # Processes that each take all cores are slower than one alone.
        torch.set_num_threads(max(1, torch.get_num_threads() // num_workers))
    warnings: list[Rejection] = []
    features = Features(encoders, TensorCache(cache_dir), on_warning=warnings.append)
    if name == "latents":
        features.load_nulls()  # made here, where the network opens anyway, and not again by the process that waits

    def make(entry: IndexEntry) -> None:
        if name == "faces":
            features.load_embedding(entry)
        elif name == "captions":
            features.load_text(entry.pair.caption)
        else:
            features.load_latents(entry)
            features.load_reference(entry)

    def do_one(record: PairRecord) -> PairDone | Rejected:
        entry = record.entry()
        features.cache.take_counts()
        warnings.clear()
        try:
            make(entry)
        except MediaError as error:
            said = reject(entry.pair, error)
            # Tried again by each preparation: the file may have been repaired.
            return Rejected(said.reason, said.detail, record.id, retry=True)
        except DataError as error:
            raise EngineError(str(error)) from error
        counts = features.cache.take_counts()
        told = json.dumps([[warning.reason, warning.detail] for warning in warnings])
        return PairDone(record.id, counts.made, counts.reused, counts.damaged, counts.written_bytes, told)

    def do(records: Sequence[PairRecord]) -> list[list[PairDone | Rejected]]:
        if name == "latents":
            try:
                features.encode_together(record.entry() for record in records)
            except DataError as error:
                raise EngineError(str(error)) from error
        return [[do_one(record)] for record in records]

    return do
