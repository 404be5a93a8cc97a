"""The face models of a graph: a detector, and the recogniser that tells persons apart."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Protocol

import numpy as np
from torch import Tensor

from .arcface import load_arcface
from .detection import PACK_FILES, FaceDetector
from .embedding import ArcFaceRecogniser, InsightFaceRecogniser
from .errors import FaceError


class Recogniser(Protocol):
    """What turns ID crops into unit vectors."""

    name: str

    def embed(self, crops: list[np.ndarray]) -> Tensor: ...


class FaceAnalyzer:
    """Names the face models; each is opened when it is first needed.

    Args:
        root: folder that holds `models/<pack>`.
        pack: insightface pack whose detector is used.
        provider: "CPU", "CUDA", "CoreML" or "DirectML".
        encoder_path: the recogniser's file, or None for the pack's own recogniser.
    """

    def __init__(self, root: Path, pack: str, provider: str, encoder_path: Path | None) -> None:
        self.pack = pack
        self.detector = FaceDetector(root, pack, (provider,))
        self.encoder_path = encoder_path

    @cached_property
    def recogniser(self) -> Recogniser:
        """The recogniser, opened.

        Raises:
            FaceError: when its file is no recogniser, or the pack has none that is known.
        """
        if self.encoder_path is not None:
            return ArcFaceRecogniser(load_arcface(self.encoder_path))
        if self.pack not in PACK_FILES:
            raise FaceError(
                f"the recogniser of the detector pack '{self.pack}' is not known: choose the detector pack "
                f"{', '.join(list(PACK_FILES)[:-1])} or {list(PACK_FILES)[-1]}, or an encoder file as encoder"
            )
        model = Path(PACK_FILES[self.pack][1]).stem
        return InsightFaceRecogniser(self.detector.root, self.pack, model, self.detector.providers)
