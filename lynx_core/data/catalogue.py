"""What is in a data set, before anything is decoded: each pair's file hashes, and its plan of frames.

Building it opens every file: samples of the bytes for the hash, and a probe for the plan, which the
cache keeps. The rows and the hashes make the fingerprint by which a resumed run notices that the data
have changed; where the files lie plays no part, so a data set may be moved.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from .cache import TensorCache
from .decoding import ClipPlan, DecodingConfig, ImageInfo, plan_clip, probe_media
from .errors import MediaError, first_line
from .hashing import hash_file, hash_values
from .manifest import Manifest, Pair, Rejection
from .video_file import VideoInfo

PROBE_VERSION = 1
NUM_THREADS = 8

OnCount = Callable[[int, int], None]
"""Called with how many are done, and how many there are."""


@dataclass(frozen=True, eq=False)
class CatalogueItem:
    """A pair whose files are there."""

    pair: Pair
    plan: ClipPlan
    target_hash: str
    reference_hashes: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Catalogue:
    """The usable pairs in the order of the manifest."""

    items: tuple[CatalogueItem, ...]
    rejections: tuple[Rejection, ...]
    """Of the manifest, and of files that a probe refused."""
    fingerprint: str
    """Over the rows and the contents of all their files, not over their places."""


def build_catalogue(
    manifest: Manifest, decoding: DecodingConfig, cache: TensorCache, on_count: OnCount | None = None
) -> Catalogue:
    """Hash and probe every file of a manifest.

    Raises:
        DataError: when the cache cannot be read or written.
    """
    items: list[CatalogueItem] = []
    rejections = list(manifest.rejections)
    with ThreadPoolExecutor(NUM_THREADS) as threads:
        found = threads.map(lambda pair: _catalogue_pair(pair, decoding, cache), manifest.pairs)
        for number, item in enumerate(found, start=1):
            if isinstance(item, CatalogueItem):
                items.append(item)
            else:
                rejections.append(item)
            if on_count is not None:
                on_count(number, len(manifest.pairs))
    fingerprint = hash_values([_describe(item) for item in items])
    return Catalogue(tuple(items), tuple(rejections), fingerprint)


def reject(pair: Pair, error: MediaError) -> Rejection:
    """A pair set aside for one of its files."""
    return Rejection(pair.id, pair.line, error.reason, f"{error.path}: {error.detail}")


def _describe(item: CatalogueItem) -> list[object]:
    pair = item.pair
    row = [pair.id, pair.caption, pair.kind, pair.face_similarity, pair.frame_range, pair.fps]
    return [*row, item.target_hash, list(item.reference_hashes)]


def _catalogue_pair(pair: Pair, decoding: DecodingConfig, cache: TensorCache) -> CatalogueItem | Rejection:
    try:
        target_hash = _hash_media(pair.target)
        reference_hashes = tuple(_hash_media(path) for path in pair.references)
        info = _probe(pair.target, target_hash, cache)
        plan = plan_clip(pair.target, info, decoding, pair.frame_range, pair.fps)
    except MediaError as error:
        return reject(pair, error)
    return CatalogueItem(pair, plan, target_hash, reference_hashes)


def _hash_media(path: Path) -> str:
    try:
        return hash_file(path)
    except OSError as error:
        raise MediaError(path, "cannot be read", first_line(error)) from error


def _probe(path: Path, target_hash: str, cache: TensorCache) -> ImageInfo | VideoInfo:
    tensors = cache.get_or_make("probes", [PROBE_VERSION, target_hash], lambda: _pack_info(probe_media(path)))
    width_px, height_px = tensors["size_px"].tolist()
    if "pts" not in tensors:
        return ImageInfo(width_px, height_px)
    pts, times = tensors["pts"].numpy(), tensors["times"].numpy()
    return VideoInfo(width_px, height_px, pts, times, float(tensors["duration_s"]))


def _pack_info(info: ImageInfo | VideoInfo) -> dict[str, Tensor]:
    tensors = {"size_px": torch.tensor([info.width_px, info.height_px])}
    if isinstance(info, VideoInfo):
        tensors["pts"] = torch.from_numpy(np.ascontiguousarray(info.pts))
        tensors["times"] = torch.from_numpy(np.ascontiguousarray(info.times))
        tensors["duration_s"] = torch.tensor(info.duration_s, dtype=torch.float64)
    return tensors
