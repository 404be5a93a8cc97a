"""Nodes for identities as things: keep one in a file, take it from there, make one of several."""

from __future__ import annotations

from typing import get_args

import torch
from comfy_api.latest import io, ui

from ..lynx_core.faces.combination import (
    CombineMethod,
    blend_embeddings,
    combine_embeddings,
    find_outliers,
    move_along_axis,
)
from ..lynx_core.faces.crops import FaceCrop
from ..lynx_core.faces.photo import convert_photos
from ..lynx_core.formats.adapter import Adapter
from ..lynx_core.formats.identity_file import open_identity, save_identity
from . import sockets
from .host import identity_files
from .host.identity import FaceID, Reference
from .host.messages import raise_plainly, show_note
from .host.model_files import stamp_files

NO_IDENTITY = "none saved yet"
BLEND, AXIS = "blend", "axis"
MAX_IDENTITIES = 4
"""Inputs of Lynx Combine Identities."""


class LynxSaveIdentity(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LynxSaveIdentity",
            display_name="Lynx Save Identity",
            category=sockets.CATEGORY,
            description="Keeps a person in a file under models/lynx/identities, for Lynx Load Identity. Small, and for "
            "every base; with keep_kv it needs no adapter, no VAE and no face model, and is for one base.",
            search_aliases=["save character", "save face", "character", "identity library"],
            inputs=[
                sockets.FaceID.Input("id", tooltip="From Lynx Encode ID."),
                io.String.Input("name", default="", tooltip="Name of the person, and of the file."),
                sockets.Face.Input(
                    "face", optional=True, tooltip="From Lynx Crop Face: the photos, up to 64 of them."
                ),
                sockets.Adapter.Input("adapter", optional=True, tooltip="Needed for keep_kv."),
                sockets.Reference.Input("reference", optional=True, tooltip="Needed for keep_kv."),
                io.Boolean.Input(
                    "keep_kv",
                    default=False,
                    tooltip="Keep the keys and values, too: about 0.5 GB for Wan 14B, loads on that base alone.",
                ),
                io.Boolean.Input("overwrite", default=False, tooltip="Replace the file of this name."),
                io.String.Input("licence", default="", tooltip="Licence of the photos, kept in the file."),
                io.String.Input(
                    "consent",
                    default="",
                    tooltip="What the person agreed to, kept in the file: who, when, for what.",
                ),
            ],
            outputs=[],
            hidden=[io.Hidden.unique_id],
            is_output_node=True,
        )

    @classmethod
    @raise_plainly
    def execute(
        cls,
        id: FaceID,
        name: str,
        keep_kv: bool,
        overwrite: bool,
        licence: str,
        consent: str,
        face: list[FaceCrop] | None = None,
        adapter: Adapter | None = None,
        reference: Reference | None = None,
    ) -> io.NodeOutput:
        path = identity_files.choose_path(name)
        saved = identity_files.collect_identity(
            name, id, face, reference, adapter, licence, consent, keeps_kv=keep_kv
        )
        num_bytes = save_identity(path, saved, overwrite=overwrite)
        warnings = (
            []
            if face
            else ["No face is connected: the file has no photo, so no new reference can be made of it."]
        )
        show_note(cls, *identity_files.describe_identity(saved, num_bytes), warnings=warnings)
        return io.NodeOutput()


