"""Text files from any editor: a byte order mark says what they are encoded in, else they are UTF-8."""

from __future__ import annotations

import codecs
from pathlib import Path

_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),  # begins with the mark of UTF-16
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


def read_text(path: Path) -> str:
    """The text of a file, its lines ended by newlines.

    Raises:
        OSError: when the file cannot be read.
        ValueError: when its bytes are no text, saying how to save it.
    """
    raw = path.read_bytes()
    encoding = find_encoding(raw[:4])
    try:
        text = raw.decode(encoding)
    except UnicodeDecodeError as error:
        raise ValueError(f"not in UTF-8 ({error}); save it in UTF-8") from error
    return text.replace("\r\n", "\n").replace("\r", "\n")


def find_encoding(start: bytes) -> str:
    """The encoding that the first four bytes of a file tell; "utf-8" without a mark."""
    return next((encoding for mark, encoding in _MARKS if start.startswith(mark)), "utf-8")
