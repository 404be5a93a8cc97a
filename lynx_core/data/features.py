"""The tensors of a sample, from the cache or made on the spot; both ways give the same bits.

| entry | depends on |
|---|---|
| `latents` | target's bytes, frames and size, VAE |
| `texts` | cleaned caption, text encoder |
| `crops` | photo's bytes, detector and choice of the face |
| `embeddings` | the same, and the embedder |
| `references` | the same as `crops`, and the VAE |
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..faces.embedding import average_embeddings
from ..faces.errors import FaceError
from .cache import TensorCache
from .catalogue import CatalogueItem
from .decoding import DECODING_VERSION, ClipPlan, convert_pixels, decode_clip, decode_photo
from .encoders import Encoders, FaceEncoder, clean_caption
from .errors import DataError, MediaError, first_line
from .hashing import hash_file
from .sample import REFERENCE_PROMPT, REFERENCE_PX, Nulls, Sample


@dataclass(frozen=True)
class Features:
    """Makes and keeps the tensors of samples."""

    encoders: Encoders
    cache: TensorCache

    def load_sample(self, item: CatalogueItem) -> Sample:
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

    def load_latents(self, item: CatalogueItem) -> Tensor:
        """The target in model space, [16, T, H, W] float32."""
        path, plan = item.pair.target, item.plan

        def make() -> dict[str, Tensor]:
            pixels_CTHW = convert_pixels(decode_clip(path, plan))
            latents = _check_finite(self.encoders.video.encode(pixels_CTHW), path)
            _check_unchanged(path, item.target_hash)
            return {"latents": latents}

        depends_on = [item.target_hash, _describe_plan(plan), self.encoders.video.fingerprint]
        return self._load("latents", depends_on, make)["latents"].float()

    def load_text(self, caption: str) -> Tensor:
        """The tokens of a caption, [L, D]."""
        depends_on = [clean_caption(caption), self.encoders.text.fingerprint]
        made = self._load("texts", depends_on, lambda: {"tokens": self.encoders.text.encode(caption)})
        return made["tokens"]

    def load_embedding(self, item: CatalogueItem) -> Tensor | None:
        """The mean unit embedding of a pair's references, [512] float32; None without face models."""
        faces = self.encoders.faces
        if faces is None:
            return None
        embeddings = []
        for path, digest in zip(item.pair.references, item.reference_hashes, strict=True):
            embeddings.append(self._load_photo_embedding(faces, path, digest))
        try:
            return average_embeddings(torch.stack(embeddings))
        except FaceError as error:
            raise MediaError(item.pair.references[0], "references disagree", first_line(error)) from error

    def load_reference(self, item: CatalogueItem) -> Tensor | None:
        """Latents of the first reference's crop, [16, 1, 32, 32] float32; None without face models."""
        faces = self.encoders.faces
        if faces is None:
            return None
        path, digest = item.pair.references[0], item.reference_hashes[0]

        def make() -> dict[str, Tensor]:
            crop = self._load_crops(faces, path, digest)["reference_crop"]
            latents = self.encoders.video.encode(convert_pixels(crop.numpy()[None]))
            return {"latents": _check_finite(latents, path)}

        depends_on = [digest, faces.crop_fingerprint, self.encoders.video.fingerprint]
        return self._load("references", depends_on, make)["latents"].float()

    def load_nulls(self) -> Nulls:
        """What stands in for dropped conditions.

        Raises:
            DataError: when an encoder or the cache fails.
        """
        grey = torch.zeros(3, 1, REFERENCE_PX, REFERENCE_PX)
        made = self._load(
            "references",
            ["mid-grey", REFERENCE_PX, self.encoders.video.fingerprint],
            lambda: {"latents": self.encoders.video.encode(grey)},
        )
        return Nulls(
            empty_text=self.load_text(""),
            reference_text=self.load_text(REFERENCE_PROMPT),
            grey_reference=made["latents"].float(),
        )

    def _load_photo_embedding(self, faces: FaceEncoder, path: Path, digest: str) -> Tensor:
        def make() -> dict[str, Tensor]:
            crop = self._load_crops(faces, path, digest)["id_crop"]
            return {"embedding": _check_finite(faces.embed(crop.numpy()), path)}

        depends_on = [digest, faces.crop_fingerprint, faces.embed_fingerprint]
        return self._load("embeddings", depends_on, make)["embedding"]

    def _load_crops(self, faces: FaceEncoder, path: Path, digest: str) -> dict[str, Tensor]:
        def make() -> dict[str, Tensor]:
            id_crop, reference_crop = faces.crop(decode_photo(path), path)
            _check_unchanged(path, digest)
            return {
                "id_crop": torch.from_numpy(id_crop.copy()),
                "reference_crop": torch.from_numpy(reference_crop.copy()),
            }

        return self._load("crops", [digest, faces.crop_fingerprint], make)

    def _load(self, sort: str, depends_on: Any, make: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
        return self.cache.get_or_make(sort, [DECODING_VERSION, depends_on], make)


def _describe_plan(plan: ClipPlan) -> list[object]:
    return [plan.height_px, plan.width_px, None if plan.pts is None else plan.pts.tolist()]


def _check_finite(values: Tensor, path: Path) -> Tensor:
    if not torch.isfinite(values).all():
        bad = int((~torch.isfinite(values)).sum())
        raise MediaError(
            path, "not finite when encoded", f"{bad} NaN or infinite values; run the VAE in float32"
        )
    return values


def _check_unchanged(path: Path, digest: str) -> None:
    try:
        found = hash_file(path)
    except OSError as error:
        raise MediaError(path, "cannot be read", first_line(error)) from error
    if found != digest:
        raise DataError(f"{path} has changed since the run began; start again, so that plan and data agree")
