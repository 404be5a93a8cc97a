"""What is in a picture, as numbers that a network can be trained to read."""

from __future__ import annotations

import numpy as np

from .identity import CHOICES, SHARES, Identity
from .scene import BACKGROUNDS, Pose, Scene

POSE_NAMES = ("yaw", "pitch", "roll", "scale", "smile", "mouth_open")
POSE_SPREADS = (0.3, 0.2, 0.07, 0.035, 0.4, 0.3)
"""About one standard deviation of each number of a pose over all frames."""
POSE_MIDDLES = (0.0, 0.0, 0.0, 0.32, 0.2, 0.25)
LABEL_SIZES: dict[str, int] = {
    "shares": len(SHARES),
    "pose": len(POSE_NAMES),
    "background": len(BACKGROUNDS),
    **{name: len(table) for name, table in CHOICES.items()},
}
"""Numbers that a network gives for each label: amounts, or a logit for each choice."""


def pose_numbers(pose: Pose) -> np.ndarray:
    """A pose as the readers name it, [6] in spreads."""
    values = [getattr(pose, name) for name in POSE_NAMES]
    return ((np.array(values) - POSE_MIDDLES) / POSE_SPREADS).astype(np.float32)


def label_picture(identity: Identity, scene: Scene, pose: Pose) -> dict[str, np.ndarray]:
    """What is to be read in a picture, choices as positions."""
    labels = {name: np.int64(getattr(identity, name)) for name in CHOICES}
    labels |= {"background": np.int64(scene.background), "pose": pose_numbers(pose)}
    return labels | {"shares": np.array([getattr(identity, name) for name in SHARES], np.float32)}


def stack_labels(rows: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Labels of several pictures, [N, ...] by name."""
    return {name: np.stack([row[name] for row in rows]) for name in rows[0]}
