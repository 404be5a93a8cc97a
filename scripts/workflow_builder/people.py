"""The workflows of two people, side by side or one after the other: two Lynx Apply in a row, each with a mask."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from . import notes
from .boxes import Box, Json, Node, Output, column, row
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
BECOMING_PROMPT = (
    "A person sits in a train and looks out of the window, then turns to the camera. Evening light, close-up, static "
    "camera."
)
SIDES, TURNS = ("left", "right"), ("first", "second")
WIDTH, HEIGHT, FEATHER = 832, 480, 96


def build_two_people() -> Json:
    g = Graph(NODE_TYPES)
    loaded = _load(g, PROMPT)
    photos = [load_photo(g, title=f"Photo of the person on the {side}") for side in SIDES]
    people = put_identity(g, make_two_people(), loaded, **_name_photos(SIDES, photos))
    latent = empty_latent(g, length=81, width=WIDTH, height=HEIGHT)
    sampled = sample(g, people, latent["LATENT"])
    shown = decode_and_save(g, sampled["LATENT"], loaded["VAE"], 16.0, "lynx_two_people")
    help = _write_help(g, ("Two people", notes.TWO_PEOPLE))
    layout = arrange([loaded, *photos], [people, latent], [sampled], shown, help)
    return g.to_json("lynx_two_people", layout)


def build_becoming() -> Json:
    g = Graph(NODE_TYPES)
    loaded = _load(g, BECOMING_PROMPT)
    photos = [load_photo(g, title=f"Photo of the {turn} person") for turn in TURNS]
    people = put_identity(g, make_becoming(), loaded, **_name_photos(TURNS, photos))
    sampled = sample(g, people, people["latent"])
    shown = decode_and_save(g, sampled["LATENT"], loaded["VAE"], 16.0, "lynx_becoming")
    help = _write_help(g, ("One becomes another", notes.BECOMING))
    layout = arrange([loaded, *photos], [people], [sampled], shown, help)
    return g.to_json("lynx_becoming", layout)


def make_two_people() -> Subgraph:
    inside = Graph(NODE_TYPES)
    people = _encode_people(inside, SIDES)
    masks, mask_nodes = draw_masks(inside)
    applied, seen = _apply_people(inside, people, masks)
    layout = _lay_out(people, [row(*mask_nodes)], seen, applied)
    return Subgraph(
        "Two people", inside, layout, description="Each person acts in one half of the picture.",
        preview=seen[0].id, picture_height=220,
    )  # fmt: skip


def make_becoming() -> Subgraph:
    inside = Graph(NODE_TYPES)
    people = _encode_people(inside, TURNS)
    latent = empty_latent(inside, length=81, width=WIDTH, height=HEIGHT)
    fade = inside.add("LynxFade", latent=latent["LATENT"], start=0.25, end=0.75, vace_reference_frames=0)
    applied, seen = _apply_people(inside, people, [fade[turn] for turn in TURNS])
    inside.give("latent", latent["LATENT"])
    for widget in ("start", "end"):
        inside.promote(fade, widget, f"fade_{widget}")
    for widget in ("width", "height", "length"):
        inside.promote(latent, widget)
    layout = _lay_out(people, [row(latent, fade)], seen, applied)
    return Subgraph(
        "One becomes another", inside, layout, description="The first person fades out while the second fades in.",
        preview=seen[0].id, picture_height=220,
    )  # fmt: skip


class _People(NamedTuple):
    """Several people's photos, encoded."""

    places: Sequence[str]
    """A word for each person."""
    lynx: list[Node]
    adapter: Output
    model: Output
    texts: list[Output]
    encoded: list[tuple[Node, Node, Node]]
    """Crop, ID and reference of each."""


def _encode_people(inside: Graph, places: Sequence[str]) -> _People:
    photos = [inside.take(f"photo_{place}", "IMAGE") for place in places]
    base = {of.lower(): inside.take(of.lower(), of) for of in ("MODEL", "CLIP", "VAE")}
    texts = [inside.take(name, "CONDITIONING") for name in ("positive", "negative")]
    lynx, loaded = take_lynx(inside, "lynx_full")
    encoded = [
        encode_person(inside, photo, loaded, base, place) for photo, place in zip(photos, places, strict=True)
    ]
    return _People(places, lynx, loaded[0], base["model"], texts, encoded)


def _apply_people(inside: Graph, people: _People, masks: Sequence[Output]) -> tuple[list[Node], list[Node]]:
    """Several Lynx Apply in a row, each with its mask, and pictures of what their references see."""
    model, texts, applied = people.model, people.texts, []
    for person, mask, place in zip(people.encoded, masks, people.places, strict=True):
        node = apply_person(inside, person, people.adapter, model, texts, mask, title=f"Lynx Apply ({place})")
        model, texts = node["MODEL"], [node["positive"], node["negative"]]
        applied.append(node)
    seen = [
        inside.add(
            "PreviewImage", title=f"What the reference sees ({place})", images=person[0]["reference_crop"]
        )
        for person, place in zip(people.encoded, people.places, strict=True)
    ]
    for output in ("MODEL", "positive", "negative", "middle"):
        inside.give(output, applied[-1][output])
    for node, place in zip(applied, people.places, strict=True):
        for widget in ("id_strength", "ref_strength"):
            inside.promote(node, widget, f"{place}_{widget}")
    return applied, seen


def _lay_out(people: _People, masks: list[Box], seen: list[Node], applied: list[Node]) -> Box:
    return row(
        column(*people.lynx, gap=40),
        column(*(person[0] for person in people.encoded), *masks, gap=40),
        column(*(node for person in people.encoded for node in person[1:]), *seen, gap=40),
        *applied,
    )


def _load(g: Graph, prompt: str) -> Node:
    return load_prompt_and_models(
        g, Models("lynx_full", [T2V]), with_lynx=False, heights=LOW_PROMPT_HEIGHTS, prompt=prompt
    )


def _name_photos(places: Sequence[str], photos: Sequence[Node]) -> dict[str, Output]:
    return {f"photo_{place}": photo["IMAGE"] for place, photo in zip(places, photos, strict=True)}


def _write_help(g: Graph, note: tuple[str, str]) -> Node:
    return write_notes(g, ("Your first video", notes.START_OF_TWO), note, ("Strengths", notes.IDENTITY))


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
