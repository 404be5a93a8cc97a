"""Nodes that turn a photo into a face crop, an ID and a reference."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from comfy_api.latest import io, ui

from ..lynx_core.faces.analyzer import FaceAnalyzer, average_embeddings, min_pairwise_cosine
from ..lynx_core.faces.combination import SAME_PERSON_COSINE
from ..lynx_core.faces.crops import FaceCrop, crop_aligned, crop_face
from ..lynx_core.faces.detection import FACE_ORDERS
from ..lynx_core.faces.photo import convert_image, convert_photos
from ..lynx_core.formats.adapter import Adapter
from . import sockets
from .host.identity import FaceID
from .host.messages import raise_plainly, show_note
from .host.reference_pass import encode_reference

ONE_PHOTO, SIDE_BY_SIDE = "photo_number alone", "all side by side"
MAX_SIDE_BY_SIDE = 8
"""Of photos in one reference: 8 times 118 MB for Wan 14B."""


class LynxCropFace(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LynxCropFace",
            display_name="Lynx Crop Face",
            category=sockets.CATEGORY,
            description="Finds the face in a photo and crops it exactly as the adapter expects: 112 px for the ID "
            "embedding, 256 px for the reference. Several photos of one person go in as a batch.",
            search_aliases=["face crop", "align face", "face detection", "insightface"],
            inputs=[
                io.Image.Input(
                    "image", tooltip="Photo of the person, or a batch of photos of the same person."
                ),
                sockets.FaceAnalyzer.Input(
                    "face_analyzer", optional=True, tooltip="Not needed when the photo is already aligned."
                ),
                io.Combo.Input(
                    "order",
                    options=list(FACE_ORDERS),
                    default="largest",
                    advanced=True,
                    tooltip="How the faces of a photo are numbered. The preview shows the numbers.",
                ),
                io.Int.Input(
                    "face_number",
                    default=1,
                    min=1,
                    max=64,
                    tooltip="Which face in that order, 1 to 64; 1 is the first.",
                ),
                io.Boolean.Input(
                    "already_aligned",
                    default=False,
                    tooltip="The image is a ready, square, aligned face crop (such as this node's 256 px output): "
                    "no detection, only scaling.",
                ),
            ],
            outputs=[
                sockets.Face.Output(display_name="face"),
                io.Image.Output(display_name="id_crop", tooltip="What the ID embedding sees, 112 x 112 px."),
                io.Image.Output(
                    display_name="reference_crop", tooltip="What the reference sees, 256 x 256 px."
                ),
                io.Image.Output(display_name="annotated", tooltip="The photo with the numbered faces."),
            ],
            hidden=[io.Hidden.unique_id],
            # The preview shows whenever the node is in a queued graph, and the crop can be queued alone.
            is_output_node=True,
        )

    @classmethod
    @raise_plainly
    def execute(
        cls,
        image: torch.Tensor,
        order: str,
        face_number: int,
        already_aligned: bool,
        face_analyzer: FaceAnalyzer | None = None,
    ) -> io.NodeOutput:
        if already_aligned:
            photos = label_photos(image)
            crops, annotated = [crop_aligned(*pair) for pair in photos], [photo for photo, _ in photos]
        elif face_analyzer is None:
            raise ValueError(
                "Lynx Crop Face needs a face analyzer to find the face: connect Lynx Load Face Analyzer, or switch on "
                "'already_aligned' if the image is a ready face crop."
            )
        else:
            crops, annotated = find_crops(image, face_analyzer, order, face_number)
        warnings = [warning for crop in crops for warning in crop.warnings]
        if already_aligned and (order, face_number) != (FACE_ORDERS[0], 1):
            warnings.append("order and face_number do nothing while already_aligned is on")
        show_note(cls, warnings=warnings)
        annotated_batch = convert_photos(annotated)
        return io.NodeOutput(
            crops,
            convert_photos([crop.id_crop for crop in crops]),
            convert_photos([crop.reference_crop for crop in crops]),
            annotated_batch,
            ui=ui.PreviewImage(annotated_batch, cls=cls),
        )


def label_photos(image: torch.Tensor) -> list[tuple[np.ndarray, str]]:
    """Give each photo of an IMAGE, [height, width, 3] uint8 RGB, with what messages call it.

    Raises:
        FaceError: when the IMAGE is none.
    """
    photos = convert_image(image)
    if len(photos) == 1:
        return [(photos[0], "the photo")]
    return [(photo, f"photo {i} of {len(photos)}") for i, photo in enumerate(photos, 1)]


def find_crops(
    image: torch.Tensor, analyzer: FaceAnalyzer, order: str, face_number: int
) -> tuple[list[FaceCrop], list[np.ndarray]]:
    """Crop one face of each photo; gives the photos with their numbered faces, too.

    Raises:
        FaceError: when a photo does not hold that face, or the detector does not open.
    """
    found = [
        crop_face(photo, analyzer.detector, order, face_number - 1, label)
        for photo, label in label_photos(image)
    ]
    return [crop for crop, _ in found], [annotated for _, annotated in found]


def encode_id(analyzer: FaceAnalyzer, crops: list[FaceCrop]) -> tuple[FaceID, list[str]]:
    """Average the embeddings of one person's photos; gives a warning where two of them are unlike.

    Raises:
        FaceError: when the recogniser does not open, or the photos cancel out.
    """
    recogniser = analyzer.recogniser
    embeddings = recogniser.embed([crop.id_crop for crop in crops])
    likeness = min_pairwise_cosine(embeddings)
    warnings = []
    if likeness < SAME_PERSON_COSINE:
        warnings.append(
            f"Two of these {len(crops)} photos differ much (cosine {likeness:.2f}): do all show the same person?"
        )
    return FaceID(average_embeddings(embeddings), recogniser.name), warnings


class LynxEncodeID(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        more = [
            sockets.Face.Input(
                f"face_{i}", optional=True, tooltip="Another photo of the same person, averaged in."
            )
            for i in (2, 3, 4)
        ]
        return io.Schema(
            node_id="LynxEncodeID",
            display_name="Lynx Encode ID",
            category=sockets.CATEGORY,
            description="Computes the face embedding, which says who the person is. Several photos of one person are "
            "averaged, which steadies the likeness.",
            search_aliases=[
                "face embedding",
                "arcface",
                "identity",
                "instantid",
                "pulid",
                "faceid",
                "likeness",
            ],
            inputs=[
                sockets.FaceAnalyzer.Input(
                    "face_analyzer", tooltip="Its recogniser must be the one that the adapter was trained on."
                ),
                sockets.Face.Input(
                    "face", tooltip="From Lynx Crop Face; one photo or a batch of one person."
                ),
                *more,
            ],
            outputs=[sockets.FaceID.Output(display_name="id")],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    @raise_plainly
    def execute(
        cls,
        face_analyzer: FaceAnalyzer,
        face: list[FaceCrop],
        face_2: list[FaceCrop] | None = None,
        face_3: list[FaceCrop] | None = None,
        face_4: list[FaceCrop] | None = None,
    ) -> io.NodeOutput:
        crops = [crop for faces in (face, face_2, face_3, face_4) if faces for crop in faces]
        face_id, warnings = encode_id(face_analyzer, crops)
        show_note(cls, warnings=warnings)
        return io.NodeOutput(face_id)


class LynxEncodeReference(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LynxEncodeReference",
            display_name="Lynx Encode Reference",
            category=sockets.CATEGORY,
            description="Runs the base model on the 256 px face crop and caches each block's keys and values. Load LoRAs "
            "of character and style before this node, and distilled ones behind it. Each expert of Wan 2.2 needs its own.",
            search_aliases=["reference features", "ref adapter", "face reference"],
            inputs=[
                sockets.Adapter.Input("adapter", tooltip="An adapter with reference layers (lynx_full)."),
                sockets.Face.Input("face", tooltip="From Lynx Crop Face."),
                io.Model.Input(
                    "model",
                    tooltip="The model that will be sampled, with its LoRAs of character and style on, without a distilled "
                    "one.",
                ),
                io.Clip.Input(
                    "clip", tooltip="umt5_xxl, type wan; it encodes the fixed text 'image of a face'."
                ),
                io.Vae.Input("vae", tooltip="wan_2.1_vae"),
                io.Int.Input(
                    "photo_number",
                    default=1,
                    min=1,
                    max=64,
                    tooltip="Which photo of a batch is the reference, 1 to 64.",
                ),
                io.Combo.Input(
                    "photos",
                    options=[ONE_PHOTO, SIDE_BY_SIDE],
                    default=ONE_PHOTO,
                    optional=True,
                    advanced=True,
                    tooltip="Of a batch: the photo of photo_number, or all of them, their tokens side by side (at most "
                    f"{MAX_SIDE_BY_SIDE}; the published adapter was trained on one).",
                ),
            ],
            outputs=[sockets.Reference.Output(display_name="reference")],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    @raise_plainly
    def execute(
        cls,
        adapter: Adapter,
        face: list[FaceCrop],
        model: Any,
        clip: Any,
        vae: Any,
        photo_number: int,
        photos: str = ONE_PHOTO,
    ) -> io.NodeOutput:
        chosen = choose_photos(face, photo_number, photos)
        crops = convert_photos([crop.reference_crop for crop in chosen])
        reference = encode_reference(model, adapter, clip, vae, crops)
        kept_mb = (reference.face.kv_cache.count_bytes() + reference.null.kv_cache.count_bytes()) / 1e6
        count = f"{len(chosen)} photos side by side, precomputed" if len(chosen) > 1 else "Precomputed"
        idle = photos == SIDE_BY_SIDE and photo_number != 1
        show_note(
            cls,
            f"{count} through {reference.base.name}: {kept_mb:.1f} MB with its null identity.",
            warnings=[f"photo_number does nothing while photos is {SIDE_BY_SIDE!r}."] if idle else [],
        )
        return io.NodeOutput(reference)


def choose_photos(face: list[FaceCrop], photo_number: int, photos: str) -> list[FaceCrop]:
    """Choose the crops that become the reference.

    Raises:
        ValueError: when there is no such photo, or there are too many.
    """
    if photos not in (ONE_PHOTO, SIDE_BY_SIDE):
        raise ValueError(f"photos {photos!r} is none of: {ONE_PHOTO}, {SIDE_BY_SIDE}")
    if photos == SIDE_BY_SIDE:
        if len(face) > MAX_SIDE_BY_SIDE:
            raise ValueError(
                f"{len(face)} photos are connected to face; at most {MAX_SIDE_BY_SIDE} stand side by side. Take fewer "
                f"photos, or set photos to {ONE_PHOTO!r}."
            )
        return face
    if not 1 <= photo_number <= len(face):
        count = (
            "is only 1 photo; its number is 1"
            if len(face) == 1
            else f"are {len(face)} photos; choose 1 to {len(face)}"
        )
        raise ValueError(f"photo_number is {photo_number}, but in what is connected to face there {count}.")
    return [face[photo_number - 1]]
