"""The samples of a run by number, with what a plan of packs and an exact resume need of them.

A sample that fails to load is quarantined, and its place in the pack goes to another one. Which one
follows from the data alone: the next in the list of its kind from the longest to the shortest, so one
of about its length and never longer; when that list is used up, the next of all kinds; else the place
stays empty. The plan itself never changes, so a run that is resumed meets the same samples and the
same replacements.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..tokens import count_tokens
from .cache.tensor_cache import TensorCache
from .dataset_index import DatasetIndex, OnCount, build_index, reject
from .encoders import Encoders
from .errors import DataError, MediaError
from .manifest import KINDS, Manifest
from .media.decoding import DecodingConfig
from .quarantine import RejectionFile, SkippedRows
from .sample import Features, Nulls, Sample


@dataclass
class DrawCounts:
    """What became of the places of packs, in this process."""

    replaced: int = 0
    """Given to another sample, as theirs is quarantined."""
    empty: int = 0
    """Left empty, as no other sample fits."""

    def count(self, planned_id: str, sample: Sample | None) -> None:
        if sample is None:
            self.empty += 1
        elif sample.id != planned_id:
            self.replaced += 1


class PairDataset:
    """Samples of a manifest, by number.

    `fingerprints` are what a checkpoint keeps, to notice when the data have changed.

    Args:
        manifest: of `read_manifest`, whose files are then hashed and probed; or an index that was prepared.
        encoders: of the backbone and the faces.
        decoding: what becomes of the files.
        cache_dir: folder of the cache; None makes every tensor each time.
        quarantine_path: file for the rows and samples that are skipped; None keeps them in memory.
        warnings_path: file for what to know about samples that are used; None keeps it in memory.
        max_quarantined: share of the rows, 0 to 1, that may be skipped for a fault.
        retry: try again what an earlier run or preparation has quarantined.
        on_count: called while the files are hashed and probed.

    Raises:
        DataError: when no usable sample is left, or more than `max_quarantined` of the rows are skipped, with
            the counts by reason and an example of each.
    """

    def __init__(
        self,
        manifest: Manifest | DatasetIndex,
        encoders: Encoders,
        decoding: DecodingConfig,
        *,
        cache_dir: Path | None = None,
        quarantine_path: Path | None = None,
        warnings_path: Path | None = None,
        max_quarantined: float = 1.0,
        retry: bool = False,
        on_count: OnCount | None = None,
    ) -> None:
        cache = TensorCache(cache_dir)
        dataset_index = (
            manifest
            if isinstance(manifest, DatasetIndex)
            else build_index(manifest, decoding, cache, on_count)
        )
        self.index = dataset_index
        self.max_quarantined = max_quarantined
        self.items = dataset_index.items
        self.draws = DrawCounts()
        self.fingerprints: dict[str, int | str] = {
            "num_samples": len(self.items),
            "dataset": dataset_index.fingerprint,
            "decoding": decoding.fingerprint(),
            "encoders": encoders.fingerprint(),
        }
        key = "-".join(str(self.fingerprints[name])[:16] for name in ("dataset", "decoding", "encoders"))
        self.quarantine = RejectionFile(quarantine_path, key)
        self.warnings = RejectionFile(warnings_path, key, once_per_row=False)
        self.features = Features(encoders, cache, on_warning=self.warnings.add)
        self.quarantine.begin(dataset_index.rejections, anew=retry)
        self.warnings.begin(dataset_index.warnings, anew=retry)
        self._lengths = self.items.tokens
        self._kept_frames: dict[int, int] = {}
        self._orders: dict[str | None, np.ndarray] = {}
        if not self.items:
            raise self._nothing_left(self.index.manifest_path)
        self._check_limit()

    def __len__(self) -> int:
        return len(self.items)

    def trim(self, kept_frames: Mapping[int, int]) -> None:
        """Give the first latent frames only of some samples: number of the sample -> frames to keep."""
        if kept_frames:
            self._lengths = self._lengths.copy()
        for index, frames in kept_frames.items():
            shape = self.items[index].plan.latent_shape
            if not 1 <= frames <= shape[0]:
                raise ValueError(f"sample {index} has {shape[0]} latent frames, asked to keep {frames}")
            self._lengths[index] = count_tokens((frames, *shape[1:]))
        self._kept_frames.update(kept_frames)
        self._orders.clear()

    def load(self, index: int) -> Sample:
        """One sample.

        Raises:
            MediaError: when a file of it cannot be used; the sample is in the quarantine then.
            DataError: for what is no fault of the sample, as a full disk.
        """
        item = self.items[index]
        try:
            sample = self.features.load_sample(item)
        except MediaError as error:
            self.quarantine.add(reject(item.pair, error))
            self._check_limit()
            raise
        frames = self._kept_frames.get(index)
        return sample if frames is None else sample.keep_frames(frames)

    def load_pack(self, indices: Sequence[int], *, counts: bool = True) -> list[Sample]:
        """The samples of a pack, with replacements for those that are quarantined.

        The tokens are at most those of the plan; only a pack that would be empty takes a longer
        sample, the shortest there is.

        Args:
            counts: whether `draws` takes note; not for a pack that another process loads as well.

        Raises:
            DataError: when no sample of the dataset can be loaded, with the counts by reason.
        """
        samples = []
        for index in indices:
            sample = self._load_first(self._with_replacements(int(index)))
            if sample is not None:
                samples.append(sample)
            if counts:
                self.draws.count(self.items[int(index)].pair.id, sample)
        if not samples:
            sample = self._load_first(iter(np.argsort(self._lengths, kind="stable").tolist()))
            if sample is None:
                raise self._nothing_left(None)
            samples.append(sample)
        return samples

    def nulls(self) -> Nulls:
        """What stands in for dropped conditions."""
        return self.features.load_nulls()

    def skipped_rows(self) -> SkippedRows:
        """What has been skipped so far, by this and the other processes of the run.

        Raises:
            DataError: when the quarantine cannot be read.
        """
        self.quarantine.refresh()
        self.warnings.refresh()
        return SkippedRows(
            path=self.index.manifest_path,
            num_rows=self.index.num_rows,
            rejections=tuple(self.quarantine.rejections),
            warnings=tuple(self.warnings.rejections),
            quarantine_path=self.quarantine.path,
            warnings_path=self.warnings.path,
            absent_files=self.items.num_absent,
        )

    def _check_limit(self) -> None:
        """Stop when more of the rows are quarantined than `max_quarantined` allows.

        Raises:
            DataError: with the counts by reason, and the way out.
        """
        skipped = self.skipped_rows()
        if skipped.share > self.max_quarantined:
            raise DataError(skipped.describe_excess(self.max_quarantined) + skipped.describe_reasons())

    def describe(self) -> str:
        """What there is to train on and what is skipped, as a run says it at its start."""
        skipped = self.skipped_rows()
        counts = np.bincount(self.items.kinds, minlength=len(KINDS))
        lost = self._find_lines(rejection.line for rejection in skipped.rejections)
        counts -= np.bincount(self.items.kinds[lost], minlength=len(KINDS))
        by_kind = sorted(zip(counts.tolist(), KINDS, strict=True), key=lambda entry: -entry[0])
        kinds = ", ".join(f"{count} {kind}" for count, kind in by_kind if count)
        text = f"{skipped.path}: {skipped.num_rows} rows, {counts.sum()} to train on"
        text += f" ({kinds}), " if kinds else ", "
        text += f"{len(skipped.rejections)} skipped{skipped.describe_reasons()}{skipped.describe_warnings()}"
        if skipped.absent_files:
            text += f"\n  {skipped.absent_files} files are gone; what the cache has made of them is used"
        return text + self.index.ignored_columns

    def _find_lines(self, lines: Iterable[int]) -> np.ndarray:
        """The samples of some lines of the manifest."""
        wanted = np.fromiter(lines, dtype=np.int64)
        places = np.searchsorted(self.items.lines, wanted)
        places = places[places < len(self.items)]
        return np.unique(places[np.isin(self.items.lines[places], wanted)])

    def _load_first(self, candidates: Iterator[int]) -> Sample | None:
        for index in candidates:
            pair = self.items[index].pair
            if self.quarantine.holds(pair.id, pair.line):
                continue
            try:
                return self.load(index)
            except MediaError:
                continue
        return None

    def _with_replacements(self, index: int) -> Iterator[int]:
        yield index
        for kind in (self.items[index].pair.kind, None):
            order = self._longest_first(kind)
            place = int(np.flatnonzero(order == index)[0])
            # Equals that stand before it come after those that follow, so that it is not always the first.
            first_equal = int(np.argmax(self._lengths[order] == self._lengths[index]))
            for places in (range(place + 1, len(order)), range(first_equal, place)):
                yield from (int(order[i]) for i in places)

    def _longest_first(self, kind: str | None) -> np.ndarray:
        """The samples of a kind, or all, by length and then by number."""
        if kind not in self._orders:
            is_chosen = (
                self.items.kinds == KINDS.index(kind) if kind else np.ones(len(self.items), dtype=bool)
            )
            chosen = np.flatnonzero(is_chosen)
            self._orders[kind] = chosen[np.argsort(-self._lengths[chosen], kind="stable")]
        return self._orders[kind]

    def _nothing_left(self, path: Path | None) -> DataError:
        named = f" of {path}" if path else ""
        return DataError(f"no usable sample is left{named}:{self.quarantine.summary()}")
