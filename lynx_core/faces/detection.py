"""Faces and their five landmarks in a photo, through insightface's own `FaceAnalysis`.

As in the release: the detector alone, at 640 px, on the RGB array as it is (no flip to BGR).
Nothing is ever downloaded: the model pack's folder is checked first, because insightface fetches a
missing pack by itself. A face that fills the frame is larger than SCRFD's largest anchor
(512 px of its 640), so a photo without a find is looked at once more with a black margin of half
its size on every side; that costs a second pass, only on photos that would have failed.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from ..spec import first_line
from .errors import FaceError, import_package

_FaceOrder = Literal[
    "largest", "left to right", "right to left", "top to bottom", "most confident", "nearest to centre"
]
FACE_ORDERS: tuple[str, ...] = get_args(_FaceOrder)

ONNX_PROVIDERS = {
    "CPU": "CPUExecutionProvider",
    "CUDA": "CUDAExecutionProvider",
    "CoreML": "CoreMLExecutionProvider",
    "DirectML": "DmlExecutionProvider",
}
_PROVIDER_PACKAGES = {"CUDA": "onnxruntime-gpu", "DirectML": "onnxruntime-directml"}

# What insightface publishes in each model pack: (detector, recogniser).
PACK_FILES = {
    "buffalo_l": ("det_10g.onnx", "w600k_r50.onnx"),
    "buffalo_m": ("det_2.5g.onnx", "w600k_r50.onnx"),
    "buffalo_s": ("det_500m.onnx", "w600k_mbf.onnx"),
    "antelopev2": ("scrfd_10g_bnkps.onnx", "glintr100.onnx"),
}
_MIN_SCORE = 0.5


@dataclass(frozen=True, eq=False)
class Face:
    """A face in a photo, in the photo's pixels."""

    bbox: np.ndarray
    """Left, top, right, bottom, [4] float32."""
    landmarks: np.ndarray
    """Left eye, right eye, nose tip, left and right mouth corner as seen in the photo, [5, 2] float32."""
    score: float
    """The detector's confidence, 0 to 1."""

    @property
    def area(self) -> float:
        """Of the box, in square pixels."""
        return float((self.bbox[2] - self.bbox[0]) * (self.bbox[3] - self.bbox[1]))

    @property
    def centre(self) -> np.ndarray:
        """Of the box, (x, y)."""
        return (self.bbox[:2] + self.bbox[2:]) / 2


def resolve_providers(names: tuple[str, ...]) -> list[str]:
    """ONNX Runtime's names of "CPU", "CUDA", "CoreML", "DirectML", the CPU last as the fallback.

    Raises:
        FaceError: for an unknown name, and for one that the installed ONNX Runtime does not have.
    """
    available = import_package("onnxruntime", "face detection").get_available_providers()
    found = {name for name, provider in ONNX_PROVIDERS.items() if provider in available}
    providers = []
    for name in names:
        if name not in ONNX_PROVIDERS:
            raise FaceError(f"unknown provider '{name}'; choose from {', '.join(ONNX_PROVIDERS)}")
        if name not in found:
            package = _PROVIDER_PACKAGES.get(name)
            install = f", or install it with: python -m pip install {package}" if package else ""
            raise FaceError(
                f"the installed ONNX Runtime cannot run on {name}; it offers {', '.join(sorted(found))}. "
                f"Choose one of these{install}"
            )
        providers.append(ONNX_PROVIDERS[name])
    return list(dict.fromkeys([*providers, ONNX_PROVIDERS["CPU"]]))


def find_pack_folder(root: Path, pack: str) -> Path:
    """The folder of a model pack's ONNX files: `root/models/<pack>`, or a second `<pack>` inside it.

    The published antelopev2.zip unpacks into such a second folder.

    Raises:
        FaceError: when there is none, naming the files, the folder and the command that fetches them.
    """
    folder = Path(root) / "models" / pack
    for candidate in (folder, folder / pack):
        if any(candidate.glob("*.onnx")) or (candidate / "manifest.json").is_file():
            # A link is not followed: messages name the folder that the user knows.
            return candidate.absolute()
    files = " and ".join(PACK_FILES.get(pack, ("the model pack's ONNX files",)))
    raise FaceError(
        f"the face models of '{pack}' are not there: expected {files} in {folder}. "
        f"Fetch them with: python -m lynx_core.cli.main download faces"
    )


