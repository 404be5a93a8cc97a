"""Face crops of the drawn people, cut by the landmarks they were drawn with."""

from __future__ import annotations

import numpy as np

from lynx_core.faces.crops import crop_for_id, crop_for_reference

from .clip import Shot

PHOTO_PX = 256


def draw_crops(
    shot: Shot, frame: int = 0, landmark_error: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Draw a photo and cut its face: the ID crop [112, 112, 3] and the reference crop [256, 256, 3], uint8.

    Args:
        landmark_error: [5, 2], what a detector gets wrong, in half head heights.
    """
    photo, landmarks = shot.draw_frame(frame, PHOTO_PX), shot.find_landmarks(frame, PHOTO_PX)
    if landmark_error is not None:
        landmarks = landmarks + (landmark_error * shot.pose.scale * PHOTO_PX).astype(np.float32)
    return crop_for_id(photo, landmarks), crop_for_reference(photo, landmarks)
