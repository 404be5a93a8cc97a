"""One identity from several embeddings: an average, a blend of two people, a step along an axis.

Embeddings are unit vectors and only their direction means anything, so every result is brought back
to length 1; the resampler has seen no other length.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from .analyzer import normalise
from .errors import FaceError

CombineMethod = Literal["mean", "weighted", "best"]

SAME_PERSON_COSINE = 0.3
"""Photos of one person are mostly above it, photos of two people nearly always below."""

MIN_LENGTH = 0.1
"""A sum of unit vectors that is shorter says nothing about anyone."""


@dataclass(frozen=True)
class Outlier:
    """A photo that is unlike the others."""

    index: int
    """Place among the photos, from 0."""
    cosine: float
    """To the most central photo."""


def combine_embeddings(
    embeddings: Tensor,
    method: CombineMethod = "mean",
    weights: Sequence[float] | None = None,
    qualities: Sequence[float] | None = None,
) -> Tensor:
    """Combine the embeddings of one person's photos, [n, dim], into one of length 1, [dim].

    Args:
        method: `mean` of all, `weighted` mean with `weights`, or the `best` alone by `qualities`.
        weights: one for each photo, 0 or more; only their ratios count.
        qualities: one for each photo, more is better (sharpness, face size, detector's confidence).

    Raises:
        FaceError: for an unknown method, missing or wrong weights, no photos, or photos that cancel out.
    """
    if embeddings.ndim != 2 or not len(embeddings):
        raise FaceError(
            f"embeddings to combine are [n, dim] with n of 1 or more, got {list(embeddings.shape)}"
        )
    unit = normalise(embeddings.float())
    if method == "mean":
        return _direction(unit.mean(0), "the photos")
    if method == "weighted":
        share = torch.tensor(_check_figures("weights", weights, len(unit)))
        if not share.sum():
            raise FaceError(f"all {len(unit)} weights are 0; give at least one photo a weight")
        return _direction((share / share.sum()) @ unit, "the weighted photos")
    if method == "best":
        figures = _check_figures("qualities", qualities, len(unit))
        return unit[max(range(len(unit)), key=figures.__getitem__)]
    raise FaceError(f"unknown method '{method}'; choose one of {', '.join(get_args(CombineMethod))}")


def find_outliers(embeddings: Tensor, min_cosine: float = SAME_PERSON_COSINE) -> list[Outlier]:
    """Find the photos that may show another person: those unlike the most central one.

    The central photo is the one with the highest mean cosine to the others, so that one stranger
    among three cannot drag the measure towards himself. Of two photos that differ nobody can tell
    which is wrong; the second is named.

    Args:
        embeddings: [n, dim] of any length.
    """
    unit = normalise(embeddings.float())
    cosines = (unit @ unit.T).clamp(-1, 1)
    # Rounded, so that of two photos the first is the central one, whatever their lengths are to the last bit.
    central = int(cosines.fill_diagonal_(1.0).sum(1).mul(1e4).round().argmax())
    return [
        Outlier(index, float(cosine))
        for index, cosine in enumerate(cosines[central])
        if float(cosine) < min_cosine
    ]


def blend_embeddings(first: Tensor, second: Tensor, amount: float) -> Tensor:
    """Blend two people, each [dim], on the arc between them: 0 is the first, 1 the second.

    On the arc equal steps of `amount` are equal steps of angle; a straight mix would rush through
    the middle.

    Raises:
        FaceError: when `amount` is outside 0 to 1, the sizes differ, or the two are opposite.
    """
    if not 0.0 <= amount <= 1.0:
        raise FaceError(f"a blend lies between 0 and 1, got {amount:g}")
    a, b = _check_pair(first, second)
    angle = torch.arccos((a @ b).clamp(-1, 1))
    if float(angle) < 1e-4:
        return a
    if float(torch.sin(angle)) < MIN_LENGTH:
        raise FaceError(
            f"these two identities are opposite (cosine {float(a @ b):.2f}); nobody lies between them"
        )
    mixed = torch.sin((1 - amount) * angle) * a + torch.sin(amount * angle) * b
    return _direction(mixed, "the blend")


def move_along_axis(embedding: Tensor, minus: Tensor, plus: Tensor, amount: float) -> Tensor:
    """Move a person along the direction from `minus` to `plus`, as from younger to older faces.

    Args:
        embedding, minus, plus: [dim]; the two ends may be averages of several people.
        amount: steps of the whole distance from `minus` to `plus`, of either sign; 0 changes nothing.

    Raises:
        FaceError: when sizes differ, the two ends are the same, or nothing of the person is left.
    """
    start, end = _check_pair(minus, plus)
    person, _ = _check_pair(embedding, minus)
    if float((end - start).norm()) < 1e-3:
        raise FaceError("both ends of the axis are the same identity, which gives no direction")
    return _direction(person + amount * (end - start), f"the identity moved by {amount:g}")


def _check_pair(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    if first.shape != second.shape or first.ndim != 1:
        raise FaceError(
            f"two embeddings of one recogniser are [dim] each, got {list(first.shape)} and {list(second.shape)}"
        )
    a, b = normalise(torch.stack([first.float(), second.float()]))
    return a, b


def _check_figures(name: str, figures: Sequence[float] | None, count: int) -> list[float]:
    if figures is None or len(figures) != count:
        given = "none" if figures is None else str(len(figures))
        raise FaceError(f"{count} photos need {count} {name}, got {given}")
    for figure in figures:
        if not (figure >= 0 and figure < float("inf")):
            raise FaceError(f"{name} are 0 or more, got {figure}")
    return list(figures)


def _direction(vector: Tensor, what: str) -> Tensor:
    length = float(vector.norm())
    if not length >= MIN_LENGTH:
        raise FaceError(f"{what} cancel out (length {length:.3f}): these do not show one person")
    return vector / vector.norm()