class FaceDetector:
    """Finds faces with a model pack that is already on disk. Nothing is opened before the first photo.

    Args:
        root: the folder that holds `models/<pack>`, as ComfyUI's `models/insightface`.
        pack: name of the model pack, as "buffalo_l".
        providers: of "CPU", "CUDA", "CoreML", "DirectML", the preferred one first.
        det_px: side of the square into which the photo is fitted for the detector, in pixels.
    """

    def __init__(
        self, root: Path, pack: str, providers: tuple[str, ...] = ("CPU",), det_px: int = 640
    ) -> None:
        self.root = Path(root)
        self.pack = pack
        self.providers = tuple(providers)
        self.det_px = det_px
        self._analysis: Any = None

    def load(self) -> None:
        """Open the detector now; `detect` does so by itself.

        Raises:
            FaceError: for a missing package, model pack or provider, and for files that are no detector.
        """
        if self._analysis is not None:
            return
        folder = find_pack_folder(self.root, self.pack)
        providers = resolve_providers(self.providers)
        insightface = import_package("insightface.app", "face detection")
        try:
            analysis = insightface.FaceAnalysis(
                # The folder itself, not the name: a folder of that name in the current directory would win.
                name=str(folder),
                root=str(self.root),
                allowed_modules=["detection"],
                providers=providers,
            )
        except AssertionError as error:
            seen = ", ".join(sorted(path.name for path in folder.glob("*.onnx")))
            raise FaceError(
                f"none of the files in {folder} is a face detector (seen: {seen}). Fetch the whole model pack "
                f"again with: python -m lynx_core.cli.main download faces"
            ) from error
        except Exception as error:
            raise FaceError(
                f"the face models in {folder} do not open ({first_line(error)}). A download may have broken "
                f"off: delete the folder, then: python -m lynx_core.cli.main download faces"
            ) from error
        analysis.prepare(ctx_id=0, det_thresh=_MIN_SCORE, det_size=(self.det_px, self.det_px))
        self._analysis = analysis

    def detect(self, image: np.ndarray) -> list[Face]:
        """All faces of `image` [H, W, 3] uint8 RGB, the most confident first; empty when there is none.

        Raises:
            FaceError: as `load`, and for an array that is no such image.
        """
        check_image(image)
        self.load()
        faces = self._find(image)
        if faces:
            return faces
        height, width = image.shape[:2]
        top, left = height // 2, width // 2
        padded = np.pad(image, ((top, top), (left, left), (0, 0)))
        shift = np.array([left, top], dtype=np.float32)
        return [
            Face(face.bbox - np.tile(shift, 2), face.landmarks - shift, face.score)
            for face in self._find(padded)
        ]

    def _find(self, image: np.ndarray) -> list[Face]:
        found = self._analysis.get(np.ascontiguousarray(image))
        if any(face.kps is None for face in found):
            raise FaceError(
                f"the detector of the model pack '{self.pack}' gives no landmarks, so no face can be aligned; "
                f"use buffalo_l or antelopev2"
            )
        faces = [Face(np.float32(face.bbox), np.float32(face.kps), float(face.det_score)) for face in found]
        return sorted(faces, key=lambda face: -face.score)


def check_image(image: np.ndarray) -> None:
    """Refuse what is not a non-empty [H, W, 3] uint8 array."""
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or image.size == 0:
        raise FaceError(
            f"a photo is a non-empty [height, width, 3] array of uint8, got {list(image.shape)} {image.dtype}"
        )


def sort_faces(faces: list[Face], order: str, photo_size: tuple[int, int]) -> list[Face]:
    """The faces in one of `FACE_ORDERS`; `photo_size` is (height, width) in pixels.

    Raises:
        FaceError: for an unknown order.
    """
    middle = np.array([photo_size[1], photo_size[0]]) / 2
    keys: dict[str, Any] = {
        "largest": lambda face: -face.area,
        "left to right": lambda face: face.centre[0],
        "right to left": lambda face: -face.centre[0],
        "top to bottom": lambda face: face.centre[1],
        "most confident": lambda face: -face.score,
        "nearest to centre": lambda face: np.linalg.norm(face.centre - middle),
    }
    if order not in keys:
        raise FaceError(f"unknown order of faces '{order}'; choose from {', '.join(FACE_ORDERS)}")
    return sorted(faces, key=keys[order])


def choose_face(faces: list[Face], order: str, index: int, photo_size: tuple[int, int]) -> Face:
    """Face number `index`, counted from 0, in the given order; messages count from 1, as the node does.

    Raises:
        FaceError: when there are not that many faces, naming how many there are.
    """
    if not 0 <= index < len(faces):
        found = {0: "no face", 1: "only one face; its number is 1"}
        counted = found.get(len(faces), f"{len(faces)} faces; choose 1 to {len(faces)}")
        raise FaceError(f"face {index + 1} was asked for, but the photo has {counted}")
    return sort_faces(faces, order, photo_size)[index]
