"""Workflows of many frames and of many videos: a long take with drift measured, and a grid of strengths."""

from __future__ import annotations

from . import notes
from .boxes import Json, column, row
from .graph import Graph, Subgraph
from .identity import make_identity, put_identity
from .node_types import DISTILLED_LORA, ENCODER, NODE_TYPES, T2V
from .parts import (
    Models,
    arrange,
    empty_latent,
    load_photo,
    load_prompt_and_models,
    sample,
    save_video,
    write_notes,
)
from .person import MIX

WINDOW, OVERLAP, LONG_LENGTH = 81, 30, 241
LIKENESS_LANE = 90
SWEEP_LANE = 125
"""Room for the links of the VAE, of label and of columns."""
SWEEP_LENGTH = 33


def build_long() -> Json:
    g = Graph(NODE_TYPES)
    loaded = load_prompt_and_models(g, Models("lynx_full", [T2V], window=(WINDOW, OVERLAP)), with_lynx=False)
    photo = load_photo(g)
    identity = put_identity(g, make_identity(gives_id=True), loaded, photo=photo["IMAGE"])
    latent = empty_latent(g, length=LONG_LENGTH)
    sampled = sample(g, identity, latent["LATENT"])
    video = g.add_subgraph(
        make_measured_video(), vae=loaded["VAE"], id=identity["id"], samples=sampled["LATENT"]
    )
    shown = [video, save_video(g, video["VIDEO"], "lynx_long")]
    help = write_notes(
        g, ("Your first video", notes.START), ("A long take", notes.LONG), ("Strengths", notes.IDENTITY)
    )
    layout = arrange([loaded, photo], [identity, latent], [sampled], shown, help, LIKENESS_LANE)
    return g.to_json("lynx_long", layout)


def make_measured_video() -> Subgraph:
    """Decode, frame rate, and the likeness of each window."""
    inside = Graph(NODE_TYPES)
    vae, face_id = inside.take("vae", "VAE"), inside.take("id", "LYNX_ID")
    samples = inside.take("samples", "LATENT")
    analyzer = inside.add(
        "LynxLoadFaceAnalyzer", models=[ENCODER], detector_pack="buffalo_l", encoder=ENCODER["name"],
        provider="CPU",
    )  # fmt: skip
    decoded = inside.add("VAEDecode", samples=samples, vae=vae)
    measured = inside.add(
        "LynxFaceSimilarity", images=decoded["IMAGE"], face_analyzer=analyzer["face_analyzer"], id=face_id,
        window=WINDOW,
    )  # fmt: skip
    created = inside.add("CreateVideo", images=decoded["IMAGE"], fps=16.0)
    seen = [
        inside.add("PreviewImage", title=title, images=measured[name])
        for title, name in (("Likeness of each frame", "plot"), ("Faces", "contact_sheet"))
    ]
    inside.give("VIDEO", created["VIDEO"])
    inside.give("likeness", measured["mean_all"])
    inside.promote(created, "fps")
    inside.promote(measured, "window", "measured_window")
    layout = row(column(decoded, analyzer), column(measured, created), column(*seen))
    return Subgraph(
        "Video and likeness", inside, layout, width=260, preview=seen[0].id, picture_height=130,
        description="Decodes the latent and measures the likeness of each window.",
    )  # fmt: skip


def build_sweep() -> Json:
    g = Graph(NODE_TYPES)
    loaded = load_prompt_and_models(g, Models(MIX, [T2V], DISTILLED_LORA))
    photo = load_photo(g)
    person = g.add_subgraph(
        make_compared_person(),
        image=photo["IMAGE"],
        **{name: loaded[name.upper()] for name in ("model", "clip", "vae")},
        **{
            name: loaded[name]
            for name in ("positive", "negative", "adapter", "face_analyzer", "reference_model")
        },
    )
    latent = empty_latent(g, SWEEP_LENGTH, 480, 480)
    sampled = sample(g, person, latent["LATENT"], cfg=1.0, identity_cfg=1.0, steps=6, sampler_name="lcm")
    grid = g.add_subgraph(
        make_grid(),
        vae=loaded["VAE"],
        label=person["label"],
        samples=sampled["LATENT"],
        columns=person["columns"],
    )
    shown = [grid, save_video(g, grid["VIDEO"], "lynx_sweep")]
    help = write_notes(
        g,
        ("Compare strengths", notes.SWEEP),
        ("Strengths", notes.PERSON),
        ("When it goes wrong", notes.TROUBLE),
    )
    layout = arrange([loaded, photo], [person, latent], [sampled], shown, help, SWEEP_LANE)
    return g.to_json("lynx_sweep", layout)


def make_compared_person() -> Subgraph:
    """A Lynx Person once for each pair of strengths."""
    inside = Graph(NODE_TYPES)
    image = inside.take("image", "IMAGE")
    base = {of.lower(): inside.take(of.lower(), of) for of in ("MODEL", "CLIP", "VAE")}
    texts = {name: inside.take(name, "CONDITIONING") for name in ("positive", "negative")}
    loaded = inside.take("adapter", "LYNX_ADAPTER"), inside.take("face_analyzer", "LYNX_FACE_ANALYZER")
    before_lora = inside.take("reference_model", "MODEL")
    strengths = inside.add("LynxSweep", id_strengths="0, 0.5, 1", ref_strengths="0, 0.5, 1")
    person = inside.add(
        "LynxPerson", image=image, **base, **texts, loaded_adapter=loaded[0], face_analyzer=loaded[1],
        reference_model=before_lora, adapter="lynx_full", preset="as published",
        id_strength=strengths["id_strength"], ref_strength=strengths["ref_strength"],
    )  # fmt: skip
    for name in ("columns", "label"):
        inside.give(name, strengths[name])
    for output in ("MODEL", "positive", "negative", "middle"):
        inside.give(output, person[output])
    for widget in ("id_strengths", "ref_strengths"):
        inside.promote(strengths, widget)
    inside.promote(person, "preset")
    return Subgraph(
        "Strengths to compare", inside, row(strengths, person), preview=person.id, picture_height=180,
        description="Puts the person on the model once for each pair of strengths.",
    )  # fmt: skip


def make_grid() -> Subgraph:
    inside = Graph(NODE_TYPES)
    vae, label = inside.take("vae", "VAE"), inside.take("label", "STRING")
    samples = inside.take("samples", "LATENT")
    decoded = inside.add("VAEDecode", samples=samples, vae=vae)
    grid = inside.add("LynxSweepGrid", images=decoded["IMAGE"], label=label, columns=3)
    created = inside.add("CreateVideo", images=grid["IMAGE"], fps=16.0)
    inside.give("VIDEO", created["VIDEO"])
    inside.promote(grid, "columns")
    inside.promote(created, "fps")
    return Subgraph(
        "Grid of videos",
        inside,
        row(decoded, grid, created),
        width=220,
        description="Lays the videos side by side.",
    )
