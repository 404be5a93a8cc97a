"""The files that a workflow loads: their hashes, and how many parameters they hold."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from ..durable_file import write_durably
from ..foreign_text import parse_json
from ..hashing import hash_every_byte, hash_values
from .workflow import MODEL_SUFFIXES, WorkflowTemplate

FACE_SUFFIXES = (".onnx", ".pth")
"""Formats of the face networks, which find and crop the face and are no part of what makes the video."""
_DEEPER = ("insightface/models", "lynx/faces")
"""Folders of models that lie deeper than `models/<kind>`."""


@dataclass(frozen=True)
class ModelFiles:
    """What a workflow loads."""

    hashes: dict[str, str | None]
    """Name in the workflow to SHA-256; None for what no folder at hand holds."""
    parameters: int | None
    """Of all files together, the face networks aside; None when one is not at hand or of a format that is not counted."""


class ModelFolders:
    """ComfyUI's `models` folders, with the hashes of their files remembered between runs.

    Args:
        roots: the folders.
        memory: JSON file of hashes by path, size and time of change.
    """

    def __init__(self, roots: Iterable[Path], memory: Path) -> None:
        self.roots = tuple(roots)
        self.memory = memory
        try:
            self._known: dict[str, str] = parse_json(memory.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            self._known = {}

    def describe(self, template: WorkflowTemplate) -> ModelFiles:
        """Hash and count all models that a workflow names."""
        hashes: dict[str, str | None] = {}
        counts: list[int | None] = []
        for text in dict.fromkeys(template.list_texts()):
            files = self._find(text)
            if files:
                hashes[text] = self._hash(files)
                counts += [count_parameters(file) for file in files if file.suffix not in FACE_SUFFIXES]
            elif text.casefold().endswith(MODEL_SUFFIXES):
                hashes[text] = None
                counts += [] if text.casefold().endswith(FACE_SUFFIXES) else [None]
        whole = bool(counts) and None not in counts
        return ModelFiles(hashes, sum(count or 0 for count in counts) if whole else None)

    def _find(self, name: str) -> list[Path]:
        """The files of a model, which is a file or a folder; none when it is not there."""
        if not name.strip() or "\n" in name or len(name) > 200 or name.startswith((".", "/")):
            return []
        for root in self.roots:
            folders = [
                *sorted(path for path in root.glob("*") if path.is_dir()),
                *(root / path for path in _DEEPER),
            ]
            for place in (folder / name for folder in folders):
                if place.is_file():
                    return [place]
                if place.is_dir():
                    found = sorted(
                        path for path in place.rglob("*") if path.suffix.casefold() in MODEL_SUFFIXES
                    )
                    if found:
                        return found
        return []

    def _hash(self, files: list[Path]) -> str:
        found = [self._hash_file(file) for file in files]
        return found[0] if len(found) == 1 else hash_values(found)

    def _hash_file(self, file: Path) -> str:
        state = file.stat()
        key = f"{file.resolve()}|{state.st_size}|{state.st_mtime_ns}"
        if key not in self._known:
            self._known[key] = hash_every_byte(file)
            write_durably(self.memory, json.dumps(self._known, indent=1).encode())
        return self._known[key]


_LONGEST_HEADER_BYTES = 16_000_000


def count_parameters(file: Path) -> int | None:
    """Elements of all tensors of a safetensors file, read off its header; None for other formats and damaged files."""
    if file.suffix not in (".safetensors", ".sft"):
        return None
    try:
        with file.open("rb") as raw:
            (length,) = struct.unpack("<Q", raw.read(8))
            if length > _LONGEST_HEADER_BYTES:
                return None
            header = parse_json(raw.read(length))
        return sum(math.prod(tensor["shape"]) for name, tensor in header.items() if name != "__metadata__")
    except (OSError, struct.error, ValueError, KeyError, TypeError, AttributeError):
        return None  # what it holds is the server's business
