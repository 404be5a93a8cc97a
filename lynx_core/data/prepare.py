"""Filling the cache before a run: `prepare_dataset` makes every tensor that training will ask for.

Faces come first, then captions, then latents, and each encoder is freed before the next is opened, so
that only one of them is in memory at a time. What is in the cache already is not made again: a
preparation that was stopped goes on where it stopped.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from .cache import TensorCache
from .catalogue import Catalogue, CatalogueItem, build_catalogue, reject
from .decoding import DecodingConfig
from .encoders import Encoders
from .errors import DataError, MediaError
from .features import Features
from .manifest import Manifest
from .quarantine import Quarantine
from .sample import REFERENCE_PROMPT

QUARANTINE_NAME = "quarantine.jsonl"


@dataclass(frozen=True)
class Progress:
    """Where a preparation stands."""

    stage: str
    """"files", "faces", "captions" or "latents"."""
    done: int
    total: int


@dataclass(frozen=True)
class PreparedDataset:
    """What a preparation did."""

    num_pairs: int
    """Ready to train on."""
    num_set_aside: int
    made: int
    """Cache entries."""
    reused: int
    damaged: int
    written_bytes: int
    seconds: float
    reasons: str
    """A line for each reason of what was set aside."""

    def __str__(self) -> str:
        damaged = f", {self.damaged} damaged ones among them" if self.damaged else ""
        return (
            f"{self.num_pairs} pairs ready, {self.num_set_aside} set aside; {self.made} cache entries made"
            f"{damaged}, {self.reused} reused, {self.written_bytes / 1e9:.2f} GB written in {self.seconds:.0f} s"
            f"{self.reasons}"
        )


def prepare_dataset(
    manifest: Manifest,
    cache_dir: Path,
    encoders: Encoders,
    on_progress: Callable[[Progress], None] | None = None,
    decoding: DecodingConfig | None = None,
) -> PreparedDataset:
    """Make and keep all tensors of a data set.

    Args:
        manifest: of `read_manifest`.
        cache_dir: folder of the cache; also takes the `quarantine.jsonl` of the latest preparation.
        encoders: of the backbone and the faces.
        on_progress: called after each file or tensor.
        decoding: what becomes of the files; must be that of the training run.

    Raises:
        DataError: when no usable pair is left, and when the cache cannot be written.
    """
    start = time.monotonic()
    report = on_progress or (lambda progress: None)
    cache = TensorCache(Path(cache_dir))
    catalogue = build_catalogue(
        manifest,
        decoding or DecodingConfig(),
        cache,
        lambda done, total: report(Progress("files", done, total)),
    )
    quarantine_path = Path(cache_dir) / QUARANTINE_NAME
    quarantine_path.unlink(missing_ok=True)  # a new preparation tries every pair again
    quarantine = Quarantine(quarantine_path, catalogue.fingerprint)
    for rejection in catalogue.rejections:
        quarantine.add(rejection)
    ready = _fill_cache(catalogue, Features(encoders, cache), quarantine, report)
    if not ready:
        raise DataError(f"no usable pair is left of {manifest.path}:{quarantine.summary()}")
    counts = cache.counts
    return PreparedDataset(
        num_pairs=ready,
        num_set_aside=len(quarantine),
        made=counts.made,
        reused=counts.reused,
        damaged=counts.damaged,
        written_bytes=counts.written_bytes,
        seconds=time.monotonic() - start,
        reasons=quarantine.summary(),
    )


def _fill_cache(
    catalogue: Catalogue, features: Features, quarantine: Quarantine, report: Callable[[Progress], None]
) -> int:
    """Run the stages one after another; the number of pairs that passed all of them."""

    def make_media(item: CatalogueItem) -> None:
        features.load_latents(item)
        features.load_reference(item)

    def finish_captions() -> None:
        for text in ("", REFERENCE_PROMPT):
            features.load_text(text)
        features.encoders.text.release()

    def finish_latents() -> None:
        features.load_nulls()
        features.encoders.video.release()

    stages: list[tuple[str, Callable[[CatalogueItem], object], Callable[[], None]]] = [
        ("faces", features.load_embedding, lambda: None),
        ("captions", lambda item: features.load_text(item.pair.caption), finish_captions),
        ("latents", make_media, finish_latents),
    ]
    items = list(catalogue.items)
    for stage, make, finish in stages:
        passed = []
        for number, item in enumerate(items, start=1):
            try:
                make(item)
                passed.append(item)
            except MediaError as error:
                quarantine.add(reject(item.pair, error))
            report(Progress(stage, number, len(items)))
        items = passed
        finish()
    return len(items)
