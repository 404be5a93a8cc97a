"""Identities as files under models/lynx/identities: what a graph keeps, and what comes back."""

from __future__ import annotations

from pathlib import Path

import folder_paths
import torch

from ...lynx_core.faces.crops import FaceCrop
from ...lynx_core.formats.adapter import Adapter
from ...lynx_core.formats.identity_file import IdentityPhoto, MadeFor, SavedIdentity
from .application import get_id_kv
from .base_model import BaseModel
from .identity import FaceID, Reference, SavedKV, register_kv
from .model_files import IDENTITIES_FOLDER, LYNX_FOLDER, list_lynx_files, locate_lynx_file

SUFFIX = ".safetensors"
MAX_NAME_BYTES = 200
"""Of a name in UTF-8: file systems take 255 with the suffix, and what a file is called while it is written."""


def list_identities() -> list[str]:
    """List identity files by name, without their suffix."""
    prefix = f"{IDENTITIES_FOLDER}/"
    names = (name.removeprefix(prefix) for name in list_lynx_files() if name.startswith(prefix))
    return sorted(name.removesuffix(SUFFIX) for name in names if name.endswith(SUFFIX))


def locate_identity(name: str) -> Path | None:
    """Find an identity's file; None when there is none, or nothing in it."""
    return locate_lynx_file(f"{IDENTITIES_FOLDER}/{name}{SUFFIX}")


def choose_path(name: str) -> Path:
    """Give the file that an identity of this name is saved to.

    Raises:
        ValueError: when the name is empty or would reach another folder.
    """
    name = name.strip()
    is_bad = name.startswith(".") or any(char in '/\\:*?"<>|' or not char.isprintable() for char in name)
    if not name or is_bad or len(name.encode()) > MAX_NAME_BYTES:
        raise ValueError(
            f"name {name!r} cannot be a file's name: write letters, digits, spaces, '-' and '_', as in 'Ann 2', "
            f"at most {MAX_NAME_BYTES} bytes."
        )
    return Path(folder_paths.get_folder_paths(LYNX_FOLDER)[-1]) / IDENTITIES_FOLDER / f"{name}{SUFFIX}"


def collect_identity(
    name: str,
    face_id: FaceID,
    face: list[FaceCrop] | None,
    reference: Reference | None,
    adapter: Adapter | None,
    licence: str,
    consent: str,
    *,
    keeps_kv: bool,
) -> SavedIdentity:
    """Gather what a file keeps of a person.

    Raises:
        ValueError: when keys and values are asked for, and what they are made of is not connected.
    """
    kv_caches, made_for = {}, None
    if keeps_kv:
        if reference is None or adapter is None:
            raise ValueError(
                "To keep keys and values, connect adapter and reference, too: they belong to one adapter and one base "
                "model. Without keep_kv the file is small and fits every base."
            )
        null = torch.zeros_like(face_id.embedding)
        dtype = next(reference.face.kv_cache.parameters()).dtype
        for part, embedding in (("id.face", face_id.embedding), ("id.null", null)):
            kv_caches[part] = get_id_kv(adapter, embedding, dtype).kv_cache
        kv_caches |= {"ref.face": reference.face.kv_cache, "ref.null": reference.null.kv_cache}
        base = reference.base
        made_for = MadeFor(
            adapter.name, adapter.fingerprint, base.name, base.checksum, base.dim, base.num_blocks
        )
    return SavedIdentity(
        name=name.strip(),
        recogniser=face_id.recogniser,
        embedding=face_id.embedding,
        photo_embeddings=face_id.embedding[None],
        photos=tuple(
            IdentityPhoto(crop.id_crop, crop.reference_crop, crop.face_px, crop.sharpness, crop.score)
            for crop in face or ()
        ),
        licence=licence.strip(),
        consent=consent.strip(),
        made_for=made_for,
        kv_caches=kv_caches,
    )


def restore_id(saved: SavedIdentity) -> FaceID:
    """Make LYNX_ID of a file, with its keys and values where it has them."""
    made_for = saved.made_for
    kv = None
    if made_for is not None and "id.face" in saved.kv_caches:
        face, null = (register_kv(saved.kv_caches[f"id.{which}"]) for which in ("face", "null"))
        kv = SavedKV(face, null, made_for.adapter_name, made_for.adapter_fingerprint, restore_base(made_for))
    return FaceID(saved.embedding, saved.recogniser, kv)


def restore_reference(saved: SavedIdentity) -> Reference | None:
    """Make LYNX_REFERENCE of a file; None where it keeps no keys and values."""
    if saved.made_for is None or "ref.face" not in saved.kv_caches:
        return None
    face, null = (register_kv(saved.kv_caches[f"ref.{which}"]) for which in ("face", "null"))
    return Reference(face, null, restore_base(saved.made_for))


def restore_base(made_for: MadeFor) -> BaseModel:
    return BaseModel(made_for.base_name, made_for.base_dim, made_for.base_blocks, made_for.base_checksum)


def restore_crops(saved: SavedIdentity) -> list[FaceCrop]:
    """Make LYNX_FACE of a file's photos."""
    return [FaceCrop(p.id_crop, p.reference_crop, p.face_px, p.sharpness, p.score) for p in saved.photos]


def describe_identity(saved: SavedIdentity, num_bytes: int) -> list[str]:
    """Say what a file holds."""
    lines = [
        f"{saved.name}: {len(saved.photos)} photos, recogniser {saved.recogniser}, {num_bytes / 1e6:.2f} MB"
    ]
    if saved.made_for is not None:
        lines.append(f"keys and values for {saved.made_for.adapter_name} on {saved.made_for.base_name}")
    rights = [
        f"{label}: {text}" for label, text in (("licence", saved.licence), ("consent", saved.consent)) if text
    ]
    return [*lines, *(["; ".join(rights)] if rights else [])]
