"""The workflows in which VACE brings a scene or a motion, and Lynx the person."""

from __future__ import annotations

from collections.abc import Callable

from . import notes
from .boxes import Json, Node
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
    def bring(g: Graph) -> Node:
        return load_photo(g, title="Scene, object or outfit for VACE")

    return _build("lynx_vace", "scene", bring, {"scene": "IMAGE"}, ("What VACE adds", notes.VACE))


def build_motion() -> Json:
    def bring(g: Graph) -> Node:
        return g.add("LoadVideo", title="Control video", file=CONTROL_VIDEO)

    return _build("lynx_motion", "control", bring, {"control_video": "VIDEO"}, ("What drives", notes.MOTION))


def _build(
    name: str, frames: str, bring: Callable[[Graph], Node], links: dict[str, str], note: tuple[str, str]
) -> Json:
    """The graph round a node that brings something for VACE.

    Args:
        links: inputs of the identity's subgraph, to outputs of that node.
    """
    g = Graph(NODE_TYPES)
    loaded = load_prompt_and_models(
        g, Models("lynx_full", [VACE]), with_lynx=False, heights=LOW_PROMPT_HEIGHTS
    )
    photo, brought = load_photo(g), bring(g)
    identity = put_identity(
        g,
        make_identity("VACE and Lynx identity", frames=frames),
        loaded,
        photo=photo["IMAGE"],
        **{taken: brought[given] for taken, given in links.items()},
    )
    sampled = sample(g, identity, identity["latent"])
    shown = decode_and_save(g, sampled["LATENT"], loaded["VAE"], 16.0, name, trim=identity["trim_latent"])
    help = write_notes(g, ("Your first video", notes.START), note, ("Strengths", notes.IDENTITY))
    return g.to_json(name, arrange([loaded, photo, brought], [identity], [sampled], shown, help, LOW_LANE))
