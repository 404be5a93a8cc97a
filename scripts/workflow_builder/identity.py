"""Lynx identity: the parts of a person as a subgraph, photo in; model, positive, negative, middle out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from presets import PRESETS

from . import notes
from .boxes import Node, Output, column, row
from .graph import Graph, Subgraph
from .node_types import NODE_TYPES
from .parts import load_lynx

SCENES = {
    "scene": ("scene", "IMAGE"),
    "control": ("control_video", "VIDEO"),
    "start": ("start_image", "IMAGE"),
}
"""What a video is made of beside the person -> the input for it, and its type."""
FRAME_MAKERS = ("GetVideoComponents", "WanVaceToVideo", "WanImageToVideo")


def make_identity(
    name: str = "Lynx identity",
    adapter: str | None = "lynx_full",
    with_mask: bool = False,
    frames: str = "",
    picture_height: int = 220,
    gives_id: bool = False,
) -> Subgraph:
    """Make the subgraph.

    Args:
        adapter: what to load inside; None takes adapter and face models from outside.
        with_mask: take a mask that says where the person is.
        frames: what makes conditionings and latent of a picture or video: "scene", "control" or "start".
        picture_height: room for the face that was found, on the node.
        gives_id: give the ID out, too, to measure with.
    """
    inside = Graph(NODE_TYPES)
    photo = inside.take("photo", "IMAGE")
    scene = inside.take(*SCENES[frames]) if frames else None
    base = {of.lower(): inside.take(of.lower(), of) for of in ("MODEL", "CLIP", "VAE")}
    texts = [inside.take(name, "CONDITIONING") for name in ("positive", "negative")]
    lynx, loaded = take_lynx(inside, adapter)
    mask = inside.take("mask", "MASK", optional=True) if with_mask else None
    person = encode_person(inside, photo, loaded, base)
    video = make_frames(inside, frames, texts, base["vae"], scene) if scene else None
    if video:
        texts = [video["positive"], video["negative"]]
    has_trim = frames in ("scene", "control")
    trim = video["trim_latent"] if video and has_trim else 0
    applied = apply_person(inside, person, loaded[0], base["model"], texts, mask, trim)
    seen, note = preview_crops(inside, person[0]), inside.note("About the photo", notes.PHOTO, width=400)
    given = {"id": person[1]["id"]} if gives_id else {}
    for name in ("trim_latent", "latent") if has_trim else ("latent",) if video else ():
        given[name] = video[name]  # type: ignore[index]
    for output, source in given.items():
        inside.give(output, source)
    for output in ("MODEL", "positive", "negative", "middle"):
        inside.give(output, applied[output])
    for widget in ("id_strength", "ref_strength"):
        inside.promote(applied, widget)
    for widget in ("width", "height", "length") if video else ():
        inside.promote(video, widget)  # type: ignore[arg-type]
    layout = row(
        column(*lynx, note, gap=40),
        person[0],
        column(*person[1:], gap=40),
        *(node for node in inside.nodes if node.type in FRAME_MAKERS),
        column(applied, row(*seen, gap=30), gap=40),
    )
    return Subgraph(
        name,
        inside,
        layout,
        description="Puts the person in a photo on a Wan model: face crop, ID, reference, Lynx Apply.",
        preview=person[0].id,
        picture_height=picture_height,
    )


def take_lynx(inside: Graph, adapter: str | None) -> tuple[list[Node], tuple[Output, Output]]:
    """Adapter and face analyzer, loaded inside (the nodes, and what they give) or taken from outside."""
    if adapter is None:
        taken = inside.take("adapter", "LYNX_ADAPTER"), inside.take("face_analyzer", "LYNX_FACE_ANALYZER")
        return [], taken
    lynx = load_lynx(inside, adapter)
    return lynx, (lynx[0]["adapter"], lynx[1]["face_analyzer"])


def encode_person(
    inside: Graph, photo: Output, loaded: tuple[Output, Output], base: dict[str, Output], title: str = ""
) -> tuple[Node, Node, Node]:
    """Crop, ID and reference of a photo.

    Args:
        loaded: adapter and face analyzer.
        base: model, clip and vae.
    """
    adapter, analyzer = loaded
    of = f" ({title})" if title else ""
    crop = inside.add(
        "LynxCropFace",
        title=f"Lynx Crop Face{of}" if title else None,
        image=photo,
        face_analyzer=analyzer,
        order="largest",
        face_number=1,
        already_aligned=False,
    )
    face_id = inside.add("LynxEncodeID", face_analyzer=analyzer, face=crop["face"])
    reference = inside.add("LynxEncodeReference", adapter=adapter, face=crop["face"], photo_number=1, **base)
    return crop, face_id, reference


def apply_person(
    inside: Graph,
    person: tuple[Node, Node, Node],
    adapter: Output,
    model: Output,
    texts: Sequence[Output],
    mask: Output | None = None,
    vace_reference_frames: Output | int = 0,
    title: str | None = None,
) -> Node:
    """A LynxApply with the strengths of the release; "custom", because a promoted strength is an edit."""
    _, face_id, reference = person
    return inside.add(
        "LynxApply",
        title=title,
        model=model,
        positive=texts[0],
        negative=texts[1],
        adapter=adapter,
        id=face_id["id"],
        reference=reference["reference"],
        mask=mask,
        vace_reference_frames=vace_reference_frames,
        preset="custom",
        **PRESETS["as published"].list_widgets(),
    )


def preview_crops(inside: Graph, crop: Node) -> list[Node]:
    sights = {"id_crop": "What the ID sees (112 px)", "reference_crop": "What the reference sees (256 px)"}
    return [inside.add("PreviewImage", title=title, images=crop[name]) for name, title in sights.items()]


def make_frames(inside: Graph, kind: str, texts: Sequence[Output], vae: Output, scene: Output) -> Node:
    """The node that turns a picture or a control video into conditionings and a latent."""
    size = {"width": 832, "height": 480, "length": 81, "batch_size": 1}
    positive, negative = texts
    if kind == "start":
        return inside.add(
            "WanImageToVideo", positive=positive, negative=negative, vae=vae, start_image=scene, **size
        )
    if kind == "control":
        scene = inside.add("GetVideoComponents", video=scene)["images"]
    pictures = {"scene": "reference_image", "control": "control_video"}
    return inside.add(
        "WanVaceToVideo",
        positive=positive, negative=negative, vae=vae, strength=1.0, **{pictures[kind]: scene}, **size,
    )  # fmt: skip


def put_identity(g: Graph, identity: Subgraph, loaded: Node, model: str = "MODEL", **inputs: Any) -> Node:
    """A node of an identity subgraph on prompt and models."""
    taken = {
        name: loaded[name] for name in ("positive", "negative", "adapter", "face_analyzer")
        if any(slot["name"] == name for slot in identity.graph.entry.outputs)
    }  # fmt: skip
    return g.add_subgraph(
        identity, **{"model": loaded[model], "clip": loaded["CLIP"], "vae": loaded["VAE"]} | taken | inputs
    )
