"""One training sample: what it holds, and how its tensors are made or read from the cache, to the same bits.

| entry | depends on |
|---|---|
| `latents` | target's bytes, frames and size, VAE, decoders of photos and videos |
| `texts` | cleaned caption, text encoder |
| `crops` | photo's bytes, decoder of photos, detector and choice of the face; also keeps that there is no face |
| `embeddings` | the same, and the recogniser |
| `references` | the same as `crops`, and the VAE |

A photo that cannot be used costs that photo and a warning; the pair is quarantined when none is left.

Shape letters: C latent channels, T latent frames, H and W latent height and width, L text tokens,
D width of the text.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..faces.analyzer import average_embeddings
from ..faces.errors import FaceError
from ..foreign_text import parse_json
from ..hashing import hash_values
from ..spec import REFERENCE_CROP_PX, REFERENCE_PROMPT, null_image
from ..tokens import LatentShape, count_tokens
from .cache.tensor_cache import TensorCache, name_entry
from .dataset_index import reject
from .encoders import Encoders, clean_caption
from .errors import MediaError, first_line
from .media.decoding import (
    DECODING_VERSION,
    ClipPlan,
    check_unchanged,
    convert_pixels,
    decode_clip,
    decode_photo,
    opened_media,
    photo_decoder_versions,
    video_decoder_versions,
)
from .pair_table import IndexEntry
from .quarantine import Rejection


@dataclass(frozen=True, eq=False)
class Sample:
    """A target with all that conditions it."""

    id: str
    kind: str
    caption: str
    latents: Tensor
    """x0 in model space, [C, T, H, W] float32."""
    text: Tensor
    """Tokens of the caption without padding, [L, D]."""
    embedding: Tensor
    """Unit identity embedding, [512] float32; the mean over the references."""
    reference_latents: Tensor
    """Of the first reference's 256 px crop, [C, 1, 32, 32] float32."""

    @property
    def shape(self) -> LatentShape:
        """Latent frames, height and width."""
        return (self.latents.shape[1], self.latents.shape[2], self.latents.shape[3])

    @property
    def num_tokens(self) -> int:
        """Of the target alone, without text, identity and reference."""
        return count_tokens(self.shape)

    def keep_frames(self, num_latent_frames: int) -> Sample:
        """The first latent frames only: what the VAE, being causal, gives for the shorter clip."""
        if not 1 <= num_latent_frames <= self.shape[0]:
            raise ValueError(
                f"{self.id} has {self.shape[0]} latent frames, asked to keep {num_latent_frames}"
            )
        return replace(self, latents=self.latents[:, :num_latent_frames].contiguous())


@dataclass(frozen=True, eq=False)
class Nulls:
    """What takes the place of a dropped condition, the same as in inference.

    The null identity is not here: it is the resampler's answer to an embedding of zeros.
    """

    empty_text: Tensor
    """Tokens of the empty prompt, [L, D]."""
    reference_text: Tensor
    """Tokens of `REFERENCE_PROMPT`, [L, D]: no null, but the text of every reference pass."""
    grey_reference: Tensor
    """Latents of a mid-grey 256 px image, [C, 1, 32, 32] float32."""


_CROPS_VERSION = 2
"""Of what a `crops` entry holds."""

_NO_FACE = "no face"


