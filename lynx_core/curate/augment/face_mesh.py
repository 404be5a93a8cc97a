"""468 points of a face with their depth, by MediaPipe's face mesh, and the normals that follow from them.

The file is `face_landmark.tflite`, which the wheel of mediapipe 0.10.14 carries (Apache-2.0), run by ai-edge-litert;
the variant with attention (478 points) has an operation that LiteRT lacks. With a mesh, nose and eye sockets have
normals of their own, and an expression moves lips and brows where they are.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from ...engine.stage import Rejected
from ...faces.crops import measure_face_px
from ...faces.errors import import_package
from ..errors import CurationError
from .interface import FaceImage

NUM_POINTS = 468
_INPUT_PX = 192
_MIN_SCORE = 0.5
_FIRST_SIDE, _SIDE = 1.3, 1.5
"""Of the square that the network sees: of the side of the ID crop's square, then of the mesh's longer side."""


class FaceMesh:
    """Finds the points of a face.

    Args:
        model: the .tflite file.
    """

    def __init__(self, model: Path) -> None:
        self._cv2: Any = import_package("cv2", "the face mesh")
        litert: Any = import_package("ai_edge_litert.interpreter", "the face mesh")
        if not model.is_file():
            raise CurationError(f"there is no face mesh at {model}; without the option `mesh`, none is used")
        try:
            self._interpreter = litert.Interpreter(model_path=str(model))
            self._interpreter.allocate_tensors()
        except (ValueError, RuntimeError) as error:
            raise CurationError(f"{model} is no model that LiteRT opens ({error})") from error
        sizes = [int(np.prod(output["shape"])) for output in self._interpreter.get_output_details()]
        if sorted(sizes) != [1, 3 * NUM_POINTS]:
            raise CurationError(f"{model} is no face_landmark.tflite: it gives {sizes} numbers")

    def find(self, face: FaceImage) -> np.ndarray | Rejected:
        """Points [468, 3]: x right, y down, z towards the viewer, all in pixels; or why there are none."""
        side, middle = _FIRST_SIDE * measure_face_px(face.landmarks), face.landmarks.mean(0)
        points, score = self._look(face, middle, side)
        ends = points[:, :2].min(0), points[:, :2].max(0)
        if score >= _MIN_SCORE:
            points, score = self._look(
                face, (ends[0] + ends[1]) / 2, _SIDE * float((ends[1] - ends[0]).max())
            )
        if score < _MIN_SCORE:
            return Rejected("no face mesh", f"the network is sure to {score:.2f} that it sees a face")
        return points

    def _look(self, face: FaceImage, middle: np.ndarray, side: float) -> tuple[np.ndarray, float]:
        across = face.landmarks[1] - face.landmarks[0]
        axis = across / max(float(np.linalg.norm(across)), 1e-6)
        turn = np.array([axis, [-axis[1], axis[0]]])  # rows: right and down of the upright face
        scale = _INPUT_PX / side
        matrix = np.column_stack([scale * turn, _INPUT_PX / 2 - scale * turn @ middle])
        crop = self._cv2.warpAffine(face.pixels, matrix, (_INPUT_PX, _INPUT_PX), flags=self._cv2.INTER_AREA)
        network = self._interpreter
        network.set_tensor(network.get_input_details()[0]["index"], crop[None].astype(np.float32) / 255)
        network.invoke()
        found = [network.get_tensor(output["index"]).ravel() for output in network.get_output_details()]
        marks, flag = sorted(found, key=len, reverse=True)
        points = marks.reshape(NUM_POINTS, 3).astype(np.float64)
        flat = (points[:, :2] - _INPUT_PX / 2) @ turn / scale + middle
        return np.column_stack([flat, -points[:, 2] / scale]), float(1 / (1 + np.exp(-flag[0])))


def draw_mesh_normals(points: np.ndarray, size: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Normals of the surface through points [n, 3], [H, W, 3], and where it is, [H, W] float32.

    Args:
        size: height and width.
    """
    cv2: Any = import_package("cv2", "the face mesh")
    height, width = size[:2]
    inside = (
        (points[:, 0] > 0) & (points[:, 0] < width - 1) & (points[:, 1] > 0) & (points[:, 1] < height - 1)
    )
    seen = points[inside]
    weight = np.zeros((height, width), np.float32)
    normals = np.tile(np.array([0, 0, 1], np.float32), (height, width, 1))
    if len(seen) < 16:
        return normals, weight
    hull = cv2.convexHull(np.round(seen[:, :2]).astype(np.int32))
    cv2.fillConvexPoly(weight, hull, 1.0)
    division = cv2.Subdiv2D((0, 0, width, height))
    heights = {}
    for x, y, z in seen:
        corner = (float(np.float32(x)), float(np.float32(y)))
        division.insert(corner)
        heights[round(corner[0], 2), round(corner[1], 2)] = float(z)
    for triangle in division.getTriangleList().reshape(-1, 3, 2):
        levels = [heights.get((round(float(x), 2), round(float(y), 2))) for x, y in triangle]
        if None in levels:
            continue
        corners = np.column_stack([triangle, np.array(levels, float)])
        facet = np.cross(corners[1] - corners[0], corners[2] - corners[0])
        facet = facet / max(float(np.linalg.norm(facet)), 1e-6) * (1 if facet[2] > 0 else -1)
        cv2.fillConvexPoly(normals, np.round(triangle).astype(np.int32), facet.tolist())
    # Smooth as skin is; beyond the edge the last normals go on, so that light fades out without a seam.
    sigma = max(float(seen[:, 0].max() - seen[:, 0].min()) / 20, 1.0)
    share = cv2.GaussianBlur(weight, (0, 0), sigma)[..., None]
    smooth = cv2.GaussianBlur(normals * weight[..., None], (0, 0), sigma) / np.maximum(share, 1e-6)
    length = np.linalg.norm(smooth, axis=-1, keepdims=True)
    return np.where(share > 1e-3, smooth / np.maximum(length, 1e-6), normals), weight
