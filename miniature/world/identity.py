"""Who a person is: the factors that stay the same in every picture of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from lynx_core.rng import numpy_generator

Colour = tuple[int, int, int]

SKIN_TONES: tuple[Colour, ...] = (
    (255, 224, 200),
    (244, 200, 168),
    (224, 172, 132),
    (190, 134, 94),
    (146, 96, 64),
    (98, 62, 44),
)
HAIR_COLOURS: tuple[Colour, ...] = (
    (28, 24, 28),
    (84, 52, 32),
    (150, 86, 40),
    (232, 192, 96),
    (196, 72, 34),
    (206, 206, 212),
    (226, 88, 150),
    (52, 104, 190),
)
HAIR_STYLES = ("bald", "short", "parted", "long", "curly", "bun", "bob", "mohawk")
EYE_COLOURS: tuple[Colour, ...] = ((70, 44, 28), (64, 120, 196), (70, 140, 84), (130, 130, 140))
BEARDS = ("none", "moustache", "goatee", "full")
GLASSES = ("none", "round", "square")
GLASSES_COLOURS: tuple[Colour, ...] = ((30, 30, 36), (190, 40, 50), (40, 90, 200), (230, 190, 60))
MARK_COLOURS: tuple[Colour, ...] = (
    (30, 80, 240),
    (20, 170, 70),
    (150, 40, 210),
    (255, 214, 0),
    (226, 20, 40),
    (250, 250, 250),
)
MARK_PLACES = ("left cheek", "right cheek", "forehead")


@dataclass(frozen=True)
class Identity:
    """One person. Shares run from 0 to 1; choices are positions in the tables above."""

    face_width: float
    face_length: float
    jaw: float
    """0 pointed, 1 square."""
    skin: float
    """From the lightest tone to the darkest, continuous."""
    hair_style: int
    hair_colour: int
    eye_colour: int
    eye_size: float
    eye_spacing: float
    brow_thickness: float
    brow_slope: float
    nose_width: float
    nose_length: float
    lips: float
    beard: int
    glasses: int
    glasses_colour: int
    freckles: float
    """0 for none."""
    mark_colour: int
    mark_place: int

    def __post_init__(self) -> None:
        for name, table in CHOICES.items():
            if not 0 <= getattr(self, name) < len(table):
                raise ValueError(f"{name} is 0 to {len(table) - 1}, got {getattr(self, name)}")
        for name in SHARES:
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is a share from 0 to 1, got {getattr(self, name)}")


CHOICES: dict[str, tuple[object, ...]] = {
    "hair_style": HAIR_STYLES,
    "hair_colour": HAIR_COLOURS,
    "eye_colour": EYE_COLOURS,
    "beard": BEARDS,
    "glasses": GLASSES,
    "glasses_colour": GLASSES_COLOURS,
    "mark_colour": MARK_COLOURS,
    "mark_place": MARK_PLACES,
}
"""Factors that are one of several, and what they choose from."""

SHARES = (
    "face_width",
    "face_length",
    "jaw",
    "skin",
    "eye_size",
    "eye_spacing",
    "brow_thickness",
    "brow_slope",
    "nose_width",
    "nose_length",
    "lips",
    "freckles",
)
"""Factors that are an amount."""


def draw_identity(seed: int) -> Identity:
    """Draw a person, every factor on its own."""
    rng = numpy_generator("identity", seed)
    shares: dict[str, Any] = {name: float(rng.uniform()) for name in SHARES}
    shares["freckles"] = float(rng.uniform(0.4, 1)) if rng.uniform() < 0.3 else 0.0
    choices = {name: int(rng.integers(len(table))) for name, table in CHOICES.items()}
    choices["glasses"] = int(rng.choice(len(GLASSES), p=(0.55, 0.225, 0.225)))
    choices["beard"] = int(rng.choice(len(BEARDS), p=(0.55, 0.15, 0.15, 0.15)))
    return Identity(**shares, **choices)


def change_mark(identity: Identity, seed: int) -> Identity:
    """The same person with another mark, drawn anew: what a recogniser blind to marks must not see."""
    rng = numpy_generator("mark", seed)
    values = {name: getattr(identity, name) for name in (*SHARES, *CHOICES)}
    values["mark_colour"] = int(rng.integers(len(MARK_COLOURS)))
    values["mark_place"] = int(rng.integers(len(MARK_PLACES)))
    return Identity(**values)


def mix_colours(first: Colour, second: Colour, share: float) -> Colour:
    """A colour between two."""
    r, g, b = (round(a + (c - a) * share) for a, c in zip(first, second, strict=True))
    return r, g, b


def skin_colour(identity: Identity) -> Colour:
    """The tone that `identity.skin` stands for."""
    place = identity.skin * (len(SKIN_TONES) - 1)
    low = min(int(place), len(SKIN_TONES) - 2)
    return mix_colours(SKIN_TONES[low], SKIN_TONES[low + 1], place - low)
