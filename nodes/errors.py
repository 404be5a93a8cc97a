"""Errors of the library as the artist sees them."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from typing import Any

from ..lynx_core.faces.errors import FaceError
from ..lynx_core.formats.tensor_file import AdapterError
from .model_files import shorten_paths

_DOWNLOAD = re.compile(r"comfy-lynx download (\w+)")
_PLAIN_DOWNLOAD = (
    r"python -m lynx_core.cli.main download \1 (in the folder of this pack, with ComfyUI's Python)"
)
"""The same command where the pack is not installed as a package, which ComfyUI does not need."""


def raise_plainly(execute: Callable[..., Any]) -> Callable[..., Any]:
    """Turn the library's own errors into ValueErrors that name files as the loaders' lists do.

    The host shows an error's class with its module, which for a node pack is a path on this machine.
    """

    @functools.wraps(execute)
    def run(*args: Any, **kwargs: Any) -> Any:
        try:
            return execute(*args, **kwargs)
        except (FaceError, AdapterError) as error:
            raise ValueError(_DOWNLOAD.sub(_PLAIN_DOWNLOAD, shorten_paths(str(error)))) from error

    return run