@dataclass(frozen=True)
class Features:
    """Makes and keeps the tensors of samples."""

    encoders: Encoders
    cache: TensorCache
    on_warning: Callable[[Rejection], None] = lambda warning: None
    """Called with what to know about a pair that is used, each time that it shows."""
    photo_decoders: Mapping[str, str] = field(default_factory=photo_decoder_versions)
    video_decoders: Mapping[str, str] = field(default_factory=video_decoder_versions)
    """Name -> version, parts of the keys."""
    _unusable: dict[str, MediaError] = field(default_factory=dict)
    """Photos that did not decode, by their hash: not tried again in this process."""
    _ready: dict[str, Tensor] = field(default_factory=dict)
    """Latents that `encode_together` has made, by the hash of what they depend on."""

    def load_sample(self, item: IndexEntry) -> Sample:
        """All tensors of a pair.

        Raises:
            MediaError: when one of its files cannot be used.
            DataError: when an encoder or the cache fails, which is not the sample's fault.
        """
        pair = item.pair
        item.check_files()
        return Sample(
            id=pair.id,
            kind=pair.kind,
            caption=pair.caption,
            latents=self.load_latents(item),
            text=self.load_text(pair.caption),
            embedding=self.load_embedding(item),
            reference_latents=self.load_reference(item),
        )

    def load_latents(self, item: IndexEntry) -> Tensor:
        """The target in model space, [16, T, H, W] float32."""
        path = item.pair.target

        def make() -> dict[str, Tensor]:
            return {"latents": _check_finite(self._encode(lambda: _decode_target(item), depends_on), path)}

        depends_on = self._describe_target(item)
        return self._load("latents", depends_on, make, item.target_hash)["latents"].float()

    def _describe_target(self, item: IndexEntry) -> list[object]:
        # Both: an animation is a clip that the decoder of photos reads.
        decoders = [self.video_decoders, self.photo_decoders]
        return [item.target_hash, _describe_plan(item.plan), self.encoders.video.fingerprint, decoders]

    def _encode(self, decode: Callable[[], Tensor], depends_on: list[object]) -> Tensor:
        """Latents of what is decoded, or those that `encode_together` has made."""
        ready = self._ready.pop(hash_values(depends_on), None)
        return self.encoders.video.encode(decode()) if ready is None else ready

    def encode_together(self, items: Iterable[IndexEntry]) -> None:
        """Encode what the cache lacks of pairs, pictures and clips of one shape in a batch, for `load_*` to take.

        What cannot be used, or is too large to share a batch, is left to them.
        """
        limit = self.encoders.video.batch_pixels
        self._ready.clear()
        waiting: dict[torch.Size, dict[str, Tensor]] = {}
        for item in items if limit else ():
            for kind, depends_on, decode in self._list_encodings(item):
                key = hash_values(depends_on)
                if key in self._ready or any(key in some for some in waiting.values()):
                    continue
                if self.cache.read(name_entry(kind, [DECODING_VERSION, depends_on])) is not None:
                    continue
                try:
                    pixels_CTHW = decode()
                except MediaError:
                    continue
                if pixels_CTHW[0].numel() * 2 > limit:
                    continue
                batch = waiting.setdefault(pixels_CTHW.shape, {})
                batch[key] = pixels_CTHW
                if (len(batch) + 1) * pixels_CTHW[0].numel() > limit:
                    self._encode_batch(waiting.pop(pixels_CTHW.shape))
        for batch in waiting.values():
            self._encode_batch(batch)

    def _encode_batch(self, batch: dict[str, Tensor]) -> None:
        latents = self.encoders.video.encode_batch(list(batch.values()))
        self._ready.update(zip(batch, latents, strict=True))

    def _list_encodings(self, item: IndexEntry) -> Iterator[tuple[str, list[object], Callable[[], Tensor]]]:
        """Kind, key and pixels of the target, and of the first reference that has a face."""
        yield "latents", self._describe_target(item), lambda: _decode_target(item)
        for path, digest in zip(item.pair.references, item.reference_hashes, strict=True):
            try:
                self._load_crops(path, digest)
            except MediaError:
                continue
            yield "references", self._describe_photo(digest), lambda: self._crop_pixels(path, digest)  # noqa: B023
            return

    def load_text(self, caption: str) -> Tensor:
        """The tokens of a caption, [L, D]."""
        depends_on = [clean_caption(caption), self.encoders.text.fingerprint]
        source = hash_caption(caption)
        made = self._load("texts", depends_on, lambda: {"tokens": self.encoders.text.encode(caption)}, source)
        return made["tokens"]

    def load_embedding(self, item: IndexEntry) -> Tensor:
        """The mean unit embedding of a pair's references, [512] float32.

        Raises:
            MediaError: when none of the references can be used, or they show different people.
        """
        embeddings, lost = [], []
        for path, digest in zip(item.pair.references, item.reference_hashes, strict=True):
            try:
                embeddings.append(self._load_photo_embedding(path, digest, item))
            except MediaError as error:
                lost.append(error)
        _check_any_left(embeddings, lost)
        for loss in lost:
            self.on_warning(reject(item.pair, loss))
        try:
            return average_embeddings(torch.stack(embeddings))
        except FaceError as error:
            raise MediaError(item.pair.references[0], "references disagree", first_line(error)) from error

    def load_reference(self, item: IndexEntry) -> Tensor:
        """Latents of the crop of the first reference that has one, [16, 1, 32, 32] float32.

        Raises:
            MediaError: when none of the references can be used.
        """
        lost: list[MediaError] = []
        for path, digest in zip(item.pair.references, item.reference_hashes, strict=True):
            try:
                return self._load_photo_latents(path, digest)
            except MediaError as error:
                lost.append(error)
        _check_any_left([], lost)
        raise AssertionError("a pair has a reference")

    def load_nulls(self) -> Nulls:
        """What stands in for dropped conditions.

        Raises:
            DataError: when an encoder or the cache fails.
        """
        grey = 2 * null_image().permute(2, 0, 1)[:, None].contiguous() - 1
        made = self._load(
            "references",
            ["mid-grey", REFERENCE_CROP_PX, self.encoders.video.fingerprint],
            lambda: {"latents": self.encoders.video.encode(grey)},
        )
        return Nulls(
            empty_text=self.load_text(""),
            reference_text=self.load_text(REFERENCE_PROMPT),
            grey_reference=made["latents"].float(),
        )

    def _load_photo_latents(self, path: Path, digest: str) -> Tensor:
        def make() -> dict[str, Tensor]:
            latents = self._encode(lambda: self._crop_pixels(path, digest), depends_on)
            return {"latents": _check_finite(latents, path)}

        depends_on = self._describe_photo(digest)
        return self._load("references", depends_on, make, digest)["latents"].float()

    def _describe_photo(self, digest: str) -> list[object]:
        return [*self._describe_crop(digest), self.encoders.video.fingerprint]

    def _crop_pixels(self, path: Path, digest: str) -> Tensor:
        return convert_pixels(self._load_crops(path, digest)["reference_crop"].numpy()[None])

    def _load_photo_embedding(self, path: Path, digest: str, item: IndexEntry) -> Tensor:
        def make() -> dict[str, Tensor]:
            crops = self._load_crops(path, digest)
            embedding = _check_finite(self.encoders.faces.embed(crops["id_crop"].numpy()), path)
            return {"embedding": embedding, "warnings": crops["warnings"]}

        depends_on = [*self._describe_crop(digest), self.encoders.faces.embed_fingerprint]
        made = self._load("embeddings", depends_on, make, digest)
        for reason, detail in _unpack_json(made["warnings"]):
            self.on_warning(reject(item.pair, MediaError(path, reason, detail)))
        return made["embedding"]

    def _load_crops(self, path: Path, digest: str) -> dict[str, Tensor]:
        def make() -> dict[str, Tensor]:
            with opened_media(path) as file:
                photo = decode_photo(file)
                check_unchanged(file, path, digest)
            try:
                crop = self.encoders.faces.crop(photo, path)
            except MediaError as error:
                if error.reason != _NO_FACE:
                    raise
                # Cached as well: else the detector would run on the photo again in every epoch.
                return {_NO_FACE: _pack_json(error.detail)}
            return {
                "id_crop": torch.from_numpy(crop.id_crop.copy()),
                "reference_crop": torch.from_numpy(crop.reference_crop.copy()),
                "warnings": _pack_json([(warning.reason, str(warning)) for warning in crop.warnings]),
            }

        if digest in self._unusable:
            raise self._unusable[digest].at(path)
        try:
            crops = self._load("crops", self._describe_crop(digest), make, digest)
        except MediaError as error:
            self._unusable[digest] = error
            raise
        if _NO_FACE in crops:
            raise MediaError(path, _NO_FACE, _unpack_json(crops[_NO_FACE]))
        return crops

    def _describe_crop(self, digest: str) -> list[object]:
        return [digest, self.encoders.faces.crop_fingerprint, self.photo_decoders, _CROPS_VERSION]

    def _load(
        self, kind: str, depends_on: Any, make: Callable[[], dict[str, Tensor]], source: str = ""
    ) -> dict[str, Tensor]:
        return self.cache.get_or_make(kind, [DECODING_VERSION, depends_on], make, source)


