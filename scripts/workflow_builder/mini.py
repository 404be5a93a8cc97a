"""The workflow of Mini Lynx, which runs on the files that come with the pack."""

from __future__ import annotations

from . import notes
from .graph import Graph, Json, column, row
from .node_types import NODE_TYPES
from .parts import (
    FaceModels,
    Start,
    apply_lynx,
    arrange,
    build_face,
    build_prompt,
    build_video,
    empty_latent,
    encode_reference,
    guide,
)

EXAMPLE_PHOTO = "lynx_mini_example.png"
PROMPT = "a person smiles on a beach in warm light"
FACES = FaceModels("lynx_mini", "lynx_mini_arcface.safetensors", notes.MINI_PHOTO)
SIDE_PX, NUM_FRAMES, FPS = 64, 9, 8.0


def build_mini() -> Json:
    g = Graph(NODE_TYPES)
    start = _load(g)
    shift = g.add("ModelSamplingSD3", model=start.models[0]["MODEL"], shift=5.0)
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
    return g.to_json(
        "lynx_mini",
        arrange(
            models=row(column(*start.loaders), column(shift, start.files)),
            prompt=column(*start.texts),
            face=start.face,
            identity=row(reference, applied),
            sampling=row(latent, sampled),
            video=build_video(g, sampled["LATENT"], start.vae, FPS, "lynx_mini"),
            help=row(
                g.note("What this is", notes.MINI_WORLD, width=440),
                g.note("What to try", notes.MINI_TRY, width=400),
            ),
        ),
    )


def _load(g: Graph) -> Start:
    model = g.add("UNETLoader", unet_name="lynx_mini_wan_t2v.safetensors", weight_dtype="default")
    clip = g.add("CLIPLoader", clip_name="lynx_mini_umt5.safetensors", type="wan", device="default")
    vae = g.add("VAELoader", vae_name="lynx_mini_vae.safetensors")
    parts = dict.fromkeys(("resampler", "id_layers", "ref_layers"), "none")
    adapter = g.add("LynxLoadAdapter", adapter="lynx_mini.safetensors", **parts)
    crop, face_id, face = build_face(g, models=FACES, photo_name=EXAMPLE_PHOTO)
    return Start(
        models=[model],
        clip=clip,
        vae=vae,
        adapter=adapter,
        files=g.note("Where the files are", notes.MINI_FILES),
        texts=build_prompt(g, clip, PROMPT, negative_prompt=""),
        crop=crop,
        face_id=face_id,
        face=face,
    )
