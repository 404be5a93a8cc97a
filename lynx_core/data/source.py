"""The samples of a run by number, with what a plan of packs and an exact resume need of them.

A sample that fails when it is loaded is set aside, and its place is taken by another one. Which one
follows from the data alone: the next in the list of its kind from the longest to the shortest, so one
of about its length and never longer; when that list is used up, the next of all kinds; else the place
stays empty. The plan itself never changes, so a run that is resumed meets the same samples and the
same replacements.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .cache import TensorCache
from .catalogue import OnCount, build_catalogue, reject
from .decoding import DecodingConfig
from .encoders import Encoders
from .errors import DataError, MediaError
from .features import Features
from .manifest import Manifest, Rejection
from .quarantine import Quarantine
from .sample import Nulls, Sample
from .tokens import LatentShape, count_latent_tokens, tokens_per_frame


class SampleSource:
    """Samples of a manifest.

    Args:
        manifest: of `read_manifest`.
        encoders: of the backbone and the faces.
        decoding: what becomes of the files.
        cache_dir: folder of the cache; None makes every tensor each time.
        quarantine_path: file for the samples that are set aside; None keeps them in memory.
        on_count: called while the files are hashed and probed.

    Raises:
        DataError: when no usable sample is left, with the counts by reason and an example of each.
    """

    def __init__(
        self,
        manifest: Manifest,
        encoders: Encoders,
        decoding: DecodingConfig,
        *,
        cache_dir: Path | None = None,
        quarantine_path: Path | None = None,
        on_count: OnCount | None = None,
    ) -> None:
        cache = TensorCache(cache_dir)
        catalogue = build_catalogue(manifest, decoding, cache, on_count)
        self.items = catalogue.items
        self.features = Features(encoders, cache)
        self._parts = {
            "dataset": catalogue.fingerprint,
            "decoding": decoding.fingerprint(),
            "encoders": encoders.fingerprint(),
        }
        self.quarantine = Quarantine(quarantine_path, catalogue.fingerprint)
        for rejection in catalogue.rejections:
            self.quarantine.add(rejection)
        self._lengths = np.array([count_latent_tokens(shape) for shape in self.shapes()], dtype=np.int64)
        self._kept_frames: dict[int, int] = {}
        self._orders: dict[str | None, np.ndarray] = {}
        if not self.items:
            raise self._nothing_left(manifest.path)

    def __len__(self) -> int:
        return len(self.items)

    @property
    def fingerprint(self) -> str:
        """Changes with the rows, the contents of the files, the decoding and the encoders."""
        return "-".join(part[:16] for part in self._parts.values())

    @property
    def ids(self) -> list[str]:
        """Of each sample."""
        return [item.pair.id for item in self.items]

    @property
    def kinds(self) -> list[str]:
        """Of each sample."""
        return [item.pair.kind for item in self.items]

    def shapes(self) -> list[LatentShape]:
        """Latent frames, height and width of each sample as decoded."""
        return [item.plan.latent_shape for item in self.items]

    def lengths(self) -> np.ndarray:
        """Tokens of each sample as loaded, [samples] int64."""
        return self._lengths.copy()

    def trim(self, kept_frames: Mapping[int, int]) -> None:
        """Give the first latent frames only of some samples: number of the sample -> frames to keep."""
        for index, frames in kept_frames.items():
            shape = self.items[index].plan.latent_shape
            if not 1 <= frames <= shape[0]:
                raise ValueError(f"sample {index} has {shape[0]} latent frames, asked to keep {frames}")
            self._lengths[index] = frames * tokens_per_frame(shape)
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
            raise
        frames = self._kept_frames.get(index)
        return sample if frames is None else sample.keep_frames(frames)

    def load_pack(self, indices: Sequence[int]) -> list[Sample]:
        """The samples of a pack, with replacements for those that are set aside.

        The tokens are at most those of the plan; only a pack that would be empty takes a longer
        sample, the shortest there is.

        Raises:
            DataError: when no sample of the data set can be loaded, with the counts by reason.
        """
        samples = []
        for index in indices:
            sample = self._load_first(self._with_replacements(int(index)))
            if sample is not None:
                samples.append(sample)
        if not samples:
            sample = self._load_first(iter(np.argsort(self._lengths, kind="stable").tolist()))
            if sample is None:
                raise self._nothing_left(None)
            samples.append(sample)
        return samples

    def nulls(self) -> Nulls:
        """What stands in for dropped conditions."""
        return self.features.load_nulls()

    def set_aside(self, index: int, reason: str, detail: str) -> None:
        """Put a sample into the quarantine for what showed later, as a loss that is not finite."""
        pair = self.items[index].pair
        self.quarantine.add(Rejection(pair.id, pair.line, reason, detail))

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps, to notice a change of the data; there is nothing else to keep."""
        return {"num_samples": len(self), **self._parts}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Check that the data are those of the checkpoint.

        Raises:
            DataError: naming what has changed.
        """
        names = {
            "dataset": "rows or files of the data set",
            "decoding": "the decoding settings",
            "encoders": "the VAE, text or face models",
        }
        changed = [text for name, text in names.items() if state.get(name) != self._parts[name]]
        if changed:
            counts = f"{state.get('num_samples')} samples then, {len(self)} now"
            raise DataError(
                f"the data have changed since the checkpoint: {' and '.join(changed)} ({counts}). The run cannot "
                "go on as if it had not been stopped; restore them, or start a new run from the exported adapter"
            )

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
            chosen = np.array([i for i, item in enumerate(self.items) if kind in (None, item.pair.kind)])
            self._orders[kind] = chosen[np.argsort(-self._lengths[chosen], kind="stable")]
        return self._orders[kind]

    def _nothing_left(self, path: Path | None) -> DataError:
        named = f" of {path}" if path else ""
        return DataError(f"no usable sample is left{named}:{self.quarantine.summary()}")
