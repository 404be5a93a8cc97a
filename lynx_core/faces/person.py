"""One person from several photos: crops and embeddings, and what is wrong with which photo."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from .analyzer import FaceAnalyzer
from .combination import CombineMethod, combine_embeddings, find_outliers
from .crops import FaceCrop, crop_aligned, crop_face
from .errors import FaceError
from .photo import load_photo


@dataclass(frozen=True)
class PhotoProblem:
    """A photo that is left out, or used with a warning."""

    path: Path
    text: str
    is_left_out: bool


@dataclass(frozen=True)
class Person:
    """What is known of one person."""

    paths: tuple[Path, ...]
    """Of the photos that are used."""
    crops: tuple[FaceCrop, ...]
    embeddings: Tensor
    """[photos, dim], unit length."""
    embedding: Tensor
    """[dim], the photos combined."""
    problems: tuple[PhotoProblem, ...]


def gather_person(
    paths: Sequence[Path],
    analyzer: FaceAnalyzer,
    *,
    method: CombineMethod = "mean",
    min_cosine: float | None = None,
    aligned: bool = False,
) -> Person:
    """Read the photos of one person, the largest face of each.

    Args:
        paths: photo files, in the order in which they are kept.
        method: how the embeddings are combined; `best` and `weighted` go by the crops' sharpness.
        min_cosine: photos less like the most central one are left out; None keeps them with a warning
            below 0.3.
        aligned: take each photo as a ready face crop.

    Raises:
        FaceError: when no photo can be used, or the face models cannot be opened.
    """
    analyzer.recogniser  # noqa: B018  a missing model is no fault of the photos
    if not aligned:
        analyzer.detector.load()
    problems: list[PhotoProblem] = []
    used: list[Path] = []
    crops: list[FaceCrop] = []
    for path in paths:
        try:
            photo = load_photo(path)
            crop = crop_aligned(photo) if aligned else crop_face(photo, analyzer.detector, "largest", 0)[0]
        except FaceError as error:
            problems.append(PhotoProblem(path, str(error), is_left_out=True))
            continue
        problems.extend(PhotoProblem(path, str(warning), is_left_out=False) for warning in crop.warnings)
        used.append(path)
        crops.append(crop)
    if not crops:
        reasons = "; ".join(f"{problem.path.name}: {problem.text}" for problem in problems) or "there is none"
        raise FaceError(f"no photo can be used: {reasons}")
    embeddings = analyzer.recogniser.embed([crop.id_crop for crop in crops])
    strangers = {outlier.index: outlier.cosine for outlier in find_outliers(embeddings, min_cosine or 0.3)}
    leaves_out = min_cosine is not None
    for index, cosine in strangers.items():
        text = f"unlike the other photos (cosine {cosine:.2f}): does it show the same person?"
        problems.append(PhotoProblem(used[index], text, is_left_out=leaves_out))
    kept = [i for i in range(len(crops)) if not (leaves_out and i in strangers)]
    figures = [crops[i].sharpness for i in kept]
    chosen = embeddings[torch.tensor(kept)]
    return Person(
        tuple(used[i] for i in kept),
        tuple(crops[i] for i in kept),
        chosen,
        combine_embeddings(chosen, method, weights=figures, qualities=figures),
        tuple(problems),
    )
