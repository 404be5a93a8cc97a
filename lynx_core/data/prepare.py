"""Filling the cache before a run: `prepare_dataset` makes every tensor that training will ask for.

Faces come first, then captions, then latents, and each encoder is freed before the next is opened, so
that only one of them is in memory at a time. What is in the cache already is not made again: a
preparation that was stopped resumes where it stopped.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ..spec import REFERENCE_PROMPT
from .dataset import PairDataset
from .dataset_index import reject
from .decoding import DecodingConfig
from .encoders import Encoders
from .errors import DataError, MediaError
from .manifest import Manifest
from .pair_table import IndexEntry
from .quarantine import SkippedRows


@dataclass(frozen=True)
class Progress:
    """Where a preparation stands; each stage begins with none done."""

    stage: str
    """"files", "faces", "captions" or "latents"."""
    done: int
    total: int


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
) -> PreparedDataset:
    """Make and keep all tensors of a dataset.

    Args:
        manifest: of `read_manifest`.
        cache_dir: folder of the cache.
        encoders: of the backbone and the faces.
        on_progress: called at the start of each stage and after each file or tensor.
        decoding: what becomes of the files; must be that of the training run.
        quarantine_path: file for the pairs that are skipped, written anew; None keeps them in memory.
        warnings_path: file for what to know about the others; None keeps it in memory.

    Raises:
        DataError: when no usable pair is left, and when the cache cannot be written.
    """
    start = time.monotonic()
    report = on_progress or (lambda progress: None)
    source = PairDataset(
        manifest,
        encoders,
        decoding or DecodingConfig(),
        cache_dir=Path(cache_dir),
        quarantine_path=quarantine_path,
        warnings_path=warnings_path,
        retry=True,
        on_count=lambda done, total: report(Progress("files", done, total)),
    )
    ready = _fill_cache(source, report)
    if not ready:
        raise DataError(f"no usable pair is left of {manifest.path}:{source.quarantine.summary()}")
    counts = source.features.cache.counts
    return PreparedDataset(
        num_pairs=ready,
        skipped=source.skipped_rows(),
        made=counts.made,
        reused=counts.reused,
        damaged=counts.damaged,
        written_bytes=counts.written_bytes,
        seconds=time.monotonic() - start,
    )


def _fill_cache(source: PairDataset, report: Callable[[Progress], None]) -> int:
    """Run the stages one after another; the number of pairs that passed all of them."""
    features = source.features

    def make_media(item: IndexEntry) -> None:
        features.load_latents(item)
        features.load_reference(item)

    def finish_captions() -> None:
        for text in ("", REFERENCE_PROMPT):
            features.load_text(text)
        features.encoders.text.release()

    def finish_latents() -> None:
        features.load_nulls()
        features.encoders.video.release()

    stages: list[tuple[str, Callable[[IndexEntry], object], Callable[[], None]]] = [
        ("faces", features.load_embedding, lambda: None),
        ("captions", lambda item: features.load_text(item.pair.caption), finish_captions),
        ("latents", make_media, finish_latents),
    ]
    items = list(source.items)
    for stage, make, finish in stages:
        passed = []
        report(Progress(stage, 0, len(items)))
        for number, item in enumerate(items, start=1):
            try:
                make(item)
                passed.append(item)
            except MediaError as error:
                source.quarantine.add(reject(item.pair, error))
            report(Progress(stage, number, len(items)))
        items = passed
        finish()
    return len(items)
