"""The short way: one node from a photo to a model and conditionings that carry the person."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from comfy_api.latest import io, ui

from ..lynx_core.faces.analyzer import FaceAnalyzer
from ..lynx_core.faces.detection import FACE_ORDERS
from ..lynx_core.faces.photo import convert_photos
from ..lynx_core.formats.adapter import Adapter
from ..lynx_core.spec import RELEASE_RECOGNISER
from . import sockets
from .host import mini_lynx, model_files
from .host.application import AppliedIdentity, apply_identity
from .host.messages import raise_plainly, show_note
from .host.reference_pass import ReferenceCache, check_reference_model
from .nodes_apply import define_applied_outputs, define_strength_input, describe_settings
from .nodes_face import encode_id, find_crops
from .nodes_load import (
    explain_choice,
    explain_face_models,
    list_adapter_choices,
    open_choices,
    open_matching_face_models,
    stamp_choices,
    stamp_face_models,
)
from .presets import PRESETS, IdentitySettings

_references = ReferenceCache(max_entries=2)
"""Wan 2.2 has two experts."""


class LynxPerson(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        adapters = list_adapter_choices()
        return io.Schema(
            node_id="LynxPerson",
            display_name="Lynx Person",
            category=sockets.CATEGORY,
            description="Puts the person in a photo on a Wan model, all in one: finds the face, encodes ID and reference, "
            "and applies both. Use MODEL and conditionings of this node together, with Lynx Sampler.",
            search_aliases=["identity", "same person", "ip adapter", *sockets.SEARCH_WORDS],
            inputs=[
                io.Image.Input(
                    "image",
                    tooltip="Photo of the person; the largest face counts. A batch is several photos of one person: the ID "
                    "is their mean, the first is the reference.",
                ),
                io.Model.Input(
                    "model", tooltip="Wan 2.1 T2V 14B, VACE 14B or Wan 2.2 14B, with its LoRAs on."
                ),
                io.Clip.Input("clip", tooltip="umt5_xxl, type wan; the reference needs it."),
                io.Vae.Input("vae", tooltip="wan_2.1_vae; the reference needs it."),
                io.Conditioning.Input("positive", tooltip="The prompt."),
                io.Conditioning.Input("negative", tooltip="The negative prompt; it gets the null identity."),
                io.Combo.Input(
                    "adapter",
                    options=adapters,
                    default=model_files.choose_default(adapters, "lynx_full"),
                    tooltip="Folder or file under models/lynx: lynx_full has ID and reference, lynx_lite the ID alone.",
                ),
                io.Combo.Input(
                    "preset",
                    options=list(PRESETS),
                    default=next(iter(PRESETS)),
                    tooltip="How strongly and when ID and reference act. 'as published' is the release's.",
                ),
                *(
                    define_strength_input(
                        part, f"How strongly {what} acts, 0 to 2 times what the preset says; 0 leaves it out."
                    )
                    for part, what in (("id", "the ID"), ("ref", "the reference"))
                ),
                sockets.Adapter.Input(
                    "loaded_adapter",
                    optional=True,
                    tooltip="From Lynx Load Mini or Lynx Load Adapter; it takes the place of adapter above.",
                ),
                sockets.FaceAnalyzer.Input(
                    "face_analyzer",
                    optional=True,
                    tooltip="Left open, the detector buffalo_l on the CPU, and the recogniser that the adapter was "
                    "trained on.",
                ),
                io.Model.Input(
                    "reference_model",
                    optional=True,
                    tooltip="The model before a distilled LoRA; the reference is encoded through it. Left open: through "
                    "model.",
                ),
            ],
            outputs=define_applied_outputs(),
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def validate_inputs(
        cls,
        adapter: str | None = None,
        loaded_adapter: Any = sockets.NOT_CONNECTED,
        face_analyzer: Any = sockets.NOT_CONNECTED,
    ) -> bool | str:
        """Name all files that are missing, before anything runs."""
        faults = []
        is_published = adapter is not None and model_files.strip_mark(adapter) in model_files.ADAPTERS
        if loaded_adapter == sockets.NOT_CONNECTED:
            faults.append(explain_choice([adapter]))
            # Which recogniser a file of the user's own takes shows when it is opened.
            if face_analyzer == sockets.NOT_CONNECTED and is_published:
                faults.append(explain_face_models(*choose_release_models()))
        return "\n".join(fault for fault in faults if fault) or True

    @classmethod
    def fingerprint_inputs(cls, adapter: str | None = None) -> str:
        """Open the files again once one of them is replaced."""
        return stamp_choices([adapter]) + stamp_face_models(None, None) + mini_lynx.stamp_mini()

    @classmethod
    @raise_plainly
    def execute(
        cls,
        image: torch.Tensor,
        model: Any,
        clip: Any,
        vae: Any,
        positive: Any,
        negative: Any,
        adapter: str,
        preset: str,
        id_strength: float,
        ref_strength: float,
        loaded_adapter: Adapter | None = None,
        face_analyzer: FaceAnalyzer | None = None,
        reference_model: Any = None,
    ) -> io.NodeOutput:
        opened = loaded_adapter or open_choices(adapter)
        settings = scale_preset(preset, id_strength, ref_strength)
        analyzer = face_analyzer or open_matching_face_models(opened)
        crops, annotated = find_crops(image, analyzer, FACE_ORDERS[0], 1)
        warnings = [warning for crop in crops for warning in crop.warnings]
        face_id = reference = None
        if settings.id.strength and opened.id is not None:
            face_id, remarks = encode_id(analyzer, crops)
            warnings += remarks
        if settings.ref.strength and opened.ref is not None:
            through = model if reference_model is None else reference_model
            warnings += check_reference_model(through, model)
            photo = convert_photos([crops[0].reference_crop])
            reference = _references.encode(through, opened, clip, vae, photo)
        warnings += explain_idle(opened, settings)
        parts = (("ID", settings.id, opened.id), ("reference", settings.ref, opened.ref))
        lines = [f"{opened.name}, preset {preset}"]
        lines += [describe_settings(name, acting) for name, acting, layers in parts if layers is not None]
        applied = (
            AppliedIdentity(model, positive, negative, negative)
            if face_id is None and reference is None
            else apply_identity(model, positive, negative, opened, face_id, reference, settings)
        )
        show_note(cls, *lines, warnings=[*applied.remarks, *warnings])
        preview = ui.PreviewImage(convert_photos(annotated), cls=cls)
        return io.NodeOutput(applied.model, applied.positive, applied.negative, applied.middle, ui=preview)


def choose_release_models() -> tuple[str, str]:
    """Give the detector pack and the recogniser of the release's adapters."""
    choices = model_files.find_face_choices(RELEASE_RECOGNISER)
    assert choices is not None
    return choices


def scale_preset(preset: str, id_strength: float, ref_strength: float) -> IdentitySettings:
    """Give a preset's settings with each strength times a factor.

    Raises:
        ValueError: when there is no such preset, or a strength comes out beyond -10 to 10.
    """
    if preset not in PRESETS:
        raise ValueError(f"preset {preset!r} is none of: {', '.join(PRESETS)}")
    settings = PRESETS[preset]
    return IdentitySettings(
        replace(settings.id, strength=settings.id.strength * id_strength),
        replace(settings.ref, strength=settings.ref.strength * ref_strength),
    )


def explain_idle(adapter: Adapter, settings: IdentitySettings) -> list[str]:
    """Say which strength does nothing, because the adapter has no such part, and whether nothing acts at all."""
    idle = [
        f"{name}: {adapter.name} has no {name} layers, so {widget} does nothing."
        for name, widget, part in (
            ("ID", "id_strength", adapter.id),
            ("reference", "ref_strength", adapter.ref),
        )
        if part is None
    ]
    acts = (settings.id.strength and adapter.id is not None) or (
        settings.ref.strength and adapter.ref is not None
    )
    return idle if acts else [*idle, "No part of the person acts: the video is the base model's."]
