"""Text files and file names as people write them: any Unicode encoding, `~`, environment variables.

A byte order mark says what a file is encoded in, else it is UTF-8. macOS hands out names in decomposed form
(NFD: e and an accent), most other programs write them composed (NFC). The two look alike and are different
files to Linux, so a name that is not there is looked for in its folder in the other form.
"""

from __future__ import annotations

import codecs
import os
import re
import unicodedata
from functools import lru_cache
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


_VARIABLE = re.compile(r"\$(?:\{([^}]*)\}|(\w+))")


def expand_path(text: str, folder: Path | None = None) -> tuple[Path, list[str]]:
    """A path with `~` and environment variables replaced, and the variables in it that are not set.

    Args:
        text: as it was written. A file of just this name, `$` and all, comes first.
        folder: of relative paths; the working directory when None.
    """
    folder = folder or Path()
    literal = folder / text
    is_plain = not text.startswith("~") and "$" not in text and not (os.name == "nt" and "%" in text)
    if is_plain or os.path.lexists(literal):
        return literal, []
    names = [match[1] or match[2] for match in _VARIABLE.finditer(text)]
    unset = [name for name in names if not os.environ.get(name)]
    if unset:  # an empty variable would turn "$DATA/clips" into "/clips"
        return literal, unset
    return folder / Path(os.path.expandvars(text)).expanduser(), []


def find_file(path: Path) -> Path:
    """The file of this name, in whatever Unicode form the disk has it; the path itself when there is none."""
    if str(path).isascii() or os.path.lexists(path):
        return path
    found = Path(path.anchor)
    for part in path.parts[1 if path.anchor else 0 :]:
        found = found / part if os.path.lexists(found / part) else found / _other_form(found, part)
    return found


def _other_form(folder: Path, name: str) -> str:
    try:
        names = _names_by_form(str(folder), folder.stat().st_mtime_ns)
    except (OSError, ValueError):
        return name
    return names.get(unicodedata.normalize("NFC", name), name)


@lru_cache(maxsize=256)
def _names_by_form(folder: str, _modified_ns: int) -> dict[str, str]:
    """Names in a folder by their composed form; the time is for the cache alone."""
    names = (path.name for path in Path(folder).iterdir())
    return {unicodedata.normalize("NFC", name): name for name in names if not name.isascii()}
