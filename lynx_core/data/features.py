"""The tensors of a sample, from the cache or made on the spot; both ways give the same bits.

| entry | depends on |
|---|---|
| `latents` | target's bytes, frames and size, VAE, decoders of photos and videos |
| `texts` | cleaned caption, text encoder |
| `crops` | photo's bytes, decoder of photos, detector and choice of the face; also keeps that there is no face |
| `embeddings` | the same, and the recogniser |
| `references` | the same as `crops`, and the VAE |

A photo that cannot be used costs that photo and a warning; the pair goes when none is left.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..faces.analyzer import average_embeddings
from ..faces.errors import FaceError
from ..hashing import hash_file
from ..spec import REFERENCE_CROP_PX, REFERENCE_PROMPT, null_image
from .cache import TensorCache
from .dataset_index import IndexEntry, reject
from .decoder_versions import photo_decoder_versions, video_decoder_versions
from .decoding import DECODING_VERSION, ClipPlan, convert_pixels, decode_clip, decode_photo
from .encoders import Encoders, FaceRecogniser, clean_caption
from .errors import DataError, MediaError, first_line
from .manifest import Rejection
from .sample import Nulls, Sample

CROPS_VERSION = 2
"""Of what a `crops` entry holds."""

NO_FACE = "no face"


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

    def load_sample(self, item: IndexEntry) -> Sample:
        """All tensors of a pair.

        Raises:
            MediaError: when one of its files cannot be used.
            DataError: when an encoder or the cache fails, which is no fault of the sample.
        """
        pair = item.pair
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
        path, plan = item.pair.target, item.plan

        def make() -> dict[str, Tensor]:
            _check_there(path)
            pixels_CTHW = convert_pixels(decode_clip(path, plan))
            latents = _check_finite(self.encoders.video.encode(pixels_CTHW), path)
            _check_unchanged(path, item.target_hash)
            return {"latents": latents}

        # Both: an animation is a clip that the decoder of photos reads.
        decoders = [self.video_decoders, self.photo_decoders]
        depends_on = [item.target_hash, _describe_plan(plan), self.encoders.video.fingerprint, decoders]
        return self._load("latents", depends_on, make)["latents"].float()

    def load_text(self, caption: str) -> Tensor:
        """The tokens of a caption, [L, D]."""
        depends_on = [clean_caption(caption), self.encoders.text.fingerprint]
        made = self._load("texts", depends_on, lambda: {"tokens": self.encoders.text.encode(caption)})
        return made["tokens"]

    def load_embedding(self, item: IndexEntry) -> Tensor | None:
        """The mean unit embedding of a pair's references, [512] float32; None without face models.

        Raises:
            MediaError: when none of the references can be used, or they show different people.
        """
        faces = self.encoders.faces
        if faces is None:
            return None
        embeddings, lost = [], []
        for path, digest in zip(item.pair.references, item.reference_hashes, strict=True):
            try:
                embeddings.append(self._load_photo_embedding(faces, path, digest, item))
            except MediaError as error:
                lost.append(error)
        _check_any_left(embeddings, lost)
        for loss in lost:
            self.on_warning(reject(item.pair, loss))
        try:
            return average_embeddings(torch.stack(embeddings))
        except FaceError as error:
            raise MediaError(item.pair.references[0], "references disagree", first_line(error)) from error

    def load_reference(self, item: IndexEntry) -> Tensor | None:
        """Latents of the crop of the first reference that has one, [16, 1, 32, 32] float32.

        None without face models.

        Raises:
            MediaError: when none of the references can be used.
        """
        faces = self.encoders.faces
        if faces is None:
            return None
        lost: list[MediaError] = []
        for path, digest in zip(item.pair.references, item.reference_hashes, strict=True):
            try:
                return self._load_photo_latents(faces, path, digest)
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

    def _load_photo_latents(self, faces: FaceRecogniser, path: Path, digest: str) -> Tensor:
        def make() -> dict[str, Tensor]:
            crop = self._load_crops(faces, path, digest)["reference_crop"]
            latents = self.encoders.video.encode(convert_pixels(crop.numpy()[None]))
            return {"latents": _check_finite(latents, path)}

        depends_on = [*self._describe_crop(faces, digest), self.encoders.video.fingerprint]
        return self._load("references", depends_on, make)["latents"].float()

    def _load_photo_embedding(
        self, faces: FaceRecogniser, path: Path, digest: str, item: IndexEntry
    ) -> Tensor:
        def make() -> dict[str, Tensor]:
            crops = self._load_crops(faces, path, digest)
            embedding = _check_finite(faces.embed(crops["id_crop"].numpy()), path)
            return {"embedding": embedding, "warnings": crops["warnings"]}

        depends_on = [*self._describe_crop(faces, digest), faces.embed_fingerprint]
        made = self._load("embeddings", depends_on, make)
        for reason, detail in _unpack_json(made["warnings"]):
            self.on_warning(reject(item.pair, MediaError(path, reason, detail)))
        return made["embedding"]

    def _load_crops(self, faces: FaceRecogniser, path: Path, digest: str) -> dict[str, Tensor]:
        def make() -> dict[str, Tensor]:
            _check_there(path)
            photo = decode_photo(path)
            try:
                crop = faces.crop(photo, path)
            except MediaError as error:
                if error.reason != NO_FACE:
                    raise
                _check_unchanged(path, digest)
                # Kept as well: else the detector would look at the photo anew in every epoch.
                return {NO_FACE: _pack_json(error.detail)}
            _check_unchanged(path, digest)
            return {
                "id_crop": torch.from_numpy(crop.id_crop.copy()),
                "reference_crop": torch.from_numpy(crop.reference_crop.copy()),
                "warnings": _pack_json([(warning.reason, str(warning)) for warning in crop.warnings]),
            }

        if digest in self._unusable:
            raise self._unusable[digest].at(path)
        try:
            crops = self._load("crops", self._describe_crop(faces, digest), make)
        except MediaError as error:
            self._unusable[digest] = error
            raise
        if NO_FACE in crops:
            raise MediaError(path, NO_FACE, _unpack_json(crops[NO_FACE]))
        return crops

    def _describe_crop(self, faces: FaceRecogniser, digest: str) -> list[object]:
        return [digest, faces.crop_fingerprint, self.photo_decoders, CROPS_VERSION]

    def _load(self, sort: str, depends_on: Any, make: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
        return self.cache.get_or_make(sort, [DECODING_VERSION, depends_on], make)


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
    return json.loads(packed.numpy().tobytes())


def _check_finite(values: Tensor, path: Path) -> Tensor:
    if not torch.isfinite(values).all():
        bad = int((~torch.isfinite(values)).sum())
        raise MediaError(
            path, "not finite when encoded", f"{bad} NaN or infinite values; run the VAE in float32"
        )
    return values


def _check_there(path: Path) -> None:
    if not path.exists():
        raise MediaError(
            path, "file is gone", "the cache has nothing for these settings; bring the file back"
        )


def _check_unchanged(path: Path, digest: str) -> None:
    try:
        found = hash_file(path)
    except OSError as error:
        raise MediaError(path, "cannot be read", first_line(error)) from error
    if found != digest:
        raise DataError(f"{path} has changed since the run began; start again, so that plan and data agree")