class LynxLoadIdentity(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LynxLoadIdentity",
            display_name="Lynx Load Identity",
            category=sockets.CATEGORY,
            description="Opens a person that Lynx Save Identity or comfy-lynx bake has kept under "
            "models/lynx/identities.",
            search_aliases=["load character", "load face", "character", "identity library"],
            inputs=[
                io.Combo.Input(
                    "identity",
                    options=identity_files.list_identities() or [NO_IDENTITY],
                    tooltip="File under models/lynx/identities. Press R to renew the list.",
                ),
            ],
            outputs=[
                sockets.FaceID.Output(display_name="id"),
                sockets.Face.Output(display_name="face", tooltip="The photos, for Lynx Encode Reference."),
                sockets.Reference.Output(
                    display_name="reference",
                    tooltip="Empty unless the file keeps keys and values; make it with Lynx Encode Reference then.",
                ),
                io.Image.Output(display_name="photos", tooltip="The 256 px crops."),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def validate_inputs(cls, identity: str | None = None) -> bool | str:
        """Name a file that is missing before anything runs."""
        return explain_identity(identity) or True

    @classmethod
    def fingerprint_inputs(cls, identity: str | None = None) -> str:
        """Open the file again once it is replaced; of a name that is linked (None), any may be meant."""
        names = identity_files.list_identities() if identity is None else [identity]
        places = map(identity_files.locate_identity, names)
        return stamp_files(place for place in places if place)

    @classmethod
    @raise_plainly
    def execute(cls, identity: str) -> io.NodeOutput:
        fault = explain_identity(identity)
        path = identity_files.locate_identity(identity)
        if fault or path is None:
            raise ValueError(fault)
        saved = open_identity(path)
        show_note(cls, *identity_files.describe_identity(saved, path.stat().st_size))
        crops = identity_files.restore_crops(saved)
        photos = convert_photos([crop.reference_crop for crop in crops]) if crops else None
        return io.NodeOutput(
            identity_files.restore_id(saved),
            crops or None,
            identity_files.restore_reference(saved),
            photos,
            ui=ui.PreviewImage(photos, cls=cls) if photos is not None else None,
        )


def explain_identity(identity: str | None) -> str:
    """Say why an identity cannot be opened; nothing when it can, or is not known yet."""
    if identity is None or identity_files.locate_identity(identity) is not None:
        return ""
    if identity == NO_IDENTITY:
        return "No identity is saved yet: run Lynx Save Identity, or comfy-lynx bake, and press R to renew the list."
    return f"The identity {identity!r} is not under models/lynx/identities. Choose another one, or save it again."


class LynxCombineIdentities(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LynxCombineIdentities",
            display_name="Lynx Combine Identities",
            category=sockets.CATEGORY,
            description="Makes one LYNX_ID of several: the mean or weighted mean of one person's, a blend of two people, "
            "or a step along the axis between two ('older', 'thinner') applied to a third.",
            search_aliases=["average faces", "blend faces", "mix faces", "merge identities", "face morph"],
            inputs=[
                io.Combo.Input(
                    "mode",
                    options=["mean", "weighted", BLEND, AXIS],
                    default="mean",
                    tooltip="mean: of all; weighted: by weights; blend: id_1 to id_2 by amount; axis: id_1 moved by amount "
                    "along the way from id_2 to id_3.",
                ),
                sockets.FaceID.Input("id_1", tooltip="From Lynx Encode ID or Lynx Load Identity."),
                *(
                    sockets.FaceID.Input(
                        f"id_{i}", optional=True, tooltip="Another one, of the same recogniser."
                    )
                    for i in (2, 3, 4)
                ),
                io.Float.Input(
                    "amount",
                    default=0.5,
                    min=-2.0,
                    max=2.0,
                    step=0.05,
                    tooltip="For blend, 0 to 1: 0 is id_1, 1 is id_2. For axis, -2 to 2 times the way from id_2 to id_3.",
                ),
                io.String.Input(
                    "weights",
                    default="1, 1, 1, 1",
                    tooltip="For weighted: a number of 0 or more for each id, the first for id_1.",
                ),
            ],
            outputs=[sockets.FaceID.Output(display_name="id")],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    @raise_plainly
    def execute(
        cls,
        mode: str,
        id_1: FaceID,
        amount: float,
        weights: str,
        id_2: FaceID | None = None,
        id_3: FaceID | None = None,
        id_4: FaceID | None = None,
    ) -> io.NodeOutput:
        given = {n: face_id for n, face_id in enumerate((id_1, id_2, id_3, id_4), 1) if face_id is not None}
        ids = list(given.values())
        recognisers = sorted({face_id.recogniser for face_id in ids})
        if len(recognisers) > 1:
            raise ValueError(
                f"These identities come from different face recognisers ({', '.join(recognisers)}), whose numbers cannot "
                "be combined. Encode all of them with the same Lynx Load Face Analyzer."
            )
        needed = {BLEND: 2, AXIS: 3}.get(mode, 1)
        if len(ids) < needed:
            raise ValueError(f"mode {mode!r} needs {needed} identities, {len(ids)} are connected.")
        missing = [f"id_{n}" for n in range(1, needed + 1) if n not in given]
        if missing:
            raise ValueError(
                f"mode {mode!r} takes id_1 to id_{needed}, and {', '.join(missing)} is not connected: connect it."
            )
        embeddings = [face_id.embedding for face_id in ids]
        unused = [f"id_{n}" for n in given if mode in (BLEND, AXIS) and n > needed]
        warnings = (
            [f"{', '.join(unused)} does nothing: {mode!r} takes id_1 to id_{needed}."] if unused else []
        )
        if mode == BLEND:
            combined = blend_embeddings(embeddings[0], embeddings[1], amount)
        elif mode == AXIS:
            combined = move_along_axis(*embeddings[:3], amount)
        elif mode in get_args(CombineMethod):
            stacked = torch.stack(embeddings)
            warnings = [
                f"id_{list(given)[o.index]} is unlike the others (cosine {o.cosine:.2f}): does it show the same person?"
                for o in find_outliers(stacked)
            ]
            combined = combine_embeddings(stacked, mode, parse_weights(weights, list(given)))  # type: ignore[arg-type]
        else:
            raise ValueError(f"mode {mode!r} is none of mean, weighted, {BLEND}, {AXIS}")
        show_note(cls, f"{mode} of {len(ids) - len(unused)} identities", warnings=warnings)
        return io.NodeOutput(FaceID(combined, recognisers[0]))


def parse_weights(text: str, inputs: list[int]) -> list[float]:
    """Read a list such as '1, 0.5', whose first number is for id_1, and give those of the connected inputs.

    Raises:
        ValueError: when there are too few or too many, or one is no number.
    """
    parts = [part.strip() for part in text.split(",") if part.strip()]
    try:
        numbers = [float(part) for part in parts]
    except ValueError as error:
        raise ValueError(f"weights {text!r}: write a number for each identity, such as '1, 0.5'") from error
    if not inputs[-1] <= len(numbers) <= MAX_IDENTITIES:
        raise ValueError(
            f"weights {text!r} holds {len(numbers)} numbers for id_1 to id_{inputs[-1]}: give one for each, also where "
            "an input between them is not connected."
        )
    return [numbers[number - 1] for number in inputs]
