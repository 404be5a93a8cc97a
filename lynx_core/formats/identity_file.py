"""An identity as one file: embeddings, face crops, who may use it, and on request its keys and values.

Without keys and values it is well under 1 MB and fits every base: an adapter makes them from the embedding
and a crop. With them it needs no adapter, no VAE and no face model, and fits the one base that it names.
Crops are PNG, so that what the reference pass sees is the same after a round trip, to the bit.
"""

from __future__ import annotations

import dataclasses
import io
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..durable_file import hold_alone
from ..foreign_text import parse_json
from ..models.kv_cache import BlockKV, KVCache
from ..spec import ID_CROP_PX, REFERENCE_CROP_PX
from .conversion import write_together
from .safetensors_writer import safetensors_bytes, tensor_info, write_safetensors
from .tensor_file import AdapterError, SafetensorsFile

FORMAT = "comfy-lynx identity"
FORMAT_VERSION = 1
FORMAT_KEY, VERSION_KEY, ABOUT_KEY = "comfy_lynx.format", "comfy_lynx.format_version", "comfy_lynx.identity"

THUMBNAIL_PX = 128
MAX_PHOTOS = 64
MAX_PNG_BYTES = 1 << 20
"""No crop of 256 px is larger."""

KV_NAMES = ("id.face", "id.null", "ref.face", "ref.null")


@dataclass(frozen=True)
class IdentityPhoto:
    """One photo of the person, as the adapters see it."""

    id_crop: np.ndarray
    """[112, 112, 3] uint8 RGB."""
    reference_crop: np.ndarray
    """[256, 256, 3] uint8 RGB."""
    face_px: float = 0.0
    sharpness: float = 0.0
    score: float = 1.0


@dataclass(frozen=True)
class MadeFor:
    """What cached keys and values were computed through."""

    adapter_name: str
    adapter_fingerprint: str
    base_name: str
    base_checksum: str
    base_dim: int
    base_blocks: int


@dataclass(frozen=True)
class SavedIdentity:
    """A person, as kept in a file.

    Raises:
        AdapterError: when the parts do not go together.
    """

    name: str
    recogniser: str
    """Canonical name of the network that made the embeddings."""
    embedding: Tensor
    """[dim], unit length: what the ID-adapter gets."""
    photo_embeddings: Tensor
    """[photos, dim]: of each photo, to combine them in another way later; none where they are not known."""
    photos: tuple[IdentityPhoto, ...] = ()
    licence: str = ""
    consent: str = ""
    made_for: MadeFor | None = None
    kv_caches: Mapping[str, KVCache] = field(default_factory=dict)
    """By a name of `KV_NAMES`; empty unless `made_for` says what they fit."""

    def __post_init__(self) -> None:
        if not self.name.strip():
            raise AdapterError("an identity needs a name")
        if self.embedding.ndim != 1 or not bool(torch.isfinite(self.embedding).all()):
            raise AdapterError(
                f"{self.name}: an embedding is a row of finite numbers, got {list(self.embedding.shape)}"
            )
        if abs(float(self.embedding.norm()) - 1.0) > 1e-3:
            raise AdapterError(
                f"{self.name}: an embedding has length 1, got {float(self.embedding.norm()):.4g}"
            )
        if self.photo_embeddings.ndim != 2 or self.photo_embeddings.shape[1] != len(self.embedding):
            raise AdapterError(
                f"{self.name}: the photos' embeddings are {list(self.photo_embeddings.shape)}, expected "
                f"[photos, {len(self.embedding)}]"
            )
        if len(self.photos) > MAX_PHOTOS:
            raise AdapterError(f"{self.name} has {len(self.photos)} photos, at most {MAX_PHOTOS} are kept")
        if bool(self.kv_caches) != (self.made_for is not None):
            raise AdapterError(
                f"{self.name}: keys and values need the adapter and base that they were made for"
            )
        unknown = sorted(set(self.kv_caches) - set(KV_NAMES))
        if unknown:
            raise AdapterError(f"{self.name}: unknown keys and values {', '.join(unknown)}")
        for part in ("id", "ref"):
            if (f"{part}.face" in self.kv_caches) != (f"{part}.null" in self.kv_caches):
                raise AdapterError(
                    f"{self.name}: {part} needs the keys and values of the face and of the null"
                )