def hash_caption(caption: str) -> str:
    """Source of the entry of a caption."""
    return hash_values(clean_caption(caption))


def _decode_target(item: IndexEntry) -> Tensor:
    path = item.pair.target
    with opened_media(path) as file:
        pixels_CTHW = convert_pixels(decode_clip(file, item.plan))
        check_unchanged(file, path, item.target_hash)
    return pixels_CTHW


def _describe_plan(plan: ClipPlan) -> list[object]:
    return [plan.height_px, plan.width_px, None if plan.pts is None else plan.pts.tolist()]


def _check_any_left(usable: list[Tensor], lost: list[MediaError]) -> None:
    if usable or not lost:
        return
    first = lost[0]
    more = f" (and none of the other {len(lost) - 1} references can be used)" if len(lost) > 1 else ""
    raise MediaError(first.path, first.reason, first.detail + more) from first


def _pack_json(values: Any) -> Tensor:
    return torch.frombuffer(bytearray(json.dumps(values).encode()), dtype=torch.uint8)


def _unpack_json(packed: Tensor) -> Any:
    return parse_json(packed.numpy().tobytes())


def _check_finite(values: Tensor, path: Path) -> Tensor:
    if not torch.isfinite(values).all():
        bad = int((~torch.isfinite(values)).sum())
        raise MediaError(
            path, "not finite when encoded", f"{bad} NaN or infinite values; run the VAE in float32"
        )
    return values
