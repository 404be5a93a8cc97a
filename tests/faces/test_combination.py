"""One identity from several embeddings."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from lynx_core.faces.combination import (
    blend_embeddings,
    combine_embeddings,
    find_outliers,
    move_along_axis,
)
from lynx_core.faces.errors import FaceError


def axis(*parts: float) -> Tensor:
    return torch.nn.functional.normalize(torch.tensor([*parts, 0.0, 0.0]), dim=0)


PERSON = torch.stack([axis(1, 0.2, 0), axis(1, -0.2, 0), axis(1, 0, 0.3)])


def test_mean_points_between_the_photos() -> None:
    combined = combine_embeddings(PERSON[:2])
    assert torch.allclose(combined, axis(1, 0, 0), atol=1e-6)
    assert math.isclose(float(combined.norm()), 1.0, rel_tol=1e-6)


def test_lengths_of_the_embeddings_do_not_count() -> None:
    longer = PERSON * torch.tensor([[3.0], [1.0], [0.5]])
    assert torch.allclose(combine_embeddings(longer), combine_embeddings(PERSON), atol=1e-6)


def test_weights_count_by_their_ratio() -> None:
    for weights in ([1.0, 0.0, 0.0], [7.0, 0.0, 0.0]):
        assert torch.allclose(combine_embeddings(PERSON, "weighted", weights), PERSON[0], atol=1e-6)
    towards = combine_embeddings(PERSON[:2], "weighted", [3.0, 1.0])
    assert float(towards @ PERSON[0]) > float(towards @ PERSON[1])


def test_best_is_the_photo_of_the_highest_quality() -> None:
    assert torch.equal(combine_embeddings(PERSON, "best", qualities=[10.0, 80.0, 5.0]), PERSON[1])


def test_a_stranger_among_three_is_named_with_his_cosine() -> None:
    photos = torch.stack([PERSON[0], axis(0, 1, 0), PERSON[2], PERSON[1]])
    (outlier,) = find_outliers(photos)
    assert outlier.index == 1 and outlier.cosine < 0.3
    assert not find_outliers(PERSON)


def test_of_two_strangers_the_second_is_named() -> None:
    for seed in range(20):
        pair = torch.randn(2, 512, generator=torch.Generator().manual_seed(seed))
        assert [outlier.index for outlier in find_outliers(pair)] == [1]


def test_blend_goes_along_the_arc_in_equal_steps() -> None:
    a, b = axis(1, 0, 0), axis(0, 1, 0)
    assert torch.allclose(blend_embeddings(a, b, 0.0), a, atol=1e-6)
    assert torch.allclose(blend_embeddings(a, b, 1.0), b, atol=1e-6)
    angles = [math.acos(min(1.0, float(a @ blend_embeddings(a, b, t)))) for t in (0.25, 0.5, 0.75)]
    assert angles == pytest.approx([math.pi / 8, math.pi / 4, 3 * math.pi / 8], abs=1e-4)
    assert torch.allclose(blend_embeddings(a, a, 0.4), a, atol=1e-6)


def test_axis_moves_both_ways_and_zero_changes_nothing() -> None:
    person, young, old = axis(1, 0, 0), axis(1, 1, 0), axis(1, -1, 0)
    assert torch.allclose(move_along_axis(person, young, old, 0.0), person, atol=1e-6)
    older, younger = (move_along_axis(person, young, old, amount) for amount in (0.5, -0.5))
    assert float(older @ old) > float(person @ old) > float(younger @ old)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: combine_embeddings(torch.zeros(0, 5)), r"got \[0, 5\]"),
        (lambda: combine_embeddings(torch.stack([axis(1, 0), axis(-1, 0)])), "cancel out"),
        (lambda: combine_embeddings(PERSON, "weighted", [1.0]), "3 photos need 3 weights, got 1"),
        (lambda: combine_embeddings(PERSON, "weighted", [0.0] * 3), "all 3 weights are 0"),
        (lambda: combine_embeddings(PERSON, "weighted", [1.0, -1.0, 0.0]), "0 or more, got -1.0"),
        (lambda: combine_embeddings(PERSON, "best"), "need 3 qualities, got none"),
        (lambda: combine_embeddings(PERSON, "median"), "choose one of mean, weighted, best"),  # type: ignore[arg-type]
        (lambda: blend_embeddings(axis(1, 0), axis(0, 1), 1.5), "between 0 and 1, got 1.5"),
        (lambda: blend_embeddings(axis(1, 0), axis(-1, 0), 0.5), "are opposite"),
        (lambda: blend_embeddings(axis(1, 0), axis(1, 0, 0), 0.5), r"got \[4\] and \[5\]"),
        (lambda: move_along_axis(axis(1, 0), axis(0, 1), axis(0, 1), 1.0), "gives no direction"),
        (lambda: move_along_axis(torch.full((4,), math.nan), axis(0, 1), axis(1, 0), 1.0), "NaN"),
    ],
)
def test_bad_input_is_refused(make: object, message: str) -> None:
    with pytest.raises(FaceError, match=message):
        make()  # type: ignore[operator]
