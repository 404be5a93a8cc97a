"""The workflows in which VACE brings a scene or a motion, and Lynx the person."""

from __future__ import annotations

from . import notes
from .boxes import Json
from .graph import Graph
from .identity import make_identity, put_identity
from .node_types import NODE_TYPES, VACE
from .parts import (
    LOW_PROMPT_HEIGHTS,
    Models,
    arrange,
    decode_and_save,
    load_photo,
    load_prompt_and_models,
    sample,
    write_notes,
)

LOW_LANE = 105
"""Room for the links of the VAE and of trim_latent."""
CONTROL_VIDEO = "lynx_motion.mp4"


def build_vace() -> Json:
    g = Graph(NODE_TYPES)
    loaded = load_prompt_and_models(
        g, Models("lynx_full", [VACE]), with_lynx=False, heights=LOW_PROMPT_HEIGHTS
    )
    photo = load_photo(g)
    scene = load_photo(g, title="Scene, object or outfit for VACE")
    identity = put_identity(
        g,
        make_identity("VACE and Lynx identity", frames="scene"),
        loaded,
        photo=photo["IMAGE"],
        scene=scene["IMAGE"],
    )
    sampled = sample(g, identity, identity["latent"])
    shown = decode_and_save(
        g, sampled["LATENT"], loaded["VAE"], 16.0, "lynx_vace", trim=identity["trim_latent"]
    )
    help = write_notes(
        g, ("Your first video", notes.START), ("What VACE adds", notes.VACE), ("Strengths", notes.IDENTITY)
    )
    return g.to_json(
        "lynx_vace", arrange([loaded, photo, scene], [identity], [sampled], shown, help, LOW_LANE)
    )


def build_motion() -> Json:
    g = Graph(NODE_TYPES)
    loaded = load_prompt_and_models(
        g, Models("lynx_full", [VACE]), with_lynx=False, heights=LOW_PROMPT_HEIGHTS
    )
    photo = load_photo(g)
    control = g.add("LoadVideo", title="Control video", file=CONTROL_VIDEO)
    identity = put_identity(
        g,
        make_identity("VACE and Lynx identity", frames="control"),
        loaded,
        photo=photo["IMAGE"],
        control_video=control["VIDEO"],
    )
    sampled = sample(g, identity, identity["latent"])
    shown = decode_and_save(
        g, sampled["LATENT"], loaded["VAE"], 16.0, "lynx_motion", trim=identity["trim_latent"]
    )
    help = write_notes(
        g, ("Your first video", notes.START), ("What drives", notes.MOTION), ("Strengths", notes.IDENTITY)
    )
    layout = arrange([loaded, photo, control], [identity], [sampled], shown, help, LOW_LANE)
    return g.to_json("lynx_motion", layout)
