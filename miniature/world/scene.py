"""Where a person is and what they do: everything that is not identity."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from lynx_core.rng import numpy_generator

from .identity import Colour

BACKGROUNDS = ("beach", "forest", "desert", "city", "room", "snow", "meadow", "stage")
ACTIONS = ("turn left", "turn right", "nod", "smile", "lean in", "stay still")
LIGHTS = ("plain", "warm", "cold")
NUM_ARRANGEMENTS = 4
"""Of each background: where its trees, windows or flowers are."""
CLOTHES_COLOURS: tuple[Colour, ...] = (
    (200, 60, 60),
    (60, 110, 180),
    (70, 150, 90),
    (230, 200, 90),
    (120, 80, 150),
    (60, 60, 70),
    (235, 235, 235),
    (230, 140, 70),
)


@dataclass(frozen=True)
class Pose:
    """How the head is held in one frame."""

    yaw: float
    """Radians, towards the picture's right."""
    pitch: float
    """Radians, down."""
    roll: float
    """Radians, clockwise."""
    x: float
    """Middle of the head, share of the frame's width."""
    y: float
    scale: float
    """Half a head's height, share of the frame's height."""
    smile: float
    """0 neutral, 1 broad; below 0 sad."""
    mouth_open: float
    """0 closed, 1 wide open."""


@dataclass(frozen=True)
class Scene:
    """A place, a light and clothes."""

    background: int
    background_seed: int
    light: int
    light_side: float
    """-1 from the left, 1 from the right."""
    clothes_colour: int


def draw_scene(seed: int) -> Scene:
    """Draw a place with its light and clothes."""
    rng = numpy_generator("scene", seed)
    return Scene(
        background=int(rng.integers(len(BACKGROUNDS))),
        background_seed=int(rng.integers(NUM_ARRANGEMENTS)),
        light=int(rng.integers(len(LIGHTS))),
        light_side=float(rng.uniform(-1, 1)),
        clothes_colour=int(rng.integers(len(CLOTHES_COLOURS))),
    )


def draw_pose(seed: int) -> Pose:
    """Draw how the head is held when an action begins, and with which expression."""
    rng = numpy_generator("pose", seed)
    return Pose(
        yaw=float(rng.uniform(-0.25, 0.25)),
        pitch=float(rng.uniform(-0.1, 0.1)),
        roll=float(rng.uniform(-0.06, 0.06)),
        x=float(rng.uniform(0.48, 0.52)),
        y=float(rng.uniform(0.47, 0.5)),
        scale=float(rng.uniform(0.31, 0.34)),
        smile=float(rng.uniform(-0.2, 0.4)),
        mouth_open=float(rng.choice((0.0, 0.0, 0.5))),
    )


def move(pose: Pose, action: int, progress: float) -> Pose:
    """Where an action has brought the head.

    Args:
        pose: where it began.
        action: position in `ACTIONS`.
        progress: 0 at the first frame, 1 at the last.
    """
    eased = 0.5 - 0.5 * math.cos(math.pi * progress)
    match ACTIONS[action]:
        case "turn left":
            return replace(pose, yaw=pose.yaw + (-0.65 - pose.yaw) * eased)
        case "turn right":
            return replace(pose, yaw=pose.yaw + (0.65 - pose.yaw) * eased)
        case "nod":
            return replace(
                pose,
                pitch=pose.pitch + 0.5 * math.sin(math.pi * progress),
                y=pose.y + 0.05 * math.sin(math.pi * progress),
            )
        case "smile":
            return replace(
                pose,
                smile=pose.smile + (1 - pose.smile) * eased,
                mouth_open=pose.mouth_open + (0.7 - pose.mouth_open) * eased,
            )
        case "lean in":
            return replace(pose, scale=pose.scale * (1 + 0.35 * eased))
    return pose


def edit_expression(pose: Pose, seed: int) -> Pose:
    """The same pose with another expression, as a face editor makes it."""
    rng = numpy_generator("expression", seed)
    return replace(pose, smile=float(rng.uniform(-0.4, 1)), mouth_open=float(rng.uniform(0, 0.8)))


def relight(scene: Scene, seed: int) -> Scene:
    """The same place under another light."""
    rng = numpy_generator("relight", seed)
    return replace(scene, light=int(rng.integers(len(LIGHTS))), light_side=float(rng.uniform(-1, 1)))


def replace_background(scene: Scene, seed: int) -> Scene:
    """The same light and clothes in another place."""
    rng = numpy_generator("background", seed)
    other = int(rng.integers(1, len(BACKGROUNDS)))
    return replace(
        scene,
        background=(scene.background + other) % len(BACKGROUNDS),
        background_seed=int(rng.integers(NUM_ARRANGEMENTS)),
    )
