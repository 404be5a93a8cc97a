"""The words for a scene and an action; never for the person."""

from __future__ import annotations

from lynx_core.rng import numpy_generator

from .scene import ACTIONS, BACKGROUNDS, LIGHTS

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
HELD_OUT_STEP = 5
"""Of all pairs of background and action, those whose numbers add up to a multiple of this are held out."""


def is_held_out(background: int, action: int) -> bool:
    """Whether no training caption names this background together with this action."""
    return (3 * background + action) % HELD_OUT_STEP == 0


def write_caption(background: int, action: int, light: int, seed: int) -> str:
    """One of the ways to say it."""
    rng = numpy_generator("caption", seed)
    subject = SUBJECTS[rng.integers(len(SUBJECTS))]
    parts = [
        words[rng.integers(len(words))]
        for words in (
            ACTION_WORDS[ACTIONS[action]],
            PLACE_WORDS[BACKGROUNDS[background]],
            LIGHT_WORDS[LIGHTS[light]],
        )
    ]
    return " ".join(part for part in (subject, *parts) if part)


def list_captions() -> list[tuple[str, tuple[int, int, int]]]:
    """Every sentence of the grammar, with the numbers of its background, action and light."""
    return [
        (" ".join(part for part in (subject, act, place, light) if part), (background, action, tone))
        for subject in SUBJECTS
        for action, name in enumerate(ACTIONS)
        for act in ACTION_WORDS[name]
        for background, name in enumerate(BACKGROUNDS)
        for place in PLACE_WORDS[name]
        for tone, name in enumerate(LIGHTS)
        for light in LIGHT_WORDS[name]
    ]
