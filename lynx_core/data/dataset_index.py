"""What is in a dataset, before anything is decoded: each pair's file hashes and frame plan.

Building it opens every file: samples of the bytes for the hash, and a probe for the plan, which is cached.
The rows and the hashes make the fingerprint by which a resumed run notices that the data have changed;
where the files lie plays no part, so a dataset may be moved.

Cache entries are named by content, so what was made of a file can only be found again with its hash.
`files.jsonl` in the cache keeps which content lay at each path. A file that is there is always hashed; the
index answers for one that is gone. It is asked by the file's full path first, then by the whole row, which
finds it when manifest and cache were moved to another machine. A line is one row; later lines win, and a
line cut short by a kill is skipped.
"""

from __future__ import annotations

import errno
import json
import logging
import stat
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..buckets import fetched
from ..foreign_text import parse_json
from ..hashing import hash_file, hash_values
from .cache.tensor_cache import TensorCache
from .errors import DataError, MediaError, first_line
from .manifest import Manifest, Pair
from .media.decoding import (
    DecodingConfig,
    ImageInfo,
    opened_media,
    photo_decoder_versions,
    plan_clip,
    probe_media,
    video_decoder_versions,
)
from .media.video_file import VideoInfo
from .pair_table import IndexEntry, PairTable, make_table
from .quarantine import Rejection
from .text_files import find_file

_PROBE_VERSION = 2
_NUM_THREADS = 8

OnCount = Callable[[int, int], None]
"""Called with how many are done, and how many there are."""


@dataclass(frozen=True, eq=False)
class DatasetIndex:
    """The usable pairs in the order of the manifest."""

    items: PairTable
    rejections: tuple[Rejection, ...]
    """Of the manifest, and of files that a probe refused."""
    warnings: tuple[Rejection, ...]
    """What to know about pairs that are used, as a reference that cannot be read."""
    fingerprint: str
    """Over the rows and the contents of all their files, not over their places."""
    manifest_path: Path
    num_rows: int
    """Of the manifest, those that cannot be used with them."""
    ignored_columns: str
    """A line that names the manifest's columns that nothing reads, or nothing."""


@dataclass(frozen=True)
class _Looked:
    """What looking at the files of one pair gave."""

    found: IndexEntry | Rejection
    warnings: tuple[Rejection, ...] = ()
    files: _PairFiles | None = None


def build_index(
    manifest: Manifest, decoding: DecodingConfig, cache: TensorCache, on_count: OnCount | None = None
) -> DatasetIndex:
    """Hash and probe every file of a manifest.

    Raises:
        DataError: when the cache cannot be read or written.
    """
    items: list[IndexEntry] = []
    rejections = list(manifest.rejections)
    warnings = list(manifest.warnings)
    files: list[_PairFiles] = []
    index = _FileIndex(cache.root)
    decoders = [video_decoder_versions(), photo_decoder_versions()]
    if on_count is not None:
        on_count(0, len(manifest.pairs))
    with ThreadPoolExecutor(_NUM_THREADS) as threads:
        try:
            looked = threads.map(
                lambda pair: _look_at_pair(pair, decoding, cache, index, decoders), manifest.pairs
            )
            for number, seen in enumerate(looked, start=1):
                if isinstance(seen.found, IndexEntry):
                    items.append(seen.found)
                else:
                    rejections.append(seen.found)
                warnings += seen.warnings
                files += [seen.files] if seen.files else []
                if on_count is not None:
                    on_count(number, len(manifest.pairs))
        except BaseException:  # Ctrl-C above all: do not probe the rest first
            threads.shutdown(wait=False, cancel_futures=True)
            raise
    index.keep(files)
    fingerprint = hash_values([_describe(item) for item in items])
    return DatasetIndex(
        make_table(items, manifest.path.parent),
        tuple(rejections),
        tuple(warnings),
        fingerprint,
        manifest.path,
        manifest.num_rows,
        manifest.describe_ignored(),
    )


def reject(pair: Pair, error: MediaError) -> Rejection:
    """A pair that is skipped for one of its files, or a warning about a file that it does without."""
    detail = error.detail.removeprefix(str(error.path)).lstrip(": ")
    return Rejection(pair.id, pair.line, error.reason, f"{error.path}: {detail}")


def _describe(item: IndexEntry) -> list[object]:
    pair = item.pair
    row = [pair.id, pair.caption, pair.kind, pair.face_similarity, pair.frame_range, pair.fps]
    weight = [] if pair.weight is None else [pair.weight]
    return [*row, item.target_hash, list(item.reference_hashes), *weight]


def _look_at_pair(
    pair: Pair,
    decoding: DecodingConfig,
    cache: TensorCache,
    index: _FileIndex,
    decoders: list[dict[str, str]],
) -> _Looked:
    known_target, *known_references = index.recall(pair)
    references: list[_HashedFile] = []
    warnings = []
    try:
        target = _hash_media("target", pair.target, known_target)
        for path, known in zip(pair.references, known_references, strict=True):
            try:
                references.append(_hash_media("reference", path, known))
            except MediaError as error:
                warnings.append(reject(pair, error))
        if not references:
            lost = warnings[0]
            return _Looked(Rejection(lost.id, lost.line, lost.reason, lost.detail))
        info = _probe(target.path, target.digest, cache, decoders)
        plan = plan_clip(target.path, info, decoding, pair.frame_range, pair.fps)
    except MediaError as error:
        return _Looked(reject(pair, error))
    files = [target, *references]
    found = replace(pair, target=target.path, references=tuple(file.path for file in references))
    item = IndexEntry(
        found,
        plan,
        target.digest,
        tuple(file.digest for file in references),
        tuple(file.state for file in files),
    )
    digests = {file.named: file.digest for file in files}
    named = tuple((str(path.absolute()), digests.get(path)) for path in (pair.target, *pair.references))
    return _Looked(item, tuple(warnings), _PairFiles(pair.row_hash, named))


