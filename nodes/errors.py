"""Errors of the library as the artist sees them."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from ..lynx_core.faces.errors import FaceError
from ..lynx_core.formats.errors import AdapterError
from .model_files import shorten_paths


def raise_plainly(execute: Callable[..., Any]) -> Callable[..., Any]:
    """Turn the library's own errors into ValueErrors that name files as the loaders' lists do.

    The host shows an error's class with its module, which for a node pack is a path on this machine.
    """

    @functools.wraps(execute)
    def run(*args: Any, **kwargs: Any) -> Any:
        try:
            return execute(*args, **kwargs)
        except (FaceError, AdapterError) as error:
            raise ValueError(shorten_paths(str(error))) from error

    return run
