"""Putting an identity on a model: which keys and values go into which conditioning."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from typing import Any

import comfy.model_management
import comfy.utils
import torch
from torch import Tensor

from ..lynx_core.formats.adapter import Adapter
from ..lynx_core.models.baking import KeyValues, bake_identity
from .attachment import attach
from .base_model import check_adapter_fits, describe_base
from .identity import BakedPart, BakedParts, BaseModel, FaceID, Kind, Reference, Term, add_terms
from .model_files import find_encoder_choice
from .presets import PART_NAMES, IdentitySettings, PartSettings

BAKING_BYTES = 1 << 30
"""A resampler and one layer in float32, with room to work."""

_baked_ids = BakedParts(most=4)
"""Changing a strength, or the second expert of Wan 2.2, bakes nothing again."""


@dataclass(frozen=True)
class AppliedIdentity:
    """What LynxApply gives out."""

    model: Any
    positive: list[Any]
    negative: list[Any]
    middle: list[Any]


def bake_id(adapter: Adapter, embedding: Tensor, dtype: torch.dtype) -> BakedPart:
    """Bake an embedding, or find it baked."""

    def bake() -> KeyValues:
        progress = comfy.utils.ProgressBar(len(adapter.id.blocks) if adapter.id else 0)

        def on_block(_: int) -> None:
            comfy.model_management.throw_exception_if_processing_interrupted()
            progress.update(1)

        device = comfy.model_management.get_torch_device()
        comfy.model_management.free_memory(BAKING_BYTES, device)
        return bake_identity(adapter, embedding, device, dtype, on_block)

    digest = hashlib.sha256(embedding.float().numpy().tobytes()).hexdigest()
    return _baked_ids.find_or_bake((adapter.fingerprint, digest, str(dtype)), bake)


def apply_identity(
    model: Any,
    positive: list[Any],
    negative: list[Any],
    adapter: Adapter,
    face_id: FaceID | None,
    reference: Reference | None,
    settings: IdentitySettings,
    vace_reference_frames: int = 0,
) -> AppliedIdentity:
    """Attach an identity to a model and its conditionings.

    The negative gets the null identity, as in the release: not "adapter off". A part of
    strength 0 is left out; with both left out everything is handed on untouched.

    Raises:
        ValueError: when the parts do not fit each other or the model, or none is given.
    """
    base = describe_base(model)
    check_adapter_fits(adapter, base)
    if face_id is None and reference is None:
        raise ValueError(
            "Lynx has no identity to apply: connect LYNX_ID (from Lynx Encode ID), LYNX_REFERENCE (from Lynx Encode "
            "Reference), or both. To run without Lynx, bypass this node or set both strengths to 0."
        )
    face: list[tuple[Term, BakedPart]] = []
    null: list[tuple[Term, BakedPart]] = []
    if face_id is not None and settings.id.strength:
        check_embedder(adapter, face_id)
        dtype = model.model.get_dtype_inference()
        for terms, embedding in ((face, face_id.embedding), (null, torch.zeros_like(face_id.embedding))):
            part = bake_id(adapter, embedding, dtype)
            terms.append((make_term("id", part, settings.id), part))
    if reference is not None and settings.ref.strength:
        check_reference(reference, base)
        for terms, part in ((face, reference.face), (null, reference.null)):
            term = make_term("ref", part, settings.ref)
            terms.append((replace(term, base=reference.base, skip_frames=vace_reference_frames), part))
    if not face:
        return AppliedIdentity(model, positive, negative, negative)
    return AppliedIdentity(
        model=attach(model, base),
        positive=add_parts(positive, face),
        negative=add_parts(negative, null),
        middle=add_parts(negative, face),
    )


def make_term(kind: Kind, part: BakedPart, settings: PartSettings) -> Term:
    return Term(
        kind=kind,
        key_values=part.key_values,
        strength=settings.strength,
        start_percent=settings.start_percent,
        end_percent=settings.end_percent,
        blocks=settings.choose_blocks(part.key_values.list_blocks(), PART_NAMES[kind]),
    )


def add_parts(conditioning: list[Any], terms: list[tuple[Term, BakedPart]]) -> list[Any]:
    return add_terms(conditioning, tuple(term for term, _ in terms), [part for _, part in terms])


def check_reference(reference: Reference, base: BaseModel) -> None:
    if reference.base.checksum != base.checksum:
        raise ValueError(
            f"This LYNX_REFERENCE was baked through {reference.base.name} ({reference.base.checksum}), but the MODEL "
            f"here is {base.name} ({base.checksum}). Give each base model (each expert of Wan 2.2, too) its own "
            "Lynx Encode Reference."
        )


def check_embedder(adapter: Adapter, face_id: FaceID) -> None:
    if adapter.id is None or adapter.resampler is None:
        raise ValueError(
            f"Adapter {adapter.name!r} has no ID part (resampler and ID layers), so it cannot use LYNX_ID. Choose an "
            "adapter that has one, or disconnect LYNX_ID and use the reference alone."
        )
    if face_id.embedder != adapter.embedder:
        raise ValueError(
            f"Adapter {adapter.name!r} was trained on face embeddings of {adapter.embedder!r}, but this LYNX_ID comes "
            f"from {face_id.embedder!r}: it would give the wrong person. In Lynx Load Face Analyzer, choose "
            f"{find_encoder_choice(adapter.embedder)}."
        )
    if len(face_id.embedding) != adapter.resampler.embedding_dim:
        raise ValueError(
            f"LYNX_ID holds {len(face_id.embedding)} numbers, but adapter {adapter.name!r} takes "
            f"{adapter.resampler.embedding_dim}."
        )
    if not torch.isfinite(face_id.embedding).all():
        raise ValueError("LYNX_ID holds NaN or infinite numbers: encode the face again.")
