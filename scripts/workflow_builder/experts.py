"""The workflows of Wan 2.2, whose two experts share a video: the first half of the steps and the second."""

from __future__ import annotations

from collections.abc import Sequence

from . import notes
from .boxes import Json, Node, Output, column, row
from .graph import Graph, Subgraph
from .identity import make_identity, put_identity
from .node_types import HIGH_NOISE, I2V_HIGH_NOISE, I2V_LOW_NOISE, LOW_NOISE, NODE_TYPES
from .parts import (
    Models,
    arrange,
    decode_and_save,
    load_photo,
    load_prompt_and_models,
    write_notes,
)

EXPERTS = ("high_noise", "low_noise")
CARRIED = ("MODEL", "positive", "negative", "middle")


def build_two_experts() -> Json:
    g = Graph(NODE_TYPES)
    models = Models("lynx_full", [HIGH_NOISE, LOW_NOISE], names=EXPERTS)
    loaded = load_prompt_and_models(g, models, with_lynx=False)
    photo = load_photo(g)
    subgraph = make_identity(picture_height=180)
    identities = [put_identity(g, subgraph, loaded, name, photo=photo["IMAGE"]) for name in EXPERTS]
    sampled, noise = sample_in_two_halves(g, identities)
    shown = decode_and_save(g, sampled["LATENT"], loaded["VAE"], 16.0, "lynx_wan22")
    help = write_notes(
        g,
        ("Your first video", notes.START),
        ("Two experts", notes.TWO_EXPERTS),
        ("Strengths", notes.IDENTITY),
    )
    name_experts(identities)
    layout = arrange([loaded, photo], [*identities, noise], [sampled], shown, help)
    return g.to_json("lynx_wan22_two_experts", layout)


def build_wan22_i2v() -> Json:
    g = Graph(NODE_TYPES)
    models = Models("lynx_full", [I2V_HIGH_NOISE, I2V_LOW_NOISE], names=EXPERTS)
    loaded = load_prompt_and_models(g, models, with_lynx=False)
    photo = load_photo(g, title="Start image and photo of the person")
    subgraph = make_identity("Start image and Lynx identity", frames="start", picture_height=100)
    identities = [
        put_identity(g, subgraph, loaded, name, photo=photo["IMAGE"], start_image=photo["IMAGE"])
        for name in EXPERTS
    ]
    sampled, noise = sample_in_two_halves(g, identities, identities[0]["latent"])
    shown = decode_and_save(g, sampled["LATENT"], loaded["VAE"], 16.0, "lynx_wan22_i2v")
    help = write_notes(
        g, ("Your first video", notes.START), ("Start image", notes.I2V), ("Two experts", notes.TWO_EXPERTS)
    )
    name_experts(identities)
    layout = arrange([loaded, photo], [*identities, noise], [sampled], shown, help)
    return g.to_json("lynx_wan22_i2v", layout)


def name_experts(identities: Sequence[Node]) -> None:
    for identity, name in zip(identities, EXPERTS, strict=True):
        identity.title = f"{identity.title} ({name.replace('_', ' ')})"


def sample_in_two_halves(
    g: Graph, identities: Sequence[Node], latent: Output | None = None
) -> tuple[Node, Node]:
    """The high-noise expert samples the first half, the low-noise expert the second.

    Args:
        latent: of the start image; None makes an empty one inside.

    Returns:
        The subgraph's node, and the one that makes the noise.
    """
    noise = g.add("RandomNoise", noise_seed=0)
    carried = {
        f"{expert}_{name.lower()}": identity[name]
        for expert, identity in zip(EXPERTS, identities, strict=True)
        for name in CARRIED
    }
    given = {"latent": latent} if latent else {}
    return g.add_subgraph(
        make_two_halves(latent is not None), noise=noise["NOISE"], **given, **carried
    ), noise


def make_two_halves(with_latent: bool) -> Subgraph:
    inside = Graph(NODE_TYPES)
    latent = inside.take("latent", "LATENT") if with_latent else None
    carried = [
        [
            inside.take(f"{expert}_{name.lower()}", "MODEL" if name == "MODEL" else "CONDITIONING")
            for name in CARRIED
        ]
        for expert in EXPERTS
    ]
    noise = inside.take("noise", "NOISE")
    no_noise = inside.add("DisableNoise", title="No new noise for the second half")
    sampler = inside.add("KSamplerSelect", sampler_name="euler")
    guiders = [
        inside.add(
            "LynxGuider", title=f"Lynx Guider ({expert})", model=model, positive=positive, negative=negative,
            middle=middle, cfg=3.5, identity_cfg=2.0,
        )
        for expert, (model, positive, negative, middle) in zip(EXPERTS, carried, strict=True)
    ]  # fmt: skip
    sigmas = inside.add("BasicScheduler", model=carried[0][0], scheduler="simple", steps=20, denoise=1.0)
    split = inside.add("SplitSigmas", sigmas=sigmas["SIGMAS"], step=10)
    size = None
    if latent is None:
        size = inside.add("EmptyHunyuanLatentVideo", width=832, height=480, length=81, batch_size=1)
        latent = size["LATENT"]
    high = inside.add(
        "SamplerCustomAdvanced", title="First half (high noise)", noise=noise, guider=guiders[0]["GUIDER"],
        sampler=sampler["SAMPLER"], sigmas=split["high_sigmas"], latent_image=latent,
    )  # fmt: skip
    low = inside.add(
        "SamplerCustomAdvanced", title="Second half (low noise)", noise=no_noise["NOISE"],
        guider=guiders[1]["GUIDER"], sampler=sampler["SAMPLER"], sigmas=split["low_sigmas"],
        latent_image=high["output"],
    )  # fmt: skip
    inside.give("LATENT", low["output"])
    inside.promote(sigmas, "steps")
    inside.promote(split, "step", "switch_at_step")
    for guider, expert in zip(guiders, EXPERTS, strict=True):
        for widget in ("cfg", "identity_cfg"):
            inside.promote(guider, widget, f"{expert}_{widget}")
    for widget in ("width", "height", "length") if size else ():
        inside.promote(size, widget)
    made = [size] if size else []
    layout = row(column(sigmas, *made, sampler), column(split, *guiders, no_noise), high, low)
    return Subgraph(
        "Two halves", inside, layout, width=310, description="Each expert samples its half of the steps."
    )
