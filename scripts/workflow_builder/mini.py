"""The workflow of Mini Lynx, which runs on the files that come with the pack."""

from __future__ import annotations

from . import notes
from .boxes import Json, Node, column, row
from .graph import Graph, Subgraph
from .identity import make_identity, put_identity
from .node_types import NODE_TYPES
from .parts import (
    arrange,
    decode_and_save,
    empty_latent,
    give_text_and_lynx,
    sample,
    write_notes,
    write_prompts,
)

PROMPT = "a person smiles on a beach in warm light"
SIDE_PX, NUM_FRAMES, FPS = 64, 9, 8.0


def build_mini() -> Json:
    g = Graph(NODE_TYPES)
    mini = load_mini(g)
    identity = put_identity(g, make_identity("Lynx identity", adapter=None), mini, photo=mini["example"])
    latent = empty_latent(g, NUM_FRAMES, SIDE_PX, SIDE_PX)
    sampled = sample_mini(g, identity, latent)
    shown = decode_and_save(g, sampled["LATENT"], mini["VAE"], FPS, "lynx_mini")
    help = write_notes(
        g,
        ("What to try", notes.MINI_TRY),
        ("Its words", notes.MINI_WORDS),
        ("What this is", notes.MINI_WORLD),
    )
    return g.to_json("lynx_mini", arrange([mini], [identity, latent], [sampled], shown, help))


def load_mini(g: Graph) -> Node:
    """Mini Lynx and the prompts in one node."""
    inside = Graph(NODE_TYPES)
    loaded = inside.add("LynxLoadMini")
    shift = inside.add("ModelSamplingSD3", model=loaded["MODEL"], shift=5.0)
    texts = write_prompts(inside, loaded["CLIP"], PROMPT, negative="")
    inside.give("VAE", loaded["VAE"])
    inside.give("MODEL", shift["MODEL"])
    give_text_and_lynx(inside, loaded["CLIP"], texts, ())
    for name in ("adapter", "face_analyzer", "example"):
        inside.give(name, loaded[name])
    layout = row(loaded, column(shift, *texts, gap=40))
    return g.add_subgraph(
        Subgraph(
            "Mini Lynx and prompt", inside, layout, width=400, description="Opens Mini Lynx, encodes prompts."
        )
    )


def sample_mini(g: Graph, identity: Node, latent: Node, title: str | None = None) -> Node:
    return sample(
        g, identity, latent["LATENT"], title, cfg=3.0, identity_cfg=3.0, steps=20, sampler_name="euler"
    )
