"""Whole shots by number: which seeds are for training, and which are held out."""

from __future__ import annotations

from lynx_core.rng import numpy_generator

from .caption import is_held_out, write_caption
from .clip import Shot
from .identity import Identity, draw_identity
from .scene import ACTIONS, draw_pose, draw_scene

FIRST_HELD_OUT_IDENTITY = 1_000_000
"""Identities from here on are in no training of any part."""


def draw_shot(identity: Identity, seed: int, *, held_out_captions: bool = False) -> Shot:
    """Put a person into a scene with an action.

    Args:
        held_out_captions: draw only pairs of background and action that training never names, or only
            those that it may name.
    """
    rng = numpy_generator("shot", seed)
    while True:
        scene, action = draw_scene(int(rng.integers(2**31))), int(rng.integers(len(ACTIONS)))
        if is_held_out(scene.background, action) == held_out_captions:
            return Shot(identity, scene, draw_pose(int(rng.integers(2**31))), action)


def draw_training_shot(number: int) -> Shot:
    """A new person in a new scene."""
    return draw_shot(draw_identity(number), number)


def caption_of(shot: Shot, seed: int) -> str:
    """The words for a shot."""
    return write_caption(shot.scene, shot.action, seed)
