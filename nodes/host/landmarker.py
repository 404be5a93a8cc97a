"""ComfyUI's own face landmarker (0.30.0 and newer) as a detector: MediaPipe's mesh, of which the crops need five points.

Its weights are open for every use (Apache-2.0), and it runs where ComfyUI's models run.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from ...lynx_core.faces.detection import Face, FaceDetector
from ...lynx_core.faces.errors import FaceError
from ...lynx_core.faces.yunet import order_as_seen
from ...lynx_core.spec import first_line

NAME = "face_detection_model"
"""What messages call it: the input that it comes through."""

FIVE_POINTS = (468, 473, 1, 61, 291)
"""Of the mesh: middle of the person's right and left iris, tip of the nose, right and left corner of the mouth."""

VARIANTS = ("short", "full")
"""For faces near by, and, where those show none, for smaller ones."""

MIN_SCORE = 0.5
"""The host's own default."""


class LandmarkerDetector(FaceDetector):
    """Finds faces with what Load Face Detection Model (MediaPipe) gives.

    Args:
        model: `FaceLandmarkerModel` of the host.

    Raises:
        FaceError: when it is something else.
    """

    def __init__(self, model: Any) -> None:
        super().__init__(Path(), NAME)
        if not hasattr(model, "detect_batch"):
            raise FaceError(
                f"{NAME} is no face landmarker ({type(model).__name__}): connect Load Face Detection Model (MediaPipe)"
            )
        self.model = model

    def load(self) -> None:
        """It is open already."""

    def _find(self, image: np.ndarray) -> list[Face]:
        for variant in VARIANTS:
            try:
                (found,) = self.model.detect_batch(
                    [image], num_faces=0, score_thresh=MIN_SCORE, variant=variant
                )
            except Exception as error:
                raise FaceError(
                    f"ComfyUI's face landmarker fails ({first_line(error)}): disconnect {NAME}, and choose a detector_pack"
                ) from error
            if found:
                faces = [
                    Face(
                        np.float32(face["bbox_xyxy"]),
                        order_as_seen(np.asarray(face["landmarks_xy"])[list(FIVE_POINTS)]),
                        float(face["score"]),
                    )
                    for face in found
                ]
                return sorted(faces, key=lambda face: -face.score)
        return []
