"""OpenCV's YuNet: a detector whose licence (MIT) allows every use, with the five landmarks that the crops need.

Source: Wu et al. 2023, "YuNet: a tiny millisecond-level face detector"; `face_detection_yunet_2023mar.onnx` of OpenCV's
model zoo. It was trained on faces of 10 to 300 px, so a photo is fitted into 640 px as for insightface's detector, of
whose size the published file is, too.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ..spec import first_line
from .detection import Face, FaceDetector
from .errors import FaceError, import_package

SUFFIX = ".onnx"
"""A detector is named by its file; insightface's by a folder."""

MIN_SCORE = 0.6


class YuNetDetector(FaceDetector):
    """Finds faces with a YuNet file that is already on disk. Nothing is opened before the first photo.

    Args:
        file: `face_detection_yunet_*.onnx`.
        min_score: the least confidence, 0 to 1.
    """

    def __init__(self, file: Path, min_score: float = MIN_SCORE) -> None:
        super().__init__(file.parent, file.name)
        self.file = file
        self.min_score = min_score

    def load(self) -> None:
        """Open the detector now; `detect` does so by itself.

        Raises:
            FaceError: for a missing package or file, and for a file that is no YuNet.
        """
        if self._analysis is not None:
            return
        cv2 = import_package("cv2", "the detector YuNet")
        if not self.file.is_file():
            raise FaceError(
                f"the detector {self.file.name} is not there: expected in {self.file.parent}. "
                f"Fetch it with: python -m lynx_core.cli.main download yunet"
            )
        try:
            # The bytes, not the path: OpenCV opens no path with letters beyond ASCII on Windows.
            content = np.frombuffer(self.file.read_bytes(), np.uint8)
            side = (self.det_px, self.det_px)
            network = cv2.FaceDetectorYN.create("onnx", content, np.empty(0, np.uint8), side, self.min_score)
            network.detect(np.zeros((*side, 3), np.uint8))  # a network of another kind shows here first
        except Exception as error:
            raise FaceError(
                f"{self.file} is no YuNet that OpenCV opens ({first_line(error)}); delete it, then: "
                f"python -m lynx_core.cli.main download yunet"
            ) from error
        self._analysis = network

    def _find(self, image: np.ndarray) -> list[Face]:
        import cv2

        height, width = image.shape[:2]
        scale = self.det_px / max(height, width)
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
        canvas = np.zeros((self.det_px, self.det_px, 3), np.uint8)
        canvas[: size[1], : size[0]] = cv2.resize(np.ascontiguousarray(image[..., ::-1]), size)
        _, found = self._analysis.detect(canvas)
        # Each axis by what it was scaled with after rounding.
        back = np.array([width / size[0], height / size[1]], np.float32)
        faces = []
        for row in found if found is not None else ():
            corner, extent = row[:2] * back, row[2:4] * back
            box = np.concatenate([corner, corner + extent]).astype(np.float32)
            faces.append(Face(box, order_as_seen(row[4:14].reshape(5, 2) * back), float(row[14])))
        return sorted(faces, key=lambda face: -face.score)


def order_as_seen(landmarks: np.ndarray) -> np.ndarray:
    """Put eyes and corners of the mouth into the order of the picture, [5, 2]; YuNet begins with the person's right."""
    eyes, mouth = landmarks[:2], landmarks[3:]
    eyes = eyes[np.argsort(eyes[:, 0])]
    mouth = mouth[np.argsort(mouth[:, 0])]
    return np.vstack([eyes, landmarks[2:3], mouth]).astype(np.float32)


def open_detector(root: Path, name: str, provider: str) -> FaceDetector:
    """Make the detector of this name: a YuNet file in `root`, or an insightface model pack in `root/models`."""
    if name.endswith(SUFFIX):
        return YuNetDetector(Path(root) / name)
    return FaceDetector(root, name, (provider,))
