"""What is measured without any network: motion, consistency from frame to frame, sharpness.

Motion is the mean length of the optical flow. Its signed mean would be nothing where halves of the picture move
apart. Lengths are in shares of the picture's diagonal per second, so that size and frame rate drop out.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from ..faces.errors import import_package
from .video import Video

FLOW_PX = 256
"""Longest side at which flow is computed."""
SHARPNESS_PX = 480
"""Shorter side above which frames are shrunk before sharpness is measured."""


@dataclass(frozen=True)
class MotionScores:
    """Figures of one video."""

    motion: float
    """Mean length of the flow, in diagonals of the picture per second."""
    temporal_consistency: float
    """1 minus the mean difference between a frame and the one before moved along the flow, of 0 to 1."""
    sharpness: float
    """Variance of the Laplacian of the grey frames, squared grey levels of 255, mean over the frames."""


def measure_motion(video: Video) -> MotionScores:
    """Measure a video; one of a single frame does not move and is consistent with itself."""
    cv2 = import_package("cv2", "measuring motion")
    greys = [_shrink(cv2, cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY), FLOW_PX, max) for frame in video.frames]
    lengths, differences = [], []
    for before, after in pairwise(greys):
        flow = compute_flow(cv2, after, before)
        lengths.append(float(np.linalg.norm(flow, axis=-1).mean()) / float(np.hypot(*after.shape)))
        differences.append(_measure_change(cv2, before, after, flow))
    sharp = [
        float(
            cv2.Laplacian(
                _shrink(cv2, cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY), SHARPNESS_PX, min), cv2.CV_64F
            ).var()
        )
        for frame in video.frames
    ]
    return MotionScores(
        motion=float(np.mean(lengths)) * video.fps if lengths else 0.0,
        temporal_consistency=1 - float(np.mean(differences)) if differences else 1.0,
        sharpness=float(np.mean(sharp)),
    )


def compute_flow(cv2: Any, source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Optical flow [H, W, 2] px from grey `source` to `target` (Farnebäck 2003)."""
    return cv2.calcOpticalFlowFarneback(source, target, None, 0.5, 4, 13, 5, 5, 1.1, 0)


def _measure_change(cv2: Any, before: np.ndarray, after: np.ndarray, flow: np.ndarray) -> float:
    """Mean difference of `after` and `before` moved along the flow, inside the picture, 0 to 1."""
    height, width = after.shape
    x, y = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))
    at = flow + np.stack([x, y], -1)
    moved = cv2.remap(before, at[..., 0].astype(np.float32), at[..., 1].astype(np.float32), cv2.INTER_LINEAR)
    inside = (at[..., 0] >= 0) & (at[..., 0] < width) & (at[..., 1] >= 0) & (at[..., 1] < height)
    difference = np.abs(moved.astype(np.float32) - after.astype(np.float32)) / 255
    return float(difference[inside].mean()) if inside.any() else 1.0


def _shrink(cv2: Any, grey: np.ndarray, size_px: int, side: Any) -> np.ndarray:
    """A grey picture whose longer (max) or shorter (min) side has at most `size_px`."""
    scale = size_px / side(grey.shape)
    if scale >= 1:
        return grey
    return cv2.resize(grey, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
