"""Where the person is, as a soft mask: MediaPipe's selfie segmentation, or GrabCut around the landmarks.

The network is better and needs a file: `selfie_segmentation.tflite`, which the wheel of mediapipe 0.10.14
carries (Apache-2.0), run by ai-edge-litert. GrabCut (Rother et al. 2004) needs none; it starts from an
ellipse for the head and a trapezium for the shoulders, and fails where clothes and background look alike.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from ...faces.crops import measure_face_px
from ...faces.errors import import_package
from ..errors import CurationError
from .interface import FaceImage

_GRABCUT_PX = 192
_NETWORK_PX = 256


class PersonMask:
    """Finds the person in a picture.

    Args:
        model: the .tflite file, or None for GrabCut.
    """

    def __init__(self, model: Path | None) -> None:
        self._cv2: Any = import_package("cv2", "masks of people")
        self._interpreter: Any = None
        if model is None:
            return
        litert: Any = import_package("ai_edge_litert.interpreter", "the segmentation network")
        if not model.is_file():
            raise CurationError(
                f"there is no segmentation model at {model}; without the option, GrabCut is used"
            )
        try:
            self._interpreter = litert.Interpreter(model_path=str(model))
            self._interpreter.allocate_tensors()
        except (ValueError, RuntimeError) as error:
            raise CurationError(f"{model} is no model that LiteRT opens ({error})") from error

    def find(self, face: FaceImage) -> np.ndarray:
        """[H, W] float32, 1 on the person, 0 elsewhere, soft at the edge."""
        rough = self._segment(face) if self._interpreter else self._cut(face)
        height, width = face.pixels.shape[:2]
        mask = self._cv2.resize(rough, (width, height), interpolation=self._cv2.INTER_LINEAR)
        soft_px = max(measure_face_px(face.landmarks) / 60, 1.0)
        return np.clip(self._cv2.GaussianBlur(mask, (0, 0), soft_px), 0, 1)

    def _segment(self, face: FaceImage) -> np.ndarray:
        small = self._cv2.resize(face.pixels, (_NETWORK_PX, _NETWORK_PX), interpolation=self._cv2.INTER_AREA)
        inputs, outputs = self._interpreter.get_input_details()[0], self._interpreter.get_output_details()[0]
        self._interpreter.set_tensor(inputs["index"], small[None].astype(np.float32) / 255)
        self._interpreter.invoke()
        return np.asarray(self._interpreter.get_tensor(outputs["index"]), np.float32).reshape(
            _NETWORK_PX, _NETWORK_PX
        )

    def _cut(self, face: FaceImage) -> np.ndarray:
        cv2 = self._cv2
        scale = _GRABCUT_PX / max(face.pixels.shape[:2])
        size = tuple(max(round(side * scale), 8) for side in face.pixels.shape[1::-1])
        small = cv2.resize(face.pixels, size, interpolation=cv2.INTER_AREA)
        marks = draw_prior(face.landmarks * scale, size)
        models = np.zeros((1, 65)), np.zeros((1, 65))
        cv2.setRNGSeed(0)
        cv2.grabCut(np.ascontiguousarray(small[..., ::-1]), marks, None, *models, 4, cv2.GC_INIT_WITH_MASK)
        return np.isin(marks, (cv2.GC_FGD, cv2.GC_PR_FGD)).astype(np.float32)


def draw_prior(landmarks: np.ndarray, size: tuple[int, ...]) -> np.ndarray:
    """Where head and shoulders surely and likely are, from the landmarks, in GrabCut's four values, [H, W]."""
    cv2: Any = import_package("cv2", "masks of people")
    width, height = size
    unit = measure_face_px(landmarks)
    x, y = landmarks.mean(0)
    marks = np.full((height, width), cv2.GC_PR_BGD, np.uint8)
    marks[: max(int(y - 0.95 * unit), 0)] = cv2.GC_BGD
    head = (round(float(x)), round(float(y - 0.08 * unit)))
    cv2.ellipse(marks, head, (round(0.52 * unit), round(0.75 * unit)), 0, 0, 360, cv2.GC_PR_FGD, -1)
    neck, floor = y + 0.55 * unit, height + unit
    body = [(x - 0.3 * unit, neck), (x + 0.3 * unit, neck), (x + 1.5 * unit, floor), (x - 1.5 * unit, floor)]
    cv2.fillPoly(marks, [np.int32(np.round(body))], cv2.GC_PR_FGD)
    cv2.ellipse(marks, head, (round(0.3 * unit), round(0.45 * unit)), 0, 0, 360, cv2.GC_FGD, -1)
    return marks
