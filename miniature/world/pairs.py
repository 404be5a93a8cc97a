"""Pairs of a reference photo and a target, of every kind that the method trains on.

The photo is a still picture of its own: for a pair of one scene it is the target's frame, for an augmented
pair that frame edited, for a multi-scene pair the person elsewhere.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from lynx_core.rng import numpy_generator

from .clip import NUM_FRAMES, Shot
from .crop import draw_crops
from .draws import caption_of, draw_shot
from .identity import draw_identity
from .scene import ACTIONS, edit_expression, relight, replace_background

SORTS: dict[str, str] = {
    "single": "single-scene",
    "multi-scene": "multi-scene",
    "expression": "augmented",
    "relight": "augmented",
    "background": "augmented",
}
"""How a pair is made, and what the manifest calls it."""

OWN_SCENE_SORTS = ("single", "expression", "relight", "background")
"""Those whose photo comes of the target's own frame."""

LANDMARK_ERROR = 0.02
"""What a detector gets wrong by, in half head heights (standard deviation)."""

STAY_STILL = ACTIONS.index("stay still")


@dataclass(frozen=True)
class Pair:
    """A photo of a person, and what to make of it."""

    identity_number: int
    sort: str
    """One of `SORTS`."""
    is_video: bool
    reference: Shot
    """Stays still: each of its frames is the photo."""
    reference_seed: int
    """Of the detector's errors on the photo."""
    target: Shot
    target_frame: int
    """The frame that an image target shows."""
    caption: str

    @property
    def kind(self) -> str:
        """The manifest's word."""
        return SORTS[self.sort]

    def draw_reference(self) -> np.ndarray:
        """The photo as an aligned crop, [256, 256, 3] uint8 RGB."""
        rng = numpy_generator("landmark error", self.reference_seed)
        return draw_crops(self.reference, 0, rng.normal(0, LANDMARK_ERROR, (5, 2)))[1]

    def draw_target(self) -> np.ndarray:
        """A clip [T, H, W, 3] or an image [H, W, 3], uint8 RGB."""
        return self.target.draw_clip() if self.is_video else self.target.draw_frame(self.target_frame)


def draw_pair(
    seed: int,
    sort: str,
    is_video: bool,
    *,
    identity_number: int | None = None,
    held_out_captions: bool = False,
) -> Pair:
    """Draw a pair.

    Args:
        seed: gives the target, and the edit of an augmented pair.
        sort: one of `SORTS`.
        is_video: whether the target is a clip or an image.
        identity_number: the person, `seed` when None. A multi-scene photo follows from this number alone, so
            that all such pairs of a person share it.
        held_out_captions: caption only what training never names, or only what it may name.
    """
    if sort not in SORTS:
        raise ValueError(f"there is no pair of sort '{sort}'; the sorts are {', '.join(SORTS)}")
    number = seed if identity_number is None else identity_number
    identity = draw_identity(number)
    rng = numpy_generator("pair", seed)
    elsewhere = stand_still(draw_shot(identity, int(numpy_generator("photo", number).integers(2**31))))
    while True:
        target = draw_shot(identity, int(rng.integers(2**31)), held_out_captions=held_out_captions)
        if target.scene.background != elsewhere.scene.background:
            break
    told = find_told_frame(target.action)
    own_frame = int(rng.integers(NUM_FRAMES)) if is_video else told
    own = edit_photo(stand_still(target, own_frame), sort, int(rng.integers(2**31)))
    is_elsewhere = sort == "multi-scene"
    return Pair(
        identity_number=number,
        sort=sort,
        is_video=is_video,
        reference=elsewhere if is_elsewhere else own,
        reference_seed=number if is_elsewhere else seed,
        target=target,
        target_frame=told,
        caption=caption_of(target, seed),
    )


def stand_still(shot: Shot, frame: int = 0) -> Shot:
    """A shot in which nothing moves: the frame of another as a photo."""
    return replace(shot, pose=shot.pose_at(frame), action=STAY_STILL)


def edit_photo(photo: Shot, sort: str, seed: int) -> Shot:
    """A photo after the augmentation of a sort; the same photo where the sort has none."""
    match sort:
        case "expression":
            return replace(photo, pose=edit_expression(photo.pose, seed))
        case "relight":
            return replace(photo, scene=relight(photo.scene, seed))
        case "background":
            return replace(photo, scene=replace_background(photo.scene, seed))
    return photo


def find_told_frame(action: int) -> int:
    """The frame that shows an action best: a nod is lowest halfway, all others end where they lead."""
    return NUM_FRAMES // 2 if ACTIONS[action] == "nod" else NUM_FRAMES - 1
