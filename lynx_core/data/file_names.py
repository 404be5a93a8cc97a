"""Names of files as people write them: `~`, environment variables, and either Unicode form.

macOS hands out names in decomposed form (NFD: e and an accent), most other programs write them
composed (NFC). The two look alike and are different files to Linux, so a name that is not there is
looked for in its folder in the other form.
"""

from __future__ import annotations

import os
import re
import unicodedata
from functools import lru_cache
from pathlib import Path

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
