"""The workflow of two people in one shot: two Lynx Apply in a row, each with a mask."""

from __future__ import annotations

from . import notes
from .boxes import Json, Node, Output, column, row
from .graph import Graph, Subgraph
from .identity import apply_person, encode_person, put_identity, take_lynx
from .node_types import NODE_TYPES, T2V
from .parts import (
    LOW_PROMPT_HEIGHTS,
    Models,
    arrange,
    decode_and_save,
    empty_latent,
    load_photo,
    load_prompt_and_models,
    sample,
    write_notes,
)

PROMPT = (
    "Two people sit side by side at a café table by a window, the one on the left tells a story, the one on the right "
    "laughs. Morning light, medium shot, static camera."
)
SIDES = ("left", "right")
WIDTH, HEIGHT, FEATHER = 832, 480, 96


def build_two_people() -> Json:
    g = Graph(NODE_TYPES)
    loaded = load_prompt_and_models(
        g, Models("lynx_full", [T2V]), with_lynx=False, heights=LOW_PROMPT_HEIGHTS, prompt=PROMPT
    )
    photos = {f"photo_{side}": load_photo(g, title=f"Photo of the person on the {side}") for side in SIDES}
    pictures = {name: photo["IMAGE"] for name, photo in photos.items()}
    people = put_identity(g, make_two_people(), loaded, **pictures)
    latent = empty_latent(g, length=81, width=WIDTH, height=HEIGHT)
    sampled = sample(g, people, latent["LATENT"])
    shown = decode_and_save(g, sampled["LATENT"], loaded["VAE"], 16.0, "lynx_two_people")
    help = write_notes(
        g, ("Your first video", notes.START), ("Two people", notes.TWO_PEOPLE), ("Strengths", notes.IDENTITY)
    )
    layout = arrange([loaded, *photos.values()], [people, latent], [sampled], shown, help)
    return g.to_json("lynx_two_people", layout)


def make_two_people() -> Subgraph:
    inside = Graph(NODE_TYPES)
    photos = [inside.take(f"photo_{side}", "IMAGE") for side in SIDES]
    base = {of.lower(): inside.take(of.lower(), of) for of in ("MODEL", "CLIP", "VAE")}
    texts = [inside.take(name, "CONDITIONING") for name in ("positive", "negative")]
    lynx, loaded = take_lynx(inside, "lynx_full")
    people = [
        encode_person(inside, photo, loaded, base, side) for photo, side in zip(photos, SIDES, strict=True)
    ]
    masks, mask_nodes = draw_masks(inside)
    model, applied = base["model"], []
    for person, mask, side in zip(people, masks, SIDES, strict=True):
        node = apply_person(inside, person, loaded[0], model, texts, mask, title=f"Lynx Apply ({side})")
        model, texts = node["MODEL"], [node["positive"], node["negative"]]
        applied.append(node)
    seen = [
        inside.add(
            "PreviewImage", title=f"What the reference sees ({side})", images=person[0]["reference_crop"]
        )
        for person, side in zip(people, SIDES, strict=True)
    ]
    for output in ("MODEL", "positive", "negative", "middle"):
        inside.give(output, applied[-1][output])
    for node, side in zip(applied, SIDES, strict=True):
        for widget in ("id_strength", "ref_strength"):
            inside.promote(node, widget, f"{side}_{widget}")
    layout = row(
        column(*lynx, gap=40),
        column(*(person[0] for person in people), row(*mask_nodes), gap=40),
        column(*(node for person in people for node in person[1:]), *seen, gap=40),
        *applied,
    )
    return Subgraph(
        "Two people", inside, layout, description="Each person acts in one half of the picture.",
        preview=seen[0].id, picture_height=220,
    )  # fmt: skip


def draw_masks(inside: Graph) -> tuple[list[Output], list[Node]]:
    """The left and the right half, with a soft edge between; made of ComfyUI's own nodes."""
    half = WIDTH // 2
    masks, nodes = [], []
    black = inside.add("SolidMask", title="Nowhere", value=0.0, width=WIDTH, height=HEIGHT)
    for side, x, edge in zip(SIDES, (0, half), ("right", "left"), strict=True):
        white = inside.add("SolidMask", title=f"Half ({side})", value=1.0, width=half, height=HEIGHT)
        edges = dict.fromkeys(("left", "top", "right", "bottom"), 0) | {edge: FEATHER}
        soft = inside.add("FeatherMask", mask=white["MASK"], **edges)
        placed = inside.add(
            "MaskComposite", title=f"Where the person on the {side} is", destination=black["MASK"],
            source=soft["MASK"], x=x, y=0, operation="add",
        )  # fmt: skip
        masks.append(placed["MASK"])
        nodes.append((white, soft, placed))
    columns = [column(*each, gap=40) for each in zip(*nodes, strict=True)]
    columns[0].children = [black, *columns[0].children]
    return masks, columns  # type: ignore[return-value]
