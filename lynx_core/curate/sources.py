"""The files of the source folders, as they lie there when a run begins."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from ..data.text_files import read_text
from ..engine.stage import Rejection
from .configuration import SourceConfig
from .errors import CurationError
from .media import CLIP_SUFFIXES, PHOTO_SUFFIXES
from .records import SourceFile

STAGE = "files"
_BESIDE = (".txt", ".json", ".md", ".csv", ".srt", ".toml", ".yaml")
"""Files that lie beside media and are no media; not counted."""


def list_sources(sources: Sequence[SourceConfig]) -> tuple[list[SourceFile], list[Rejection]]:
    """The media files in the order of their paths, and what cannot be one.

    What is still being written when a run looks at it is rejected as cut short, and is another file to the next
    run, because its size and time are others then.

    Raises:
        CurationError: when a folder is missing, or there is no media file at all.
    """
    files: dict[str, SourceFile] = {}
    rejected: list[Rejection] = []
    for source in sources:
        folder = source.path.absolute()
        if not folder.is_dir():
            raise CurationError(f"sources.path: there is no folder {source.path}")
        for path in _walk(folder):
            found = _describe(path, folder, source)
            if isinstance(found, SourceFile):
                files.setdefault(found.path, found)
            elif found is not None:
                rejected.append(found)
    if not files:
        folders = ", ".join(str(source.path) for source in sources)
        raise CurationError(f"there are no photos or clips in {folders}")
    return [files[path] for path in sorted(files)], rejected


def _walk(folder: Path) -> Iterator[Path]:
    for root, names, files in os.walk(folder):
        names[:] = sorted(name for name in names if not name.startswith("."))
        yield from (Path(root, name) for name in sorted(files) if not name.startswith("."))


def _describe(path: Path, folder: Path, source: SourceConfig) -> SourceFile | Rejection | None:
    shown = str(path).encode("utf-8", "replace").decode()
    suffix = path.suffix.lower()
    if suffix not in PHOTO_SUFFIXES + CLIP_SUFFIXES:
        if suffix in _BESIDE:
            return None
        return Rejection(STAGE, shown, "no photo or clip", f"the name ends in '{path.suffix}'")
    if shown != str(path):
        return Rejection(STAGE, shown, "the name is no text", "its bytes are not UTF-8; rename it")
    try:
        state = path.stat()
        sidecar = _read_sidecar(path)
    except OSError as error:
        return Rejection(STAGE, shown, "cannot be read", str(error.strerror or error))
    except ValueError as error:
        return Rejection(STAGE, shown, "the caption file is no text", str(error))
    name = ""
    if source.names == "folder":
        inside = path.relative_to(folder).parts
        if len(inside) < 2:
            detail = "sources.names = folder: each person's files lie in a folder of their own"
            return Rejection(STAGE, shown, "in no person's folder", detail)
        name = inside[0]
    return SourceFile(
        str(path), state.st_size, state.st_mtime_ns, name, source.consent, source.licence, sidecar
    )


def _read_sidecar(path: Path) -> str:
    """The text beside a file: `clip.txt`, or `clip.mp4.txt` where several files share the stem."""
    for beside in (path.with_name(path.name + ".txt"), path.with_suffix(".txt")):
        if beside.is_file():
            return read_text(beside).strip()
    return ""
