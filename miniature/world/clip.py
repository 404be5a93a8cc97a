"""A few frames of a person doing something."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..edition import EDITION
from .head import Head
from .identity import Identity
from .portrait import draw_portrait
from .scene import Pose, Scene, move

NUM_FRAMES = EDITION.num_frames
FRAME_PX = EDITION.frame_px
FPS = 8


@dataclass(frozen=True)
class Shot:
    """A person, a place, and an action that begins in a pose."""

    identity: Identity
    scene: Scene
    pose: Pose
    action: int

    def pose_at(self, frame: int, num_frames: int = NUM_FRAMES) -> Pose:
        """The pose in one frame of the action."""
        return move(self.pose, self.action, frame / max(num_frames - 1, 1))

    def draw_frame(self, frame: int, size_px: int = FRAME_PX, num_frames: int = NUM_FRAMES) -> np.ndarray:
        """One frame, [size_px, size_px, 3] uint8 RGB."""
        return draw_portrait(self.identity, self.scene, self.pose_at(frame, num_frames), size_px)

    def draw_clip(self, size_px: int = FRAME_PX, num_frames: int = NUM_FRAMES) -> np.ndarray:
        """All frames, [num_frames, size_px, size_px, 3] uint8 RGB."""
        return np.stack([self.draw_frame(frame, size_px, num_frames) for frame in range(num_frames)])

    def find_landmarks(self, frame: int, size_px: int = FRAME_PX, num_frames: int = NUM_FRAMES) -> np.ndarray:
        """The five points of the face in one frame, [5, 2] px."""
        return Head(self.identity, self.pose_at(frame, num_frames), size_px).landmarks()
