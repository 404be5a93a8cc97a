"""Putting an identity on a model: which keys and values go into which conditioning."""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Any

import comfy.model_management
import comfy.utils
import torch
from torch import Tensor

from ...lynx_core.formats.adapter import Adapter
from ...lynx_core.models.adapters import IDAdapterLayer
from ...lynx_core.models.kv_cache import KVCache, compute_id_kv
from ..presets import PART_NAMES, IdentitySettings, PartSettings, parse_curve
from .attention_hooks import attach
from .base_model import BaseModel, check_adapter_fits, describe_base
from .conditioning import (
    Conditioning,
    Injection,
    Kind,
    add_injections,
    find_injections,
    list_people,
    make_middle,
)
from .identity import FaceID, IdentityKV, IdentityKVCache, Reference
from .model_files import explain_recogniser
from .region import Region

PRECOMPUTE_BYTES = 1 << 30
"""A resampler and one layer in float32, with room to work."""

_id_kv_cache = IdentityKVCache(max_entries=4)
"""A changed strength and the second expert of Wan 2.2 find the keys and values here."""


@dataclass(frozen=True)
class AppliedIdentity:
    """What LynxApply gives out."""

    model: Any
    positive: Conditioning
    negative: Conditioning
    middle: Conditioning
    remarks: tuple[str, ...] = ()
    """What is not as the artist may believe."""


def get_id_kv(adapter: Adapter, embedding: Tensor, dtype: torch.dtype) -> IdentityKV:
    """Compute the keys and values of an embedding, or take them from the cache."""

    def compute() -> KVCache:
        blocks = adapter.id.blocks if adapter.id else ()
        progress = comfy.utils.ProgressBar(len(blocks))

        def read_layer(block: int) -> IDAdapterLayer:
            comfy.model_management.throw_exception_if_processing_interrupted()
            progress.update(1)
            return adapter.read_id_layer(block)

        device = comfy.model_management.get_torch_device()
        comfy.model_management.free_memory(PRECOMPUTE_BYTES, device)
        return compute_id_kv(adapter.load_resampler(), blocks, read_layer, embedding, device, dtype)

    digest = hashlib.sha256(embedding.float().numpy().tobytes()).hexdigest()
    return _id_kv_cache.get_or_compute((adapter.fingerprint, digest, str(dtype)), compute)


def apply_identity(
    model: Any,
    positive: Conditioning,
    negative: Conditioning,
    adapter: Adapter | None,
    face_id: FaceID | None,
    reference: Reference | None,
    settings: IdentitySettings,
    vace_reference_frames: int = 0,
    region: Region | None = None,
) -> AppliedIdentity:
    """Attach an identity to a model and its conditionings; with a region, it acts there alone.

    The negative gets the null identity, as in the release: not "adapter off". A part of
    strength 0 is left out; with both left out everything is handed on untouched.

    Raises:
        ValueError: when the parts do not fit each other or the model, or none is given.
    """
    base = describe_base(model)
    if adapter is not None:
        check_adapter_fits(adapter, base)
    if face_id is None and reference is None:
        raise ValueError(
            "Lynx has no identity to apply: connect LYNX_ID (from Lynx Encode ID), LYNX_REFERENCE (from Lynx Encode "
            "Reference), or both. To run without Lynx, bypass this node or set both strengths to 0."
        )
    face: list[Injection] = []
    null: list[Injection] = []
    source = object()
    if face_id is not None and settings.id.strength:
        dtype = model.model.get_dtype_inference()
        face_kv, null_kv = choose_id_kv(adapter, face_id, base, dtype)
        face.append(make_injection("id", face_kv, settings.id, region, source))
        null.append(replace(face[-1], kv=null_kv, is_null=True))
    if reference is not None and settings.ref.strength:
        check_reference(reference, base)
        injection = make_injection("ref", reference.face, settings.ref, region, source)
        face.append(replace(injection, base=reference.base, skip_frames=vace_reference_frames))
        null.append(replace(face[-1], kv=reference.null, is_null=True))
    if not face:
        return AppliedIdentity(model, positive, negative, negative)
    remarks = explain_blend(positive, [injection.kind for injection in face], region)
    positive = add_injections(positive, face)
    return AppliedIdentity(
        model=attach(model, base),
        positive=positive,
        negative=add_injections(negative, null),
        # With the people of the Lynx Apply nodes before this one, whose null identities the negative carries. Where
        # the positive joins several people, only this node's own can be told.
        middle=make_middle(positive, negative)
        if len(list_people(positive)) == 1
        else add_injections(negative, face),
        remarks=tuple(remarks),
    )


