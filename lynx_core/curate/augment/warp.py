"""Another expression by moving the corners of the mouth and the brows: a thin-plate spline on few points.

It widens, narrows, lifts and drops what is there; it opens no mouth and closes no eye. Weak, and needs no weights;
use a face animator (LivePortrait, X-NeMo) through `command` or `comfyui` for real ones.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ...engine.stage import Rejected
from ...faces.crops import ARCFACE_TEMPLATE, fit_similarity, measure_face_px
from ...faces.errors import import_package
from ...hashing import hash_values
from .interface import AugmentKind, FaceImage, check_options

_BROWS = np.array([[36.0, 40.0], [76.0, 40.0]])
_STILL = np.array(
    [[38.3, 51.7], [73.5, 51.5], [56.0, 60.0], [56.0, 72.0], [56.0, 112.0], [20.0, 60.0], [92.0, 60.0], [24.0, 92.0], [88.0, 92.0], [56.0, 14.0]]
)  # fmt: skip
"""Points of the 112 px crop that stay: eyes, nose, chin, cheeks, hairline."""


class LandmarkWarp:
    """Smiles, frowns and raised brows."""

    kind: AugmentKind = "expression"
    licence = "Apache-2.0"

    def __init__(self, strength: float) -> None:
        self.strength = strength
        self.fingerprint = hash_values([1, strength])

    @classmethod
    def from_options(cls, options: Mapping[str, str]) -> LandmarkWarp:
        return cls(float(check_options("warp", options, {"strength": "1.0"})["strength"]))

    def load(self) -> None:
        self._cv2: Any = import_package("cv2", "warping faces")

    def __call__(self, faces: Sequence[FaceImage], rng: np.random.Generator) -> list[FaceImage | Rejected]:
        return [self._warp(face, rng) for face in faces]

    def _warp(self, face: FaceImage, rng: np.random.Generator) -> FaceImage:
        lift = rng.choice([-1.0, 1.0]) * rng.uniform(2.0, 4.5) * self.strength
        wide = rng.uniform(-1.5, 3.0) * self.strength
        brow = rng.uniform(-2.5, 2.5) * self.strength
        mouth = ARCFACE_TEMPLATE[3:].astype(np.float64)
        before = np.vstack([_STILL, mouth, _BROWS])
        moved_mouth = mouth + np.array([[-wide, -lift], [wide, -lift]])
        after = np.vstack([_STILL, moved_mouth, _BROWS + np.array([0, -brow])])
        to_picture = fit_similarity(ARCFACE_TEMPLATE, face.landmarks)
        source, target = (points @ to_picture[:, :2].T + to_picture[:, 2] for points in (before, after))
        pixels = bend(self._cv2, face.pixels, source, target, measure_face_px(face.landmarks))
        landmarks = face.landmarks.copy()
        landmarks[3:] += moved_mouth @ to_picture[:, :2].T - mouth @ to_picture[:, :2].T
        return FaceImage(pixels, landmarks)


def bend(cv2: Any, pixels: np.ndarray, source: np.ndarray, target: np.ndarray, unit_px: float) -> np.ndarray:
    """A picture in which the points `source` come to lie on `target`; far from them nothing moves."""
    height, width = pixels.shape[:2]
    rows, columns = np.mgrid[:height:4, :width:4].astype(np.float64)
    places = np.column_stack([columns.ravel(), rows.ravel()])
    shift = solve_spline(target, source - target, places)
    near = np.exp(-((np.linalg.norm(places - target.mean(0), axis=1) / (0.75 * unit_px)) ** 4))[:, None]
    shift = (shift * near).reshape(*rows.shape, 2).astype(np.float32)
    full = cv2.resize(shift, (width, height), interpolation=cv2.INTER_LINEAR)
    grid = np.mgrid[:height, :width].astype(np.float32)
    return np.asarray(
        cv2.remap(pixels, grid[1] + full[..., 0], grid[0] + full[..., 1], cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)
    )  # fmt: skip


def solve_spline(points: np.ndarray, values: np.ndarray, places: np.ndarray) -> np.ndarray:
    """The thin-plate spline through `values` [n, 2] at `points` [n, 2], at `places` [m, 2]; Bookstein 1989."""
    count = len(points)

    def kernel(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        squared = ((a[:, None] - b[None]) ** 2).sum(-1)
        return squared * np.log(np.maximum(squared, 1e-12))

    affine = np.column_stack([np.ones(count), points])
    system = np.zeros((count + 3, count + 3))
    system[:count, :count], system[:count, count:], system[count:, :count] = (
        kernel(points, points),
        affine,
        affine.T,
    )
    solved = np.linalg.solve(system, np.vstack([values, np.zeros((3, 2))]))
    return (
        kernel(places, points) @ solved[:count]
        + np.column_stack([np.ones(len(places)), places]) @ solved[count:]
    )
