"""What an augmenter is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np

from ...engine.stage import Rejected
from ..errors import CurationError

AugmentKind = Literal["expression", "relight", "background"]


@dataclass(frozen=True, eq=False)
class FaceImage:
    """A face with its surroundings."""

    pixels: np.ndarray
    """[H, W, 3] uint8 RGB."""
    landmarks: np.ndarray
    """Eyes, nose tip and corners of the mouth, [5, 2] px."""


class Augmenter(Protocol):
    """Edits faces. Whether the person is still the same is asked by the pipeline, never here."""

    kind: AugmentKind
    licence: str
    """Shown, and kept in the manifest, so that it can be filtered."""

    @property
    def fingerprint(self) -> str:
        """Hash of code, options and weights: part of the stage's."""

    def load(self) -> None:
        """Open what it needs, once in each worker.

        Raises:
            CurationError: when something is missing.
        """

    def __call__(self, faces: Sequence[FaceImage], rng: np.random.Generator) -> list[FaceImage | Rejected]:
        """A variant of each face, of any size, with its landmarks where they have moved."""


def check_options(name: str, options: Mapping[str, str], known: Mapping[str, str | None]) -> dict[str, str]:
    """Options with their defaults; one without a default is needed.

    Raises:
        CurationError: for a missing or an unknown one.
    """
    unknown = [key for key in options if key not in known]
    missing = [key for key, default in known.items() if default is None and not options.get(key)]
    problems = [f"the augmenter {name} has no option '{key}'; it has: {', '.join(known)}" for key in unknown]
    problems += [f"the augmenter {name} needs the option '{key}'" for key in missing]
    if problems:
        raise CurationError(*problems)
    return {key: str(options.get(key, default)) for key, default in known.items()}