def explain_blend(positive: Conditioning, kinds: Collection[Kind], region: Region | None) -> list[str]:
    """Say that a person who is put on blends with those that a conditioning carries: no mask parts them.

    Args:
        kinds: the parts that are put on. An ID alone and a reference alone are two halves of one person.
        region: where the person is put on.
    """
    before = [injection for entry in positive for injection in find_injections(entry)]
    blended = [
        i for i in before if i.kind in kinds and not i.is_null and (i.region is None or region is None)
    ]
    if not blended:
        return []
    names = " and ".join(PART_NAMES[kind] for kind in PART_NAMES if any(i.kind == kind for i in blended))
    return [
        f"positive has passed another Lynx Apply or Lynx Person: the {names} of both act in the same place, and two people "
        "blend into one. For two people give each Lynx Apply a mask."
    ]


def choose_id_kv(
    adapter: Adapter | None, face_id: FaceID, base: BaseModel, dtype: torch.dtype
) -> tuple[IdentityKV, IdentityKV]:
    """Give the keys and values of a person and of nobody: from the identity file, or computed by the adapter.

    Raises:
        ValueError: when neither can be had, or they are for another adapter or base.
    """
    saved = face_id.saved_kv
    if saved is not None and (adapter is None or adapter.fingerprint == saved.adapter_fingerprint):
        if (saved.base.dim, saved.base.num_blocks) != (base.dim, base.num_blocks):
            raise ValueError(
                f"This identity was saved with keys and values for {saved.base.name} (dim {saved.base.dim}, "
                f"{saved.base.num_blocks} blocks), but the MODEL here is {base.name} (dim {base.dim}, {base.num_blocks} "
                "blocks). Connect an adapter made for this base, which computes them anew."
            )
        return saved.face, saved.null
    if adapter is None:
        raise ValueError(
            "Lynx Apply needs the adapter to make keys and values of this LYNX_ID: connect adapter (from Lynx Load "
            "Adapter), or load an identity that was saved with keep_kv."
        )
    check_recogniser(adapter, face_id)
    nobody = torch.zeros_like(face_id.embedding)
    return get_id_kv(adapter, face_id.embedding, dtype), get_id_kv(adapter, nobody, dtype)


def make_injection(
    kind: Kind, kv: IdentityKV, settings: PartSettings, region: Region | None, source: object
) -> Injection:
    return Injection(
        kind=kind,
        kv=kv,
        strength=settings.strength,
        start_percent=settings.start_percent,
        end_percent=settings.end_percent,
        blocks=settings.weigh_blocks(kv.kv_cache.list_blocks(), PART_NAMES[kind]),
        curve=parse_curve(settings.curve),
        region=region,
        source=source,
    )


def check_reference(reference: Reference, base: BaseModel) -> None:
    if reference.base.checksum != base.checksum:
        raise ValueError(
            f"This LYNX_REFERENCE was encoded with {reference.base.name} ({reference.base.checksum}), but the MODEL "
            f"here is {base.name} ({base.checksum}). Give each base model (each expert of Wan 2.2, too) its own "
            "Lynx Encode Reference."
        )


def check_recogniser(adapter: Adapter, face_id: FaceID) -> None:
    if adapter.id is None or adapter.resampler is None:
        raise ValueError(
            f"Adapter {adapter.name!r} has no ID part (resampler and ID layers), so it cannot use LYNX_ID. Choose an "
            "adapter that has one, or disconnect LYNX_ID and use the reference alone."
        )
    if face_id.recogniser != adapter.recogniser:
        raise ValueError(
            f"Adapter {adapter.name!r} was trained on face embeddings of {adapter.recogniser!r}, but this LYNX_ID comes "
            f"from {face_id.recogniser!r}: it would give the wrong person. {explain_recogniser(adapter.recogniser)}"
        )
    if len(face_id.embedding) != adapter.resampler.embedding_dim:
        raise ValueError(
            f"LYNX_ID holds {len(face_id.embedding)} numbers, but adapter {adapter.name!r} takes "
            f"{adapter.resampler.embedding_dim}."
        )
    if not torch.isfinite(face_id.embedding).all():
        raise ValueError("LYNX_ID holds NaN or infinite numbers: encode the face again.")