def save_identity(path: Path, identity: SavedIdentity, *, overwrite: bool = False) -> int:
    """Write an identity, complete or not at all; gives the file's size in bytes.

    Raises:
        AdapterError: when the file is there already, or the disk is full or refuses.
    """
    tensors = _collect_tensors(identity)
    infos = {name: tensor_info(tuple(tensor.shape), tensor.dtype) for name, tensor in tensors.items()}
    metadata = {
        FORMAT_KEY: FORMAT,
        VERSION_KEY: str(FORMAT_VERSION),
        ABOUT_KEY: json.dumps(_describe(identity)),
    }
    num_bytes = safetensors_bytes(infos, metadata)
    with hold_alone(path):  # two hosts may share a folder
        if path.exists() and not overwrite:
            raise AdapterError(f"{path} is already there; choose another name, or allow it with overwrite.")
        write_together(
            [(path, num_bytes, lambda raw: write_safetensors(raw, infos, tensors.__getitem__, metadata))]
        )
    return num_bytes


def open_identity(path: Path) -> SavedIdentity:
    """Read an identity.

    Raises:
        AdapterError: when the file is no identity, damaged, cut short, or of another version.
    """
    file = SafetensorsFile(path)
    if file.metadata.get(FORMAT_KEY) != FORMAT:
        raise AdapterError(
            f"{path} is no identity file (format {file.metadata.get(FORMAT_KEY, 'not named')!r}); choose a file that "
            "Lynx Save Identity or comfy-lynx bake wrote."
        )
    version = file.metadata.get(VERSION_KEY, "")
    if version != str(FORMAT_VERSION):
        raise AdapterError(
            f"{path} has format version {version!r}, this pack reads {FORMAT_VERSION}; update the pack."
        )
    try:
        about = parse_json(file.metadata[ABOUT_KEY])
        figures = [(float(p["face_px"]), float(p["sharpness"]), float(p["score"])) for p in about["photos"]]
        if len(figures) > MAX_PHOTOS:
            raise AdapterError(
                f"{path} names {len(figures)} photos, at most {MAX_PHOTOS} are kept; make it anew."
            )
        return SavedIdentity(
            name=str(about["name"]),
            recogniser=str(about["recogniser"]),
            embedding=_read_tensor(file, "embedding").float().clone(),
            photo_embeddings=_read_tensor(file, "photo_embeddings").float().clone(),
            photos=tuple(_read_photo(file, i, *numbers) for i, numbers in enumerate(figures)),
            licence=str(about["licence"]),
            consent=str(about["consent"]),
            made_for=MadeFor(**about["made_for"]) if about["made_for"] else None,
            kv_caches={name: _read_kv(file, name, about["norm_key"][name]) for name in about["norm_key"]},
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        if str(path) in str(error):
            raise
        if isinstance(error, AdapterError):
            raise AdapterError(f"{path}: {error}; make it anew.") from error
        raise AdapterError(f"{path} is damaged or incomplete ({error!r}); make it anew.") from error


def read_thumbnail(path: Path) -> bytes | None:
    """Read the PNG by which a list shows an identity; None where the file has no photo.

    Raises:
        AdapterError: when the file is damaged, or the thumbnail is no PNG of at most 128 px.
    """
    file = SafetensorsFile(path)
    if "thumbnail" not in file.tensors:
        return None
    data = _read_bytes(file, "thumbnail")
    _decode_png(data, f"{path}: thumbnail", THUMBNAIL_PX)
    return data


def _describe(identity: SavedIdentity) -> dict[str, Any]:
    return {
        "name": identity.name,
        "recogniser": identity.recogniser,
        "licence": identity.licence,
        "consent": identity.consent,
        "made_for": dataclasses.asdict(identity.made_for) if identity.made_for else None,
        "norm_key": {name: cache.norm_key for name, cache in identity.kv_caches.items()},
        "photos": [
            {"face_px": photo.face_px, "sharpness": photo.sharpness, "score": photo.score}
            for photo in identity.photos
        ],
    }


def _collect_tensors(identity: SavedIdentity) -> dict[str, Tensor]:
    tensors = {
        "embedding": identity.embedding.float().cpu(),
        "photo_embeddings": identity.photo_embeddings.float().cpu(),
    }
    for i, photo in enumerate(identity.photos):
        tensors[f"photo.{i}.id_crop"] = _encode_png(photo.id_crop)
        tensors[f"photo.{i}.reference_crop"] = _encode_png(photo.reference_crop)
    if identity.photos:
        picture = Image.fromarray(identity.photos[0].reference_crop)
        small = picture.resize((THUMBNAIL_PX, THUMBNAIL_PX), Image.Resampling.LANCZOS)
        tensors["thumbnail"] = _encode_png(np.asarray(small))
    for name, cache in identity.kv_caches.items():
        for block in cache.list_blocks():
            block_kv = cache.get_block(block)
            tensors[f"kv.{name}.{block}.key"] = block_kv.key.detach().cpu()
            tensors[f"kv.{name}.{block}.value"] = block_kv.value.detach().cpu()
    return tensors


def _read_photo(
    file: SafetensorsFile, i: int, face_px: float, sharpness: float, score: float
) -> IdentityPhoto:
    crops = {
        name: _decode_png(_read_bytes(file, f"photo.{i}.{name}"), f"{file.path}: photo {i + 1}", size_px)
        for name, size_px in (("id_crop", ID_CROP_PX), ("reference_crop", REFERENCE_CROP_PX))
    }
    return IdentityPhoto(**crops, face_px=face_px, sharpness=sharpness, score=score)


def _read_tensor(file: SafetensorsFile, name: str) -> Tensor:
    if name not in file.tensors:
        raise AdapterError(f"{file.path} is incomplete: {name} is missing; make it anew.")
    return file.read(name)


def _read_kv(file: SafetensorsFile, name: str, norm_key: bool) -> KVCache:
    prefix, end = f"kv.{name}.", ".key"
    blocks = sorted(
        int(key[len(prefix) : -len(end)])
        for key in file.tensors
        if key.startswith(prefix) and key.endswith(end)
    )
    pairs = [
        (block, BlockKV(*(_read_tensor(file, f"{prefix}{block}.{part}") for part in ("key", "value"))))
        for block in blocks
    ]
    if not pairs:
        raise AdapterError(f"{file.path} names keys and values {name!r} but holds none; make it anew.")
    for block, pair in pairs:
        shapes = {tuple(pair.key.shape), tuple(pair.value.shape)}
        if len(shapes) != 1 or pair.key.ndim != 3 or len(pair.key) != 1 or not pair.key.is_floating_point():
            raise AdapterError(
                f"{file.path}: {name} of block {block} has the shapes {sorted(shapes)}; make it anew."
            )
    return KVCache(pairs, norm_key=bool(norm_key))


def _encode_png(pixels: np.ndarray) -> Tensor:
    data = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(data, "PNG")
    return torch.frombuffer(bytearray(data.getvalue()), dtype=torch.uint8)


def _read_bytes(file: SafetensorsFile, name: str) -> bytes:
    info = file.tensors[name]
    if info.dtype != torch.uint8 or len(info.shape) != 1 or not 0 < info.shape[0] <= MAX_PNG_BYTES:
        raise AdapterError(
            f"{file.path}: {name} is no picture ({info.stored_as} {list(info.shape)}); make it anew."
        )
    return file.read(name).numpy().tobytes()


def _decode_png(data: bytes, label: str, size_px: int) -> np.ndarray:
    try:
        with Image.open(io.BytesIO(data), formats=["PNG"]) as picture:
            # Looked at before the pixels are unpacked.
            if picture.size != (size_px, size_px) or picture.mode != "RGB":
                raise AdapterError(
                    f"{label} is {picture.size[0]}x{picture.size[1]} px {picture.mode}, expected {size_px}x{size_px} "
                    "RGB; make the identity anew."
                )
            return np.array(picture)
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise AdapterError(f"{label} is no readable PNG ({error}); make the identity anew.") from error
