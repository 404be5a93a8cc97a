"""The one error of the face front end, and the check that an optional package is there."""

from __future__ import annotations

import importlib
from types import ModuleType

from ..spec import LynxError, first_line

_PIP_NAMES = {"cv2": "opencv-python", "PIL": "pillow", "pillow_heif": "pillow-heif"}


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
        pip_name = _PIP_NAMES.get(package, package)
        absent = isinstance(error, ModuleNotFoundError) and error.name == package
        state = "is not installed" if absent else f"does not load ({first_line(error)})"
        system = " and, on Debian or Ubuntu, apt-get install libgl1" if "libGL" in str(error) else ""
        raise FaceError(
            f"the Python package {pip_name} {state}; without it {purpose} is off. "
            f"In the Python that runs ComfyUI: python -m pip install {pip_name}{system}"
        ) from error
