"""JSON and TOML that others wrote: whatever is wrong with a text is a ValueError.

The parsers of the standard library raise RecursionError for a text that is nested some thousand levels deep, which a
damaged or hostile file may be, and which nobody who reads a file expects. And JSON may name halves of characters
("\\ud800"), which no message, file or table can hold.
"""

from __future__ import annotations

import importlib
import json
import re
import sys
from typing import Any

TOO_DEEP = "it is nested too deeply"
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


def parse_json(text: str | bytes) -> Any:
    """Parse JSON.

    Raises:
        ValueError: when it is none, is nested too deeply, or holds half a character.
    """
    if isinstance(text, bytes):
        text = text.decode(json.detect_encoding(text))
    try:
        value = json.loads(text)
        if _SURROGATE.search(text):
            json.dumps(value, ensure_ascii=False).encode()
    except RecursionError:
        raise ValueError(TOO_DEEP) from None
    except UnicodeEncodeError as error:
        half = error.object[error.start : error.end]
        raise ValueError(f"{half!a} is half a character; write the whole one") from None
    return value


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