@dataclass(frozen=True)
class _HashedFile:
    named: Path
    """As the row has it."""
    path: Path
    """As the disk has it."""
    digest: str
    state: tuple[int, int] | None
    """Bytes and time of change, None when it is gone."""


def _hash_media(role: str, named: Path, known: str | None) -> _HashedFile:
    """Hash a file; one that cannot be read goes by its `known` hash."""
    path = find_file(named)
    try:
        with fetched(path) as file:
            status = file.stat()
            if not stat.S_ISREG(status.st_mode):
                raise MediaError(path, f"{role} not found", "it is a folder or a device, not a file")
            if not status.st_size:
                raise MediaError(path, f"{role} is empty", "it has 0 bytes")
            return _HashedFile(named, path, hash_file(file), (status.st_size, status.st_mtime_ns))
    except (FileNotFoundError, NotADirectoryError) as error:
        if known is None:
            raise MediaError(path, f"{role} not found", "paths are relative to the manifest") from error
    except ValueError as error:
        if isinstance(error, MediaError):
            raise
        raise MediaError(path, f"bad {role}", first_line(error)) from error
    except OSError as error:
        if known is None:
            raise MediaError(path, f"{role} cannot be read", first_line(error)) from error
    return _HashedFile(named, path, known, None)


def _probe(
    path: Path, target_hash: str, cache: TensorCache, decoders: list[dict[str, str]]
) -> ImageInfo | VideoInfo:
    depends_on = [_PROBE_VERSION, target_hash, decoders]
    tensors = cache.get_or_make("probes", depends_on, lambda: _probe_file(path), target_hash)
    width_px, height_px = tensors["size_px"].tolist()
    if "pts" not in tensors:
        return ImageInfo(width_px, height_px)
    pts, times = tensors["pts"].numpy(), tensors["times"].numpy()
    return VideoInfo(width_px, height_px, pts, times, float(tensors["duration_s"]))


def _probe_file(path: Path) -> dict[str, Tensor]:
    with opened_media(path) as file:
        return _pack_info(probe_media(file))


def _pack_info(info: ImageInfo | VideoInfo) -> dict[str, Tensor]:
    tensors = {"size_px": torch.tensor([info.width_px, info.height_px])}
    if isinstance(info, VideoInfo):
        tensors["pts"] = torch.from_numpy(np.ascontiguousarray(info.pts))
        tensors["times"] = torch.from_numpy(np.ascontiguousarray(info.times))
        tensors["duration_s"] = torch.tensor(info.duration_s, dtype=torch.float64)
    return tensors


INDEX_NAME = "files.jsonl"
READ_ONLY = (errno.EROFS, errno.EACCES, errno.EPERM)

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class _PairFiles:
    """Hashes of the files of a pair, target first; None for one that cannot be read."""

    row_hash: str
    files: tuple[tuple[str, str | None], ...]
    """Full path and hash."""


class _FileIndex:
    """The index of one cache.

    Args:
        root: folder of the cache; None keeps nothing.
    """

    def __init__(self, root: Path | None) -> None:
        self.path = None if root is None else root / INDEX_NAME
        self._by_path: dict[str, str] = {}
        self._by_row: dict[str, tuple[tuple[str, str | None], ...]] = {}
        self._ends_in_mid_line = False
        if self.path is not None and self.path.exists():
            self._read(self.path)

    def recall(self, pair: Pair) -> list[str | None]:
        """Hashes of the target and of each reference as last seen; None for a file never seen."""
        paths = [pair.target, *pair.references]
        by_row = self._by_row.get(pair.row_hash, ())
        if len(by_row) != len(paths):
            by_row = tuple(("", None) for _ in paths)
        return [
            self._by_path.get(str(path.absolute())) or digest
            for path, (_, digest) in zip(paths, by_row, strict=True)
        ]

    def keep(self, found: Iterable[_PairFiles]) -> None:
        """Note the files of rows that are new or have changed.

        Raises:
            DataError: when the disk is full. A cache that may only be read is left as it is.
        """
        if self.path is None:
            return
        lines = []
        for pair in found:
            if self._by_row.get(pair.row_hash) == pair.files:
                continue
            self._remember(pair)
            lines.append(json.dumps({"row": pair.row_hash, "files": pair.files}) + "\n")
        if not lines:
            return
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("ab") as file:
                file.write((b"\n" if self._ends_in_mid_line else b"") + "".join(lines).encode())
        except OSError as error:
            if error.errno not in READ_ONLY:
                raise DataError(
                    f"{self.path} cannot be written ({first_line(error)}); free some space"
                ) from error
            _logger.info(
                "the cache is read-only, so %s does not take in %d rows; their media must stay where they are",
                self.path,
                len(lines),
            )

    def _remember(self, pair: _PairFiles) -> None:
        self._by_row[pair.row_hash] = pair.files
        self._by_path.update({path: digest for path, digest in pair.files if digest is not None})

    def _read(self, path: Path) -> None:
        try:
            raw = path.read_bytes()
        except OSError as error:
            raise DataError(
                f"{path} cannot be read ({first_line(error)}); repair the cache folder"
            ) from error
        self._ends_in_mid_line = bool(raw) and not raw.endswith(b"\n")
        for line in raw.splitlines():
            try:
                entry = parse_json(line)
                files = tuple((str(name), digest) for name, digest in entry["files"])
                self._remember(_PairFiles(str(entry["row"]), files))
            except (ValueError, TypeError, KeyError):
                continue
