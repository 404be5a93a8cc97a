"""Filling the cache before a run: `prepare_dataset` makes every tensor that training will ask for, and the index.

Faces come first, then captions, then latents, and each encoder is freed before the next is opened, so
that only one of them is in memory at a time. The stages run on the engine, in this process, in several, or
on a Ray cluster; its notes are in `work` in the cache. What they make is moved into shards on the way. What is
done already is not done again: a preparation that was killed resumes where it stood.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ..engine.daft_runner import RunnerName
from ..engine.engine import Engine, StageResult
from ..engine.parts import RecordReader
from ..engine.stage import EngineError, Rejected
from ..spec import REFERENCE_PROMPT
from .cache.bucket_cache import pull_cache, push_cache
from .cache.shards import SHARD_BYTES, open_shards, pack_entries
from .cache.tensor_cache import CacheCounts
from .dataset import PairDataset
from .encoders import Encoders
from .errors import DataError
from .manifest import Manifest
from .media.decoding import DecodingConfig
from .prepare_stages import PairDone, PairRecord, StageName, make_stage
from .prepared_index import name_index, write_index
from .quarantine import Rejection, SkippedRows

WORK_NAME = "work"
_MIN_PAIRS = 64
"""For which one more process is started."""
_PACKED_PAIRS = 1024
"""After which a stage looks whether there is a shard to fill."""


@dataclass(frozen=True)
class Progress:
    """Where a preparation stands; each stage begins with none done."""

    stage: str
    """"files", "faces", "captions" or "latents"."""
    done: int
    total: int


@dataclass(frozen=True)
class WorkerConfig:
    """Where the stages of a preparation run."""

    count: int = 1
    """Of faces and latents; one works in this process."""
    runner: RunnerName = "native"
    """native: on this machine; ray: on the cluster of RAY_ADDRESS, or a local one."""
    gpus: float = 0.0
    """Of each worker, for a cluster to place it."""


@dataclass(frozen=True)
class PreparedDataset:
    """What a preparation did."""

    num_pairs: int
    """Ready to train on."""
    skipped: SkippedRows
    """The rows that are not, and what to know about those that are."""
    made: int
    """Cache entries."""
    reused: int
    damaged: int
    written_bytes: int
    seconds: float

    @property
    def num_skipped(self) -> int:
        return len(self.skipped.rejections)

    def __str__(self) -> str:
        damaged = f", {self.damaged} damaged ones among them" if self.damaged else ""
        gone = self.skipped.absent_files
        absent = f"\n  {gone} files are gone; what the cache has made of them is used" if gone else ""
        warnings = f", {len(self.skipped.warnings)} warnings" if self.skipped.warnings else ""
        return (
            f"{self.num_pairs} pairs ready, {self.num_skipped} skipped{warnings}; {self.made} cache entries made"
            f"{damaged}, {self.reused} reused, {self.written_bytes / 1e9:.2f} GB written in {self.seconds:.0f} s"
            f"{self.skipped.describe_reasons()}{self.skipped.describe_warnings()}{absent}"
        )


def prepare_dataset(
    manifest: Manifest,
    cache_dir: Path,
    encoders: Encoders,
    on_progress: Callable[[Progress], None] | None = None,
    decoding: DecodingConfig | None = None,
    *,
    quarantine_path: Path | None = None,
    warnings_path: Path | None = None,
    workers: WorkerConfig = WorkerConfig(),
    shard_bytes: int = SHARD_BYTES,
) -> PreparedDataset:
    """Make and keep all tensors of a dataset, and an index by which a run opens it without looking at its files.

    Args:
        manifest: of `read_manifest`.
        cache_dir: folder of the cache.
        encoders: of the backbone and the faces.
        on_progress: called at the start of each stage and after each file or tensor.
        decoding: what becomes of the files; must be that of the training run.
        quarantine_path: file for the pairs that are skipped, written anew; None keeps them in memory.
        warnings_path: file for what to know about the others; None keeps it in memory.
        workers: where the stages run.
        shard_bytes: size of a shard, about.

    Raises:
        DataError: when no usable pair is left, and when the cache cannot be written.
    """
    start = time.monotonic()
    report = on_progress or (lambda progress: None)
    packing = _Packing(Path(cache_dir), shard_bytes)
    source = PairDataset(
        manifest,
        encoders,
        decoding or DecodingConfig(),
        cache_dir=packing.cache_dir,
        quarantine_path=quarantine_path,
        warnings_path=warnings_path,
        retry=True,
        on_count=lambda done, total: report(Progress("files", done, total)),
    )
    try:
        ready, counts = _run_stages(source, packing, report, workers)
    except EngineError as error:
        raise DataError(str(error)) from error
    if not ready:
        raise DataError(f"no usable pair is left of {manifest.path}:{source.quarantine.summary()}")
    packing.finish(source, manifest)
    return PreparedDataset(
        num_pairs=ready,
        skipped=source.skipped_rows(),
        made=counts.made,
        reused=counts.reused,
        damaged=counts.damaged,
        written_bytes=counts.written_bytes,
        seconds=time.monotonic() - start,
    )


class _Packing:
    """Moves what the stages make into shards, once enough of it may be there.

    Args:
        cache_dir: folder of the cache, which is brought up to date first where it stands for one in a bucket.
    """

    def __init__(self, cache_dir: Path, shard_bytes: int) -> None:
        self.cache_dir, self.shard_bytes = cache_dir, shard_bytes
        pull_cache(cache_dir)
        self.generation = open_shards(cache_dir)
        self._num_unpacked = 0

    def note(self, num_pairs: int, *, is_stage_done: bool = False) -> None:
        """Take account of pairs that a stage has done."""
        self._num_unpacked += num_pairs
        if self._num_unpacked >= _PACKED_PAIRS or is_stage_done:
            pack_entries(self.cache_dir, self.shard_bytes, whole_only=True)
            self._num_unpacked = 0

    def finish(self, source: PairDataset, manifest: Manifest) -> None:
        """Pack the rest, and write the index that a run opens."""
        pack_entries(self.cache_dir, self.shard_bytes)
        path = name_index(self.cache_dir, manifest.path, source.fingerprints, manifest.min_face_similarity)
        write_index(path, source.index, source.quarantine.rejections, source.warnings.rejections)
        push_cache(self.cache_dir)


def _run_stages(
    source: PairDataset, packing: _Packing, report: Callable[[Progress], None], workers: WorkerConfig
) -> tuple[int, CacheCounts]:
    """Run the stages one after another; the number of pairs that passed all of them, and what was made."""
    encoders, features, cache_dir = source.features.encoders, source.features, packing.cache_dir
    seen = 0

    def show(stage: str, done: int, total: int) -> None:
        nonlocal seen
        if done:
            report(Progress(stage, done, total))
        packing.note(max(done - seen, 0))
        seen = done

    engine = Engine(cache_dir / WORK_NAME, workers.runner, on_progress=show)
    inputs = engine.put("pairs", (PairRecord.of(entry) for entry in source.items), PairRecord)
    left = np.arange(len(source.items))
    counts = CacheCounts()

    def finish_captions() -> None:
        for text in ("", REFERENCE_PROMPT):
            features.load_text(text)
        encoders.text.release()

    def finish_latents() -> None:
        features.load_nulls()
        encoders.video.release()

    stages: list[tuple[StageName, int, Callable[[], None]]] = [
        ("faces", workers.count, lambda: None),
        # One of these networks takes 11 GB, and all cores.
        ("captions", 1, finish_captions),
        ("latents", workers.count, finish_latents),
    ]
    for name, num_workers, finish in stages:
        report(Progress(name, 0, len(left)))
        if workers.runner == "native":
            # A process takes seconds to start.
            num_workers = max(1, min(num_workers, len(left) // _MIN_PAIRS))
        engine.num_workers = num_workers
        stage = make_stage(
            name, encoders, cache_dir, num_workers, len(left), workers.gpus, packing.generation
        )
        some = replace(inputs, input_keys=inputs.input_keys[left])
        passed = _take_results(source, engine.run(stage, some), left, counts)
        left = left[passed]
        finish()
        packing.note(0, is_stage_done=True)
    _add(counts, features.cache.take_counts())
    return len(left), counts


def _take_results(
    source: PairDataset, result: StageResult, rows: np.ndarray, counts: CacheCounts
) -> np.ndarray:
    """Quarantine what a stage rejected; tells of each pair whether it passed.

    Args:
        rows: of the pairs, in the order of the stage's inputs.
        counts: are added to.
    """
    done, rejected = RecordReader(PairDone), RecordReader(Rejected)
    places = result.index.find_rows(result.input_keys)
    passed = result.index.has_record(places)
    for number, ref in enumerate(result.index.refs(places)):
        line = int(source.items.lines[rows[number]])
        if not passed[number]:
            said = rejected.read_rejected(ref.part, ref.row)
            source.quarantine.add(Rejection(source.items.ids[rows[number]], line, said.reason, said.detail))
            continue
        record: PairDone = done.read(ref)
        if result.was_done[number]:
            counts.reused += record.made + record.reused
        else:
            _add(counts, record)
        for reason, detail in json.loads(record.warnings):
            source.warnings.add(Rejection(record.id, line, reason, detail))
    return passed


def _add(counts: CacheCounts, more: CacheCounts | PairDone) -> None:
    for name in vars(counts):
        setattr(counts, name, getattr(counts, name) + getattr(more, name))
