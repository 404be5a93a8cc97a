"""The words for a scene and an action; never for the person."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import NamedTuple

import numpy as np

from lynx_core.rng import numpy_generator

from ..edition import EDITION
from .scene import ACTIONS, BACKGROUNDS, CLOTHES_COLOURS, LIGHTS, Scene

SUBJECTS = ("a person", "someone")
ACTION_WORDS: dict[str, tuple[str, ...]] = {
    "turn left": ("turns to the left", "looks left"),
    "turn right": ("turns to the right", "looks right"),
    "nod": ("nods", "is nodding"),
    "smile": ("smiles", "breaks into a smile"),
    "lean in": ("leans in", "comes closer"),
    "stay still": ("stays still", "does not move"),
}
PLACE_WORDS: dict[str, tuple[str, ...]] = {
    "beach": ("on a beach", "by the sea"),
    "forest": ("in a forest", "among trees"),
    "desert": ("in a desert", "among dunes"),
    "city": ("in a city at night", "before the lights of a town"),
    "room": ("in a room", "at home by the wall"),
    "snow": ("in the snow", "on a winter day"),
    "meadow": ("in a meadow", "in a field of flowers"),
    "stage": ("on a stage", "before a red curtain"),
}
LIGHT_WORDS: dict[str, tuple[str, ...]] = {
    "plain": ("",),
    "warm": ("in warm light", "in golden light"),
    "cold": ("in cold light", "in blue light"),
}
CLOTHES_WORDS = ("red", "blue", "green", "yellow", "purple", "black", "white", "orange")
"""Of `CLOTHES_COLOURS`."""
FORMS = (
    "{subject} {act} {place} {light}",
    "{subject} in a {colour} coat {act} {place} {light}",
    "a short video of {subject} in a {colour} coat, alone in the picture and seen from the front, "
    "who {act} {place} {light}",
    "in this clip, filmed with a calm camera, {subject} wearing a {colour} coat {act} {place} {light}, "
    "and nothing else in the picture moves",
)
FORM_SHARES = (0.5, 0.2, 0.15, 0.15)
DUO_FORM = "two people {place} {light}: the one on the left {left}, the one on the right {right}"
HELD_OUT_STEP = 5
"""Of all pairs of background and action, those whose numbers add up to a multiple of this are held out."""


def is_held_out(background: int, action: int) -> bool:
    """Whether no training caption names this background together with this action."""
    return (3 * background + action) % HELD_OUT_STEP == 0


class Meaning(NamedTuple):
    """What a sentence asks for, as numbers."""

    background: int
    action: int
    """Of the person, or of the left one of two."""
    light: int
    clothes: int = len(CLOTHES_COLOURS)
    """A colour; their number when the sentence names none."""
    right_action: int = len(ACTIONS)
    """Of the right one of two; the number of actions when there is one person."""


def write_caption(scene: Scene, action: int, seed: int) -> str:
    """One of the ways to say what one person does."""
    rng = numpy_generator("caption", seed)
    subject, act, place, light = (_choose(rng, words) for words in _list_words(scene, action))
    form = FORMS[int(rng.choice(len(FORMS), p=FORM_SHARES))] if EDITION.has_duos else FORMS[0]
    return _fill_in(form, subject=subject, act=act, place=place, light=light, clothes=scene.clothes_colour)


def write_duo_caption(scene: Scene, left_action: int, right_action: int, seed: int) -> str:
    """One of the ways to say what two people do."""
    rng = numpy_generator("duo caption", seed)
    _, left, place, light = (_choose(rng, words) for words in _list_words(scene, left_action))
    right = _choose(rng, ACTION_WORDS[ACTIONS[right_action]])
    return _fill_in(DUO_FORM, place=place, light=light, left=left, right=right)


def list_captions() -> list[tuple[str, Meaning]]:
    """Every sentence of the grammar with its meaning."""
    captions = list(_list_short_captions())
    if EDITION.has_duos:
        captions += [*_list_dressed_captions(), *list_duo_captions()]
    return captions


def _list_words(scene: Scene, action: int) -> tuple[tuple[str, ...], ...]:
    places, lights = PLACE_WORDS[BACKGROUNDS[scene.background]], LIGHT_WORDS[LIGHTS[scene.light]]
    return SUBJECTS, ACTION_WORDS[ACTIONS[action]], places, lights


def _choose(rng: np.random.Generator, words: tuple[str, ...]) -> str:
    return words[rng.integers(len(words))]


def _fill_in(form: str, *, clothes: int | None = None, **words: str) -> str:
    colour = "" if clothes is None else CLOTHES_WORDS[clothes]
    said = form.format(colour=colour, **words)
    return " ".join(said.split()).replace(" ,", ",").replace(" :", ":")


def _list_short_captions() -> Iterator[tuple[str, Meaning]]:
    for subject, (action, act), (background, place), (tone, light) in product(
        SUBJECTS, _number(ACTION_WORDS), _number(PLACE_WORDS), _number(LIGHT_WORDS)
    ):
        text = _fill_in(FORMS[0], subject=subject, act=act, place=place, light=light)
        yield text, Meaning(background, action, tone)


def _list_dressed_captions() -> Iterator[tuple[str, Meaning]]:
    for form, subject, (action, act), (background, place), (tone, light), clothes in product(
        FORMS[1:],
        SUBJECTS,
        _number(ACTION_WORDS),
        _number(PLACE_WORDS),
        _number(LIGHT_WORDS),
        range(len(CLOTHES_WORDS)),
    ):
        text = _fill_in(form, subject=subject, act=act, place=place, light=light, clothes=clothes)
        yield text, Meaning(background, action, tone, clothes)


def list_duo_captions() -> Iterator[tuple[str, Meaning]]:
    """Every sentence about two people with its meaning."""
    for (action, left), (right_action, right), (background, place), (tone, light) in product(
        _number(ACTION_WORDS), _number(ACTION_WORDS), _number(PLACE_WORDS), _number(LIGHT_WORDS)
    ):
        text = _fill_in(DUO_FORM, place=place, light=light, left=left, right=right)
        yield text, Meaning(background, action, tone, right_action=right_action)


def _number(words: dict[str, tuple[str, ...]]) -> list[tuple[int, str]]:
    """Each way to say a thing with the number of the thing."""
    return [(number, way) for number, ways in enumerate(words.values()) for way in ways]
