"""Subgraphs that come with the pack: the editor lists them among the nodes."""

from __future__ import annotations

from .boxes import Json, row
from .graph import Graph, Subgraph
from .identity import make_identity
from .node_types import NODE_TYPES
from .parts import load_face_analyzer


def build_identity_blueprint() -> Json:
    return build_blueprint(make_identity(with_mask=True))


def build_likeness_blueprint() -> Json:
    return build_blueprint(make_likeness())


def build_blueprint(subgraph: Subgraph) -> Json:
    """A file with the subgraph and one node of it, which is what the editor saves."""
    g = Graph(NODE_TYPES)
    node = g.add_subgraph(subgraph)
    return g.to_json(f"blueprint/{subgraph.name}", node)


def make_likeness() -> Subgraph:
    """Frames and photo in; scores, plot and contact sheet out."""
    inside = Graph(NODE_TYPES)
    frames, photo = inside.take("frames", "IMAGE"), inside.take("photo", "IMAGE")
    analyzer = load_face_analyzer(inside)
    measured = inside.add(
        "LynxFaceSimilarity",
        images=frames,
        face_analyzer=analyzer["face_analyzer"],
        reference=photo,
        window=0,
    )
    seen = [
        inside.add("PreviewImage", title=title, images=measured[name])
        for title, name in (("Likeness of each frame", "plot"), ("Faces", "contact_sheet"))
    ]
    for output in measured.outputs:
        inside.give(output["name"], measured[output["name"]])
    inside.promote(analyzer, "encoder", "recogniser")
    return Subgraph(
        "Lynx likeness",
        inside,
        row(analyzer, measured, *seen),
        description="Measures how alike the person in a video is to a photo, frame by frame.",
        preview=seen[0].id,
        picture_height=220,
    )
