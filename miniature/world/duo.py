"""Two people side by side, each with an action of their own, in a frame twice as wide as high."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from lynx_core.rng import numpy_generator

from .caption import is_held_out, write_duo_caption
from .clip import FRAME_PX, NUM_FRAMES, Shot
from .draws import draw_shot
from .identity import Identity, draw_identity
from .portrait import Sitter, draw_people
from .scene import ACTIONS


@dataclass(frozen=True)
class Duo:
    """Two shots in one place under one light.

    Raises:
        ValueError: when they are in different places.
    """

    left: Shot
    right: Shot

    def __post_init__(self) -> None:
        clothes_colour = self.left.scene.clothes_colour
        if replace(self.right.scene, clothes_colour=clothes_colour) != self.left.scene:
            raise ValueError(
                f"two people of one frame share its scene, got {self.left.scene} and {self.right.scene}"
            )

    def draw_frame(self, frame: int, size_px: int = FRAME_PX, num_frames: int = NUM_FRAMES) -> np.ndarray:
        """One frame, [size_px, 2 size_px, 3] uint8 RGB."""
        sitters = [
            Sitter(shot.identity, shot.pose_at(frame, num_frames), shot.scene.clothes_colour)
            for shot in (self.left, self.right)
        ]
        return draw_people(sitters, self.left.scene, size_px)

    def draw_clip(self, size_px: int = FRAME_PX, num_frames: int = NUM_FRAMES) -> np.ndarray:
        """All frames, [num_frames, size_px, 2 size_px, 3] uint8 RGB."""
        return np.stack([self.draw_frame(frame, size_px, num_frames) for frame in range(num_frames)])


def draw_duo(left: Identity, right: Identity, seed: int, *, held_out_captions: bool = False) -> Duo:
    """Put two people into one scene.

    Args:
        held_out_captions: both do what training never names in that place, or both what it may name.
    """
    rng = numpy_generator("duo", seed)
    first = draw_shot(left, int(rng.integers(2**31)), held_out_captions=held_out_captions)
    second = draw_shot(right, int(rng.integers(2**31)))
    actions = [
        action
        for action in range(len(ACTIONS))
        if is_held_out(first.scene.background, action) == held_out_captions
    ]
    scene = replace(first.scene, clothes_colour=second.scene.clothes_colour)
    return Duo(first, replace(second, scene=scene, action=int(rng.choice(actions))))


def draw_training_duo(number: int) -> Duo:
    """A new person and the one of the next number in a new scene."""
    return draw_duo(draw_identity(number), draw_identity(number + 1), number)


def caption_of_duo(duo: Duo, seed: int) -> str:
    """The words for two people."""
    return write_duo_caption(duo.left.scene, duo.left.action, duo.right.action, seed)
