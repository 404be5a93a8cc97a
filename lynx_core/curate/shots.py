"""Cuts of footage, frame by frame as it is decoded, by PySceneDetect's content detector."""

from __future__ import annotations

import numpy as np

from ..faces.errors import import_package
from .configuration import ShotsConfig

_WIDTH_PX = 160
"""Frames are compared at this width; the detector's own default is near it."""


class ShotDetector:
    """Says of each frame whether a shot begins with it.

    Args:
        config: the settings.
        fps: of the footage.
    """

    def __init__(self, config: ShotsConfig, fps: float) -> None:
        package = import_package("scenedetect", "finding shots")
        self._cv2 = import_package("cv2", "finding shots")
        self._timecode = package.FrameTimecode
        self._fps = fps or 25.0
        mode = import_package("scenedetect.detector", "finding shots").FlashFilter.Mode.SUPPRESS
        length = max(round(config.min_s * self._fps), 1)
        self._detector = package.ContentDetector(config.threshold, length, filter_mode=mode)

    def begins_shot(self, frame: int, pixels: np.ndarray) -> bool:
        """Take the next frame, [H, W, 3] uint8 RGB."""
        height = max(round(pixels.shape[0] * _WIDTH_PX / pixels.shape[1]), 2)
        small = self._cv2.resize(pixels, (_WIDTH_PX, height), interpolation=self._cv2.INTER_AREA)
        code = self._timecode(frame, self._fps)
        return bool(self._detector.process_frame(code, np.ascontiguousarray(small[..., ::-1]))) and frame > 0
