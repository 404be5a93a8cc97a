"""Any program as an augmenter: it is given a folder of PNG files and writes one of the same name for each.

The command is a template with {input} and {output}; beside the pictures lies `faces.json` with the landmarks
of each. What it does not write is rejected; it may write `landmarks.json` where it moves them.
"""

from __future__ import annotations

import json
import shlex
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, cast

import numpy as np

from ...engine.stage import Rejected
from ...foreign_text import parse_json
from ...hashing import hash_values
from ..errors import CurationError
from ..media import MediaError, decode_photo
from .interface import AugmentKind, FaceImage, check_options


class CommandAugmenter:
    """Runs a command for each batch."""

    def __init__(self, command: str, kind: AugmentKind, licence: str, version: str, timeout_s: float) -> None:
        self.command, self.kind, self.licence, self.timeout_s = command, kind, licence, timeout_s
        self.fingerprint = hash_values([1, command, version])

    @classmethod
    def from_options(cls, options: Mapping[str, str]) -> CommandAugmenter:
        known = {"command": None, "kind": None, "licence": None, "version": "", "timeout_s": "600"}
        values = check_options("command", options, known)
        if values["kind"] not in ("expression", "relight", "background"):
            raise CurationError(
                f"the augmenter command: kind is expression, relight or background, got {values['kind']!r}"
            )
        if "{input}" not in values["command"] or "{output}" not in values["command"]:
            raise CurationError("the augmenter command: the command names {input} and {output}")
        kind = cast(Literal["expression", "relight", "background"], values["kind"])
        return cls(values["command"], kind, values["licence"], values["version"], float(values["timeout_s"]))

    def load(self) -> None:
        """Nothing to open."""

    def __call__(self, faces: Sequence[FaceImage], rng: np.random.Generator) -> list[FaceImage | Rejected]:
        with tempfile.TemporaryDirectory(prefix="lynx-augment-") as folder:
            given, taken = Path(folder) / "input", Path(folder) / "output"
            given.mkdir()
            taken.mkdir()
            _write_faces(faces, given, int(rng.integers(2**31)))
            fault = self._run(given, taken)
            return [self._read(face, taken, number, fault) for number, face in enumerate(faces)]

    def _run(self, given: Path, taken: Path) -> str:
        """Run it; gives what went wrong, or "" ."""
        arguments = [part.format(input=given, output=taken) for part in shlex.split(self.command)]
        try:
            done = subprocess.run(
                arguments, capture_output=True, text=True, timeout=self.timeout_s, check=False
            )
        except subprocess.TimeoutExpired:
            return f"it did not end within {self.timeout_s:.0f} s"
        except OSError as error:
            raise CurationError(f"the augmenter command does not start: {error}") from error
        lines = done.stderr.strip().splitlines() or [""]
        return f"it ended {done.returncode}: {lines[-1][:200]}" if done.returncode else ""

    def _read(self, face: FaceImage, taken: Path, number: int, fault: str) -> FaceImage | Rejected:
        path = taken / f"{number:06d}.png"
        if not path.is_file():
            return Rejected("the augmenter made nothing", fault or f"{path.name} is not in its output")
        try:
            pixels = decode_photo(path)
            moved = taken / "landmarks.json"
            table = parse_json(moved.read_text()) if moved.is_file() else {}
            landmarks = np.array(table.get(path.name, face.landmarks), np.float32).reshape(5, 2)
        except (MediaError, ValueError) as error:
            return Rejected("the augmenter made no picture", str(error)[:300])
        return FaceImage(pixels, _scale_landmarks(landmarks, face, pixels, path.name in table))


def _scale_landmarks(landmarks: np.ndarray, face: FaceImage, pixels: np.ndarray, are_new: bool) -> np.ndarray:
    """Landmarks that were not written anew follow the picture's size."""
    if are_new:
        return landmarks
    return np.float32(landmarks * (np.array(pixels.shape[1::-1]) / np.array(face.pixels.shape[1::-1])))


def _write_faces(faces: Sequence[FaceImage], folder: Path, seed: int) -> None:
    from PIL import Image

    table = {}
    for number, face in enumerate(faces):
        name = f"{number:06d}.png"
        Image.fromarray(face.pixels).save(folder / name)
        table[name] = face.landmarks.tolist()
    (folder / "faces.json").write_text(json.dumps({"seed": seed, "landmarks": table}))
