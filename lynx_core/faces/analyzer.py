"""The face models of a graph: a detector, and the recogniser that tells who a person is.

An embedding is a unit vector. An adapter works with one recogniser only; another one gives another
person. Hence the canonical names, "facexlib/arcface_ir_se50" for the release and
"insightface/<pack>/<model>" for a model pack's recogniser (InstantID's resampler wants antelopev2's
glintr100).
"""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..spec import ID_CROP_PX, first_line
from .arcface import ArcFaceIRSE50, load_arcface
from .detection import PACK_FILES, FaceDetector, find_pack_folder, resolve_providers
from .errors import FaceError, import_package
from .yunet import open_detector

_MIN_MEAN_NORM = 0.1
"""Below this the mean says nothing: two vectors at a cosine of -0.98."""


class FaceAnalyzer:
    """Names the face models; each is opened when it is first needed.

    Args:
        root: folder that holds `models/<pack>`, or the file of a YuNet detector.
        pack: insightface model pack whose detector is used, or the name of YuNet's file.
        provider: "CPU", "CUDA", "CoreML" or "DirectML".
        recogniser_path: the recogniser's file, or None for the model pack's own.
        detector: finds faces in the place of the model pack's.
    """

    def __init__(
        self,
        root: Path,
        pack: str,
        provider: str,
        recogniser_path: Path | None,
        detector: FaceDetector | None = None,
    ) -> None:
        self.root, self.pack, self.provider = root, pack, provider
        self.detector = detector or open_detector(root, pack, provider)
        self.recogniser_path = recogniser_path

    @cached_property
    def recogniser(self) -> ArcFaceRecogniser | InsightFaceRecogniser:
        """The recogniser, opened.

        Raises:
            FaceError: when its file is no recogniser, or the model pack has none that is known.
        """
        if self.recogniser_path is not None:
            return ArcFaceRecogniser(load_arcface(self.recogniser_path))
        if self.pack not in PACK_FILES:
            raise FaceError(
                f"the recogniser of the detector pack '{self.pack}' is not known: choose the detector pack "
                f"{', '.join(list(PACK_FILES)[:-1])} or {list(PACK_FILES)[-1]}, or an encoder file as encoder"
            )
        model = Path(PACK_FILES[self.pack][1]).stem
        return InsightFaceRecogniser(self.root, self.pack, model, (self.provider,))


class ArcFaceRecogniser:
    """The release's recogniser: RGB crops are flipped to BGR and scaled to -1..1."""

    def __init__(self, network: ArcFaceIRSE50) -> None:
        self.network = network
        self.name = network.recogniser

    def embed(self, crops: list[np.ndarray]) -> Tensor:
        """112 px RGB crops [112, 112, 3] uint8 -> unit embeddings [n, 512], fp32 on the CPU.

        Raises:
            FaceError: for a crop of another shape.
        """
        pixels = torch.from_numpy(stack_crops(crops))
        x_NCHW = ((pixels.float() / 255 - 0.5) / 0.5).flip(-1).permute(0, 3, 1, 2).contiguous()
        device = next(self.network.parameters()).device
        with torch.no_grad():
            return normalise(self.network(x_NCHW.to(device)).float().cpu())


class InsightFaceRecogniser:
    """A recogniser of an insightface model pack through insightface's own `ArcFaceONNX`, opened on first use.

    Args:
        root: the folder that holds `models/<pack>`.
        pack: as "antelopev2".
        model: stem of the ONNX file, as "glintr100".
        providers: of "CPU", "CUDA", "CoreML", "DirectML".
    """

    def __init__(self, root: Path, pack: str, model: str, providers: tuple[str, ...] = ("CPU",)) -> None:
        self.root = Path(root)
        self.pack = pack
        self.model = model
        self.providers = tuple(providers)
        self.name = f"insightface/{pack}/{model}"
        self._recogniser: Any = None

    def load(self) -> None:
        """Open the recogniser now; `embed` does so by itself.

        Raises:
            FaceError: for a missing package, file or provider, and for a file that is no recogniser.
        """
        if self._recogniser is not None:
            return
        path = find_pack_folder(self.root, self.pack) / f"{self.model}.onnx"
        if not path.is_file():
            raise FaceError(
                f"the recogniser {self.name} is not there: expected {path.name} in {path.parent}. "
                f"Fetch it with: python -m lynx_core.cli.main download faces"
            )
        providers = resolve_providers(self.providers)
        model_zoo = import_package("insightface.model_zoo", f"the recogniser {self.name}")
        try:
            recogniser = model_zoo.get_model(str(path), providers=providers)
        except Exception as error:
            raise FaceError(
                f"{path} does not open ({first_line(error)}); delete it, then: python -m lynx_core.cli.main download faces"
            ) from error
        if getattr(recogniser, "taskname", None) != "recognition":
            seen = getattr(recogniser, "taskname", "no face model")
            raise FaceError(f"{path} is no recogniser but: {seen}; name a recogniser, as glintr100")
        self._recogniser = recogniser

    def embed(self, crops: list[np.ndarray]) -> Tensor:
        """112 px RGB crops [112, 112, 3] uint8 -> unit embeddings [n, dim], fp32 on the CPU.

        Raises:
            FaceError: as `load`, and for a crop of another shape.
        """
        pixels = stack_crops(crops)
        self.load()
        # insightface takes BGR, as cv2 reads it, and turns it to RGB itself.
        return normalise(torch.from_numpy(self._recogniser.get_feat(list(pixels[..., ::-1]))))


def stack_crops(crops: list[np.ndarray]) -> np.ndarray:
    """Crops as one array [n, 112, 112, 3] uint8."""
    if not crops:
        raise FaceError("no face crop was given; connect at least one face")
    for crop in crops:
        if crop.shape != (ID_CROP_PX, ID_CROP_PX, 3) or crop.dtype != np.uint8:
            raise FaceError(f"an ID crop is [112, 112, 3] uint8, got {list(crop.shape)} {crop.dtype}")
    return np.stack(crops)


def normalise(embeddings: Tensor) -> Tensor:
    """Rows at length 1.

    Raises:
        FaceError: when a row is not finite or has no length.
    """
    norms = embeddings.norm(dim=-1, keepdim=True)
    if not torch.isfinite(norms).all() or (norms == 0).any():
        raise FaceError(
            "the embedding of a face is NaN, infinite or zero; the recogniser's weights may be damaged"
        )
    return embeddings / norms


def average_embeddings(embeddings: Tensor) -> Tensor:
    """One identity from several photos: the mean of the unit vectors [n, dim], at length 1 again, [dim].

    Raises:
        FaceError: for no or non-finite embeddings, and when they cancel out.
    """
    if embeddings.ndim != 2 or len(embeddings) == 0:
        raise FaceError(
            f"embeddings to average are [n, dim] with n of 1 or more, got {list(embeddings.shape)}"
        )
    mean = normalise(embeddings.float()).mean(0)
    if mean.norm() < _MIN_MEAN_NORM:
        raise FaceError(
            f"the {len(embeddings)} faces cancel out (length of their mean {float(mean.norm()):.3f}, lowest cosine "
            f"{min_pairwise_cosine(embeddings):.2f}): these are not photos of one person"
        )
    return mean / mean.norm()


def min_pairwise_cosine(embeddings: Tensor) -> float:
    """How alike the two least alike of the embeddings [n, dim] are, -1 to 1; 1 for a single one.

    Photos of one person are mostly above 0.3; below it they may show different people.
    """
    unit = normalise(embeddings.float())
    return float((unit @ unit.T).clamp(-1, 1).min()) if len(unit) > 1 else 1.0
