"""Another light on a face: the ratio of two lights in spherical harmonics, over the face's normals.

Nine coefficients carry 98 % of the light that a matt surface gives back (Ramamoorthi and Hanrahan 2001). The
picture is multiplied by new / old shade of each normal; the old one is fitted to the picture. With the option `mesh`
the normals are those of MediaPipe's face mesh. Without, they are those of an ellipsoid laid over the head by its
landmarks: it has no nose and no eye sockets, so shadows of these do not move. Hair and background are left as they
are, and no shadow is cast. A weak augmentation, and honest about it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ...engine.stage import Rejected
from ...faces.crops import measure_face_px
from ...faces.errors import import_package
from ...hashing import hash_file, hash_values
from ..head_pose import estimate_pose
from .face_mesh import FaceMesh, draw_mesh_normals
from .interface import AugmentKind, FaceImage, check_options

_BANDS = np.array([np.pi, *[2 * np.pi / 3] * 3, *[np.pi / 4] * 5])
"""A matt surface's answer to each band of light."""
_RATIO = (0.45, 2.2)
"""Darkest and lightest change of a pixel."""


class Relight:
    """Moves the main light to another side, and changes its warmth.

    Args:
        mesh: face_landmark.tflite, or None for an ellipsoid.
    """

    kind: AugmentKind = "relight"
    licence = "Apache-2.0"

    def __init__(self, strength: float, mesh: Path | None = None) -> None:
        self.strength, self.mesh = strength, mesh
        model = hash_file(mesh) if mesh and mesh.is_file() else str(mesh)
        self.fingerprint = hash_values([2, strength, model])

    @classmethod
    def from_options(cls, options: Mapping[str, str]) -> Relight:
        values = check_options("relight", options, {"strength": "0.7", "mesh": ""})
        mesh = Path(values["mesh"]).expanduser() if values["mesh"] else None
        return cls(float(values["strength"]), mesh)

    def load(self) -> None:
        self._cv2: Any = import_package("cv2", "relighting")
        self._finder = FaceMesh(self.mesh) if self.mesh else None

    def __call__(self, faces: Sequence[FaceImage], rng: np.random.Generator) -> list[FaceImage | Rejected]:
        return [self._relight(face, rng) for face in faces]

    def _relight(self, face: FaceImage, rng: np.random.Generator) -> FaceImage | Rejected:
        if self._finder is None:
            normals, weight = draw_normals(face)
        else:
            points = self._finder.find(face)
            if isinstance(points, Rejected):
                return points
            normals, weight = draw_mesh_normals(points, face.pixels.shape)
        inside = weight > 0.5
        if inside.sum() < 64:
            return Rejected("face too small to relight", f"{int(inside.sum())} pixels")
        basis = evaluate_harmonics(normals)
        luma = face.pixels.mean(-1) / 255
        old, *_ = np.linalg.lstsq(basis[inside], luma[inside], rcond=None)
        angle, height = rng.uniform(0, 2 * np.pi), rng.uniform(-0.5, 0.2)
        direction = np.array([np.cos(angle), height, 0.6])
        light = evaluate_harmonics((direction / np.linalg.norm(direction))[None])[0]
        new = (1 - self.strength) * old + self.strength * old[0] * light / light[0] * _BANDS / _BANDS[0]
        ratio = np.clip((basis @ new) / np.maximum(basis @ old, 0.05), *_RATIO)
        warm = rng.uniform(-0.12, 0.12) * self.strength
        tint = np.array([1 + warm, 1.0, 1 - warm])
        soft = self._cv2.GaussianBlur(weight, (0, 0), max(measure_face_px(face.landmarks) / 25, 1.0))[
            ..., None
        ]
        change = (1 - soft) + soft * ratio[..., None]
        lit = np.clip(face.pixels * change * tint, 0, 255)
        return FaceImage(lit.round().astype(np.uint8), face.landmarks)


def draw_normals(face: FaceImage) -> tuple[np.ndarray, np.ndarray]:
    """Normals of an ellipsoid over the head, [H, W, 3], and where it is, [H, W] float32.

    x points right, y down, z towards the viewer.
    """
    height, width = face.pixels.shape[:2]
    unit = measure_face_px(face.landmarks)
    yaw, _, roll = np.radians(estimate_pose(face.landmarks))
    x, y = face.landmarks.mean(0) - [0.1 * unit * np.sin(yaw), 0.05 * unit]
    rows, columns = np.mgrid[:height, :width].astype(np.float32)
    across = (columns - x) * np.cos(roll) + (rows - y) * np.sin(roll)
    down = (rows - y) * np.cos(roll) - (columns - x) * np.sin(roll)
    u, v = across / (0.42 * unit), down / (0.6 * unit)
    radius = u**2 + v**2
    depth = np.sqrt(np.clip(1 - radius, 0, 1))
    level = np.stack([u, v, depth], -1)
    back = np.stack(
        [
            level[..., 0] * np.cos(roll) - level[..., 1] * np.sin(roll),
            level[..., 1] * np.cos(roll) + level[..., 0] * np.sin(roll),
            level[..., 2],
        ],
        -1,
    )
    length = np.linalg.norm(back, axis=-1, keepdims=True)
    return back / np.maximum(length, 1e-6), (radius < 1).astype(np.float32)


def evaluate_harmonics(normals: np.ndarray) -> np.ndarray:
    """The nine real spherical harmonics up to degree 2 at unit vectors [..., 3], [..., 9]."""
    x, y, z = normals[..., 0], normals[..., 1], normals[..., 2]
    values = [
        np.full_like(x, 0.282095), 0.488603 * y, 0.488603 * z, 0.488603 * x, 1.092548 * x * y, 1.092548 * y * z,
        0.315392 * (3 * z**2 - 1), 1.092548 * x * z, 0.546274 * (x**2 - y**2),
    ]  # fmt: skip
    return np.stack(values, -1)
