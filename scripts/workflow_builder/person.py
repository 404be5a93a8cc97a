"""The workflows of one photo and one prompt: Lynx Person and Lynx Sampler."""

from __future__ import annotations

from . import notes
from .boxes import Json
from .graph import Graph
from .node_types import DISTILLED_LORA, NODE_TYPES, T2V
from .parts import (
    Models,
    arrange,
    decode_and_save,
    empty_latent,
    load_photo,
    load_prompt_and_models,
    put_person,
    sample,
    write_notes,
)

MIX = {"resampler": "lynx_lite", "id_layers": "lynx_lite", "ref_layers": "lynx_full"}
"""What people use with a distilled LoRA: who it is from lite, what it looks like from full."""


def build_full() -> Json:
    g = Graph(NODE_TYPES)
    loaded = load_prompt_and_models(g, Models("lynx_full", [T2V]))
    photo = load_photo(g)
    person = put_person(g, loaded, photo["IMAGE"], "lynx_full", "as published")
    latent = empty_latent(g, length=81)
    sampled = sample(g, person, latent["LATENT"])
    shown = decode_and_save(g, sampled["LATENT"], loaded["VAE"], 16.0, "lynx_full")
    help = write_notes(
        g, ("Your first video", notes.START), ("Strengths", notes.PERSON), ("Two guidances", notes.GUIDANCE)
    )
    return g.to_json("lynx_full", arrange([loaded, photo], [person, latent], [sampled], shown, help))


def build_lite() -> Json:
    g = Graph(NODE_TYPES)
    loaded = load_prompt_and_models(g, Models("lynx_lite", [T2V]))
    photo = load_photo(g)
    person = put_person(g, loaded, photo["IMAGE"], "lynx_lite", "as published")
    latent = empty_latent(g, length=121)
    # No middle prediction: identity_cfg is cfg.
    sampled = sample(g, person, latent["LATENT"], identity_cfg=5.0)
    shown = decode_and_save(g, sampled["LATENT"], loaded["VAE"], 24.0, "lynx_lite")
    help = write_notes(
        g, ("Your first video", notes.START), ("Lite", notes.LITE), ("When it goes wrong", notes.TROUBLE)
    )
    return g.to_json("lynx_lite", arrange([loaded, photo], [person, latent], [sampled], shown, help))


def build_fast() -> Json:
    g = Graph(NODE_TYPES)
    loaded = load_prompt_and_models(g, Models(MIX, [T2V], DISTILLED_LORA))
    photo = load_photo(g)
    person = put_person(
        g,
        loaded,
        photo["IMAGE"],
        "lynx_full",
        "lite ID + full reference",
        reference_model=loaded["reference_model"],
    )
    latent = empty_latent(g, length=81)
    sampled = sample(g, person, latent["LATENT"], cfg=1.0, identity_cfg=1.0, steps=6, sampler_name="lcm")
    shown = decode_and_save(g, sampled["LATENT"], loaded["VAE"], 16.0, "lynx_fast")
    help = write_notes(
        g, ("Your first video", notes.START), ("Six steps", notes.FAST), ("When it goes wrong", notes.TROUBLE)
    )
    return g.to_json("lynx_fast", arrange([loaded, photo], [person, latent], [sampled], shown, help))
