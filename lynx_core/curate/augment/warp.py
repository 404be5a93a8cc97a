"""Another expression by moving the corners of the mouth and the brows: a thin-plate spline on few points.

It widens, narrows, lifts and drops what is there; it opens no mouth and closes no eye. With the option `mesh` the points
are those of MediaPipe's face mesh, lips and brows as they are; without, mean places in the aligned crop. Weak; use a face animator (LivePortrait, X-NeMo) through `command` or `comfyui` for real ones.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ...engine.stage import Rejected
from ...faces.crops import ARCFACE_TEMPLATE, fit_similarity, measure_face_px
from ...faces.errors import import_package
from ...hashing import hash_file, hash_values
from .face_mesh import FaceMesh
from .interface import AugmentKind, FaceImage, check_options

_BROWS = np.array([[36.0, 40.0], [76.0, 40.0]])
_STILL = np.array(
    [[38.3, 51.7], [73.5, 51.5], [56.0, 60.0], [56.0, 72.0], [56.0, 112.0], [20.0, 60.0], [92.0, 60.0], [24.0, 92.0], [88.0, 92.0], [56.0, 14.0]]
)  # fmt: skip
"""Points of the 112 px crop that stay: eyes, nose, chin, cheeks, hairline."""


_MESH_CORNERS, _MESH_LIPS, _MESH_BROWS = (
    (61, 291),
    (0, 13, 14, 17),
    (70, 63, 105, 66, 107, 300, 293, 334, 296, 336),
)
_MESH_STILL = (
    33, 159, 133, 145, 362, 386, 263, 374, 1, 2, 98, 327, 168, 152, 148, 377, 172, 397, 234, 454, 50, 280, 10, 67, 297
)  # fmt: skip
"""Points of the mesh: eyes, nose, chin, jaw, ears, cheeks and hairline stay."""


class LandmarkWarp:
    """Smiles, frowns and raised brows.

    Args:
        mesh: face_landmark.tflite, or None for mean places.
    """

    kind: AugmentKind = "expression"
    licence = "Apache-2.0"

    def __init__(self, strength: float, mesh: Path | None = None) -> None:
        self.strength, self.mesh = strength, mesh
        model = hash_file(mesh) if mesh and mesh.is_file() else str(mesh)
        self.fingerprint = hash_values([2, strength, model])

    @classmethod
    def from_options(cls, options: Mapping[str, str]) -> LandmarkWarp:
        values = check_options("warp", options, {"strength": "1.0", "mesh": ""})
        mesh = Path(values["mesh"]).expanduser() if values["mesh"] else None
        return cls(float(values["strength"]), mesh)

    def load(self) -> None:
        self._cv2: Any = import_package("cv2", "warping faces")
        self._finder = FaceMesh(self.mesh) if self.mesh else None

    def __call__(self, faces: Sequence[FaceImage], rng: np.random.Generator) -> list[FaceImage | Rejected]:
        return [self._warp(face, rng) for face in faces]

    def _warp(self, face: FaceImage, rng: np.random.Generator) -> FaceImage | Rejected:
        lift = rng.choice([-1.0, 1.0]) * rng.uniform(2.0, 4.5) * self.strength
        wide = rng.uniform(-1.5, 3.0) * self.strength
        brow = rng.uniform(-2.5, 2.5) * self.strength
        unit_px = measure_face_px(face.landmarks)
        if self._finder is not None:
            points = self._finder.find(face)
            if isinstance(points, Rejected):
                return points
            source, target = move_mesh(points[:, :2], face.landmarks, wide, lift, brow)
            landmarks = face.landmarks.copy()
            landmarks[3:] += target[:2] - source[:2]
            return FaceImage(bend(self._cv2, face.pixels, source, target, unit_px), landmarks)
        mouth = ARCFACE_TEMPLATE[3:].astype(np.float64)
        before = np.vstack([_STILL, mouth, _BROWS])
        moved_mouth = mouth + np.array([[-wide, -lift], [wide, -lift]])
        after = np.vstack([_STILL, moved_mouth, _BROWS + np.array([0, -brow])])
        to_picture = fit_similarity(ARCFACE_TEMPLATE, face.landmarks)
        source, target = (points @ to_picture[:, :2].T + to_picture[:, 2] for points in (before, after))
        pixels = bend(self._cv2, face.pixels, source, target, unit_px)
        landmarks = face.landmarks.copy()
        landmarks[3:] += moved_mouth @ to_picture[:, :2].T - mouth @ to_picture[:, :2].T
        return FaceImage(pixels, landmarks)


def move_mesh(
    points: np.ndarray, landmarks: np.ndarray, wide: float, lift: float, brow: float
) -> tuple[np.ndarray, np.ndarray]:
    """Points of a mesh before and after an expression, [n, 2] px, the corners of the mouth first.

    Args:
        wide, lift, brow: of the corners outwards and up, and of the brows up, in pixels of the 112 px crop.
    """
    scale = fit_similarity(ARCFACE_TEMPLATE, landmarks)[:, :2]
    still = np.zeros((len(_MESH_STILL), 2))
    lips = np.tile([0.0, -0.3 * lift], (len(_MESH_LIPS), 1))
    brows = np.tile([0.0, -brow], (len(_MESH_BROWS), 1))
    moves = np.vstack([[[-wide, -lift], [wide, -lift]], lips, brows, still])
    source = points[[*_MESH_CORNERS, *_MESH_LIPS, *_MESH_BROWS, *_MESH_STILL]]
    return source, source + moves @ scale.T


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
