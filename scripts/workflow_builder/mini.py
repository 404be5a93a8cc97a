"""The workflow of Mini Lynx, which runs on the files that come with the pack."""

from __future__ import annotations

from . import notes
from .graph import Graph, Group, Json, Node, column, row
from .node_types import NODE_TYPES
from .parts import (
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    PURPLE,
    VIOLET,
    Start,
    apply_lynx,
    build_prompt,
    build_video,
    crop_face,
    empty_latent,
    encode_reference,
    guide,
)

PROMPT = "a person smiles on a beach in warm light"
SIDE_PX, NUM_FRAMES, FPS = 64, 9, 8.0


def build_mini() -> Json:
    g = Graph(NODE_TYPES)
    mini = g.add("LynxLoadMini")
    start = _start(g, mini)
    shift = g.add("ModelSamplingSD3", model=mini["MODEL"], shift=5.0)
    reference = encode_reference(g, start, shift["MODEL"])
    applied = apply_lynx(g, start, shift["MODEL"], reference)
    latent = empty_latent(g, NUM_FRAMES, SIDE_PX, SIDE_PX)
    sampled = guide(
        g,
        "LynxSampler",
        applied,
        latent_image=latent["LATENT"],
        cfg=3.0,
        identity_cfg=3.0,
        seed=0,
        steps=20,
        sampler_name="euler",
        scheduler="simple",
        denoise=1.0,
    )
    path = row(
        Group("1 Mini Lynx", BLUE, row(mini, shift)),
        column(start.face, Group("3 Prompt", GREEN, row(*start.texts))),
        Group("4 Identity", PURPLE, row(reference, applied)),
        Group("5 Sampling", VIOLET, row(latent, sampled)),
        build_video(g, sampled["LATENT"], mini, FPS, "lynx_mini"),
    )
    help = row(
        g.note("What this is", notes.MINI_WORLD, width=440), g.note("What to try", notes.MINI_TRY, width=400)
    )
    return g.to_json("lynx_mini", column(path, Group("Notes", GREY, help), gap=40))


def _start(g: Graph, mini: Node) -> Start:
    crop, face_id = crop_face(g, mini["example"], mini["face_analyzer"])
    return Start(
        models=[mini],
        clip=mini,
        vae=mini,
        adapter=mini,
        texts=build_prompt(g, mini, PROMPT, negative_prompt=""),
        crop=crop,
        face_id=face_id,
        face=Group("2 Face", ORANGE, row(crop, face_id)),
    )
