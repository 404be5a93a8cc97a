"""How a head is held, from its five landmarks, in degrees.

A rigid model of the five points is fitted by scaled orthographic projection (POS, DeMenthon and Davis 1995,
its first iteration): two linear equations, no camera, good to some 10 degrees, which is what filters need.
"""

from __future__ import annotations

import numpy as np

# Eyes, nose tip, corners of the mouth of a mean adult head: right, down, towards the viewer; millimetres.
HEAD_MODEL = np.array(
    [[-31.5, -32.0, -5.0], [31.5, -32.0, -5.0], [0.0, 0.0, 26.0], [-26.0, 30.0, 0.0], [26.0, 30.0, 0.0]]
)


def estimate_pose(landmarks: np.ndarray) -> tuple[float, float, float]:
    """Yaw, pitch and roll of a head.

    Args:
        landmarks: eyes, nose tip and corners of the mouth as seen, [5, 2] px.

    Returns:
        Yaw, positive where the nose points to the right of the picture; pitch, positive down; roll, positive
        clockwise; in degrees.
    """
    points = np.asarray(landmarks, np.float64)
    centred, model = points - points.mean(0), HEAD_MODEL - HEAD_MODEL.mean(0)
    rows, *_ = np.linalg.lstsq(model, centred, rcond=None)
    across, down = rows[:, 0], rows[:, 1]
    scale = (np.linalg.norm(across) + np.linalg.norm(down)) / 2
    if scale < 1e-9:
        return 0.0, 0.0, 0.0
    # The third column: where the model's forward axis lands in the picture. The roll is taken out of it.
    nose = np.array([across[2] / np.linalg.norm(across), down[2] / np.linalg.norm(down)])
    eyes = points[1] - points[0]
    roll = np.arctan2(eyes[1], eyes[0])
    turn = np.array([[np.cos(roll), np.sin(roll)], [-np.sin(roll), np.cos(roll)]])
    yaw, pitch = np.degrees(np.arcsin(np.clip(turn @ nose, -1, 1)))
    return float(yaw), float(pitch), float(np.degrees(roll))
