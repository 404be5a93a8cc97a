"""Any number of face recognisers through one interface: faces found in frames in, unit vectors out.

Those of the nodes see the 112 px ArcFace crop. dlib aligns by landmarks of its own, and a recogniser of one's
own may want the whole frame, so all are given the frame with the face's box and landmarks.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from ..faces.analyzer import ArcFaceRecogniser, InsightFaceRecogniser, normalise
from ..faces.crops import crop_for_id
from ..faces.detection import Face
from ..faces.errors import FaceError


@dataclass(frozen=True, eq=False)
class SeenFace:
    """A face in a frame or photo."""

    frame: np.ndarray
    """[H, W, 3] uint8 RGB."""
    face: Face

    @cached_property
    def id_crop(self) -> np.ndarray:
        """[112, 112, 3] uint8 RGB, aligned by the ArcFace template."""
        return crop_for_id(self.frame, self.face.landmarks)


class FaceNetwork(Protocol):
    """What a recogniser of any kind offers; a callable of kind "python" returns one."""

    def embed(self, faces: list[SeenFace]) -> Tensor:
        """Unit vectors [n, dim] of n faces, n of 1 or more."""
        ...


@dataclass(frozen=True)
class Recogniser:
    """An opened recogniser with what tells its rows in the ledger."""

    name: str
    sha256: str
    """Of the weights."""
    same_person: float
    network: FaceNetwork

    def embed(self, faces: list[SeenFace]) -> Tensor:
        """Unit vectors [n, dim] float32 on the CPU.

        Raises:
            FaceError: when the network fails or gives vectors of no length.
        """
        vectors = torch.as_tensor(np.asarray(self.network.embed(faces)), dtype=torch.float32)
        if vectors.ndim != 2 or len(vectors) != len(faces):
            raise FaceError(f"{self.name} gave embeddings {list(vectors.shape)} for {len(faces)} faces")
        return normalise(vectors)


class CropNetwork:
    """A recogniser of the face front end, which wants 112 px crops."""

    def __init__(self, recogniser: ArcFaceRecogniser | InsightFaceRecogniser) -> None:
        self.recogniser = recogniser

    def embed(self, faces: list[SeenFace]) -> Tensor:
        return self.recogniser.embed([face.id_crop for face in faces])
