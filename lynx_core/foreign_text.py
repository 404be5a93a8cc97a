"""JSON and TOML that others wrote: whatever is wrong with a text is a ValueError.

The parsers of the standard library raise RecursionError for a text that is nested some thousand levels deep, which a
damaged or hostile file may be, and which nobody who reads a file expects.
"""

from __future__ import annotations

import importlib
import json
import sys
from typing import Any

TOO_DEEP = "it is nested too deeply"


def parse_json(text: str | bytes) -> Any:
    """Parse JSON.

    Raises:
        ValueError: when it is none, or nested too deeply.
    """
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError(TOO_DEEP) from None


def parse_toml(text: str) -> dict[str, Any]:
    """Parse TOML.

    Raises:
        ValueError: when it is none, or nested too deeply.
        ModuleNotFoundError: on Python 3.10 without the package tomli.
    """
    parser = importlib.import_module("tomllib" if sys.version_info >= (3, 11) else "tomli")
    try:
        return dict(parser.loads(text))
    except RecursionError:
        raise ValueError(TOO_DEEP) from None
