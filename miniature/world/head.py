"""The head's shape in space, and where its points fall in the picture.

Head coordinates: x to the picture's right and y down, both in half head heights from the middle of the
head; a point on the face lies on a rounded front, so features wander as the head turns.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import skia

from .identity import Identity
from .scene import Pose

EYE_Y, NOSE_Y, MOUTH_Y = -0.12, 0.22, 0.55


@dataclass(frozen=True)
class Head:
    """A person's head in one pose, in a picture of `size_px`."""

    identity: Identity
    pose: Pose
    size_px: int

    @property
    def half_width(self) -> float:
        """Of the face, in head units."""
        return 0.70 + 0.16 * self.identity.face_width

    @property
    def chin_y(self) -> float:
        return 0.92 + 0.16 * self.identity.face_length

    @property
    def eye_x(self) -> float:
        return 0.29 + 0.10 * self.identity.eye_spacing

    @property
    def mouth_half_width(self) -> float:
        return 0.22 + 0.06 * max(self.pose.smile, 0)

    @property
    def unit_px(self) -> float:
        """Pixels of one head unit."""
        return self.pose.scale * self.size_px

    def place(self, x: float, y: float, z: float) -> tuple[float, float]:
        """Where a point of the head falls, in pixels."""
        pose = self.pose
        turned_x = x * math.cos(pose.yaw) + z * math.sin(pose.yaw)
        turned_z = z * math.cos(pose.yaw) - x * math.sin(pose.yaw)
        turned_y = y * math.cos(pose.pitch) + turned_z * math.sin(pose.pitch)
        rolled_x = turned_x * math.cos(pose.roll) - turned_y * math.sin(pose.roll)
        rolled_y = turned_x * math.sin(pose.roll) + turned_y * math.cos(pose.roll)
        return (
            pose.x * self.size_px + rolled_x * self.unit_px,
            pose.y * self.size_px + rolled_y * self.unit_px,
        )

    def place_on_face(self, x: float, y: float, lift: float = 0.0) -> tuple[float, float]:
        """Where a point on the face's front falls; `lift` is its height above the skin."""
        away = min((x / (self.half_width + 0.12)) ** 2 + (y / 1.25) ** 2, 1.0)
        return self.place(x, y, 0.75 * math.sqrt(1 - away) + lift)

    def trace(
        self, points: list[tuple[float, float]], lift: float = 0.0, *, closed: bool = True
    ) -> skia.Path:
        """A smooth line through points on the face."""
        return smooth_path([self.place_on_face(x, y, lift) for x, y in points], closed=closed)

    def outline(self, grow: float = 0.0) -> list[tuple[float, float]]:
        """Head coordinates round the face, from the right ear over the chin; `grow` widens it."""
        points = []
        for angle in np.linspace(0, 2 * math.pi, 48, endpoint=False):
            x, y = math.cos(angle), math.sin(angle)
            if y > 0:  # the lower half, from pointed to square
                power = 1.25 - 0.6 * self.identity.jaw
                x = math.copysign(abs(x) ** power, x)
                y *= self.chin_y
            points.append((x * (self.half_width + grow), y + math.copysign(grow, y) * abs(y)))
        return points

    def landmarks(self) -> np.ndarray:
        """Eyes, tip of the nose and corners of the mouth from left to right in the picture, [5, 2] px."""
        corner_y = MOUTH_Y - 0.05 * self.pose.smile
        places = [
            self.place_on_face(-self.eye_x, EYE_Y),
            self.place_on_face(self.eye_x, EYE_Y),
            self.place_on_face(0, NOSE_Y, 0.12),
            self.place_on_face(-self.mouth_half_width, corner_y),
            self.place_on_face(self.mouth_half_width, corner_y),
        ]
        return np.array(places, dtype=np.float32)

    def box(self) -> np.ndarray:
        """Box round the face: left, top, right, bottom in px."""
        points = np.array([self.place(x, y, 0.0) for x, y in self.outline()])
        return np.concatenate([points.min(0), points.max(0)]).astype(np.float32)


def smooth_path(points: list[tuple[float, float]], *, closed: bool = True) -> skia.Path:
    """A line through the points, rounded by quadratic curves between their midpoints."""
    path = skia.PathBuilder() if hasattr(skia, "PathBuilder") else skia.Path()
    if closed:
        ring = [*points, points[0], points[1]]
        path.moveTo(*_middle(ring[0], ring[1]))
        for here, after in pairwise(ring[1:]):
            path.quadTo(*here, *_middle(here, after))
        path.close()
    else:
        path.moveTo(*points[0])
        for here, after in pairwise(points[1:]):
            path.quadTo(*here, *(_middle(here, after) if after is not points[-1] else after))
        if len(points) == 2:
            path.lineTo(*points[1])
    return path.detach() if hasattr(path, "detach") else path


def _middle(a: tuple[float, float], b: tuple[float, float]) -> tuple[float, float]:
    return (a[0] + b[0]) / 2, (a[1] + b[1]) / 2
