"""People in their own parts of the picture: masks of Lynx Apply, and how they share tokens."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from wan_bench import ONLY_LAST_BLOCK, Applied, Conditioning, WanBench, max_error, seeded

LEFT, RIGHT = (slice(0, 4), slice(4, 8))
"""Halves of a latent that is 8 wide."""


def make_mask(columns: slice, frames: int = 1, size_px: int = 64) -> Tensor:
    mask = torch.zeros(frames, size_px, size_px)
    mask[:, :, columns.start * 8 : columns.stop * 8] = 1.0
    return mask


def predict_both(
    bench: WanBench, on: Applied, prompt: Conditioning, x: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    (got,) = bench.predict(on.model, [on.positive], x=x)
    (plain,) = bench.predict(on.model, [prompt], x=x)
    return got, plain


def test_a_person_stays_in_the_mask(
    bench: WanBench, base: Any, prompt: Conditioning, negative: Conditioning, identity: dict[str, Any]
) -> None:
    on = bench.apply(base, prompt, negative, **identity, **ONLY_LAST_BLOCK, mask=make_mask(LEFT))
    got, plain = predict_both(bench, on, prompt)
    assert torch.equal(got[..., RIGHT], plain[..., RIGHT])
    assert not torch.equal(got[..., LEFT], plain[..., LEFT])
    everywhere = bench.apply(base, prompt, negative, **identity, **ONLY_LAST_BLOCK)
    assert (
        max_error(got[..., LEFT], bench.predict(everywhere.model, [everywhere.positive])[0][..., LEFT]) < 1e-5
    )


def test_a_white_mask_changes_nothing(
    bench: WanBench, base: Any, prompt: Conditioning, negative: Conditioning, identity: dict[str, Any]
) -> None:
    plain = bench.apply(base, prompt, negative, **identity)
    white = bench.apply(base, prompt, negative, **identity, mask=torch.ones(1, 32, 32))
    for cond in ("positive", "negative", "middle"):
        got, expected = (bench.predict(on.model, [getattr(on, cond)])[0] for on in (white, plain))
        assert max_error(got, expected) < 1e-5


def test_the_id_keeps_to_the_mask_too(
    bench: WanBench, base: Any, prompt: Conditioning, negative: Conditioning, identity: dict[str, Any]
) -> None:
    settings = {"ref_strength": 0.0, "id_blocks": "3"}
    on = bench.apply(base, prompt, negative, **identity, **settings, mask=make_mask(RIGHT))
    got, plain = predict_both(bench, on, prompt)
    assert torch.equal(got[..., LEFT], plain[..., LEFT])
    assert not torch.equal(got[..., RIGHT], plain[..., RIGHT])


def test_each_of_two_people_is_alone_in_the_own_mask(
    bench: WanBench,
    base: Any,
    prompt: Conditioning,
    negative: Conditioning,
    identity: dict[str, Any],
    other_identity: dict[str, Any],
) -> None:
    first = bench.apply(base, prompt, negative, **identity, **ONLY_LAST_BLOCK, mask=make_mask(LEFT))
    both = bench.apply(
        first.model,
        first.positive,
        first.negative,
        **other_identity,
        **ONLY_LAST_BLOCK,
        mask=make_mask(RIGHT),
    )
    (got,) = bench.predict(both.model, [both.positive])
    for person, columns in ((identity, LEFT), (other_identity, RIGHT)):
        alone = bench.apply(base, prompt, negative, **person, **ONLY_LAST_BLOCK)
        (expected,) = bench.predict(alone.model, [alone.positive])
        assert max_error(got[..., columns], expected[..., columns]) < 1e-5


def test_people_share_the_tokens_of_an_overlap(
    bench: WanBench,
    base: Any,
    prompt: Conditioning,
    negative: Conditioning,
    identity: dict[str, Any],
) -> None:
    """The same person twice on the same place is the person once."""
    white = torch.ones(1, 64, 64)
    once = bench.apply(base, prompt, negative, **identity, **ONLY_LAST_BLOCK, mask=white)
    twice = bench.apply(once.model, once.positive, once.negative, **identity, **ONLY_LAST_BLOCK, mask=white)
    got, expected = (bench.predict(on.model, [on.positive])[0] for on in (twice, once))
    assert max_error(got, expected) < 1e-5
    added = bench.apply(base, prompt, negative, **identity, **ONLY_LAST_BLOCK)
    added = bench.apply(added.model, added.positive, added.negative, **identity, **ONLY_LAST_BLOCK)
    assert max_error(bench.predict(added.model, [added.positive])[0], expected) > 1e-4


def test_a_soft_edge_weighs_like_a_strength(
    bench: WanBench, base: Any, prompt: Conditioning, negative: Conditioning, identity: dict[str, Any]
) -> None:
    soft = bench.apply(
        base, prompt, negative, **identity, **ONLY_LAST_BLOCK, mask=torch.full((1, 64, 64), 0.5)
    )
    half = bench.apply(base, prompt, negative, **identity, id_strength=0.0, ref_blocks="3", ref_strength=0.5)
    got, expected = (bench.predict(on.model, [on.positive])[0] for on in (soft, half))
    assert max_error(got, expected) < 1e-5


def test_a_mask_may_move_over_the_frames(
    bench: WanBench, base: Any, prompt: Conditioning, negative: Conditioning, identity: dict[str, Any]
) -> None:
    """Latent frame 0 is pixel frame 0, latent frame 1 the four after it."""
    mask = torch.cat([make_mask(LEFT), make_mask(RIGHT, frames=4)])
    on = bench.apply(base, prompt, negative, **identity, **ONLY_LAST_BLOCK, mask=mask)
    got, plain = predict_both(bench, on, prompt)
    assert torch.equal(got[:, :, 0, :, RIGHT], plain[:, :, 0, :, RIGHT])
    assert torch.equal(got[:, :, 1, :, LEFT], plain[:, :, 1, :, LEFT])
    assert not torch.equal(got[:, :, 1, :, RIGHT], plain[:, :, 1, :, RIGHT])


def test_context_windows_see_their_frames_of_the_mask(
    bench: WanBench, base: Any, prompt: Conditioning, negative: Conditioning, identity: dict[str, Any]
) -> None:
    mask = torch.cat([make_mask(LEFT, frames=5), make_mask(RIGHT, frames=8)])
    on = bench.apply(base, prompt, negative, **identity, **ONLY_LAST_BLOCK, mask=mask)
    windowed = bench.comfy.run(
        "WanContextWindowsManual", model=on.model, context_schedule="standard_static", fuse_method="flat",
        freenoise=False, context_length=5, context_overlap=0,
    )[0]  # fmt: skip
    x = seeded(1, 16, 4, 8, 8, seed=12)
    (got,), (plain,) = (bench.predict(windowed, [cond], x=x) for cond in (on.positive, prompt))
    for frame, outside in ((0, RIGHT), (1, RIGHT), (2, LEFT), (3, LEFT)):
        assert torch.equal(got[:, :, frame, :, outside], plain[:, :, frame, :, outside])
        inside = LEFT if outside is RIGHT else RIGHT
        assert not torch.equal(got[:, :, frame, :, inside], plain[:, :, frame, :, inside])


def test_vace_reference_frames_are_not_counted_by_the_mask(
    bench: WanBench, base: Any, prompt: Conditioning, negative: Conditioning, identity: dict[str, Any]
) -> None:
    mask = torch.cat([make_mask(LEFT), make_mask(RIGHT, frames=4)])
    on = bench.apply(
        base, prompt, negative, **identity, **ONLY_LAST_BLOCK, mask=mask, vace_reference_frames=1
    )
    x = seeded(1, 16, 3, 8, 8, seed=12)
    got, plain = predict_both(bench, on, prompt, x)
    assert torch.equal(got[:, :, 0], plain[:, :, 0])
    assert torch.equal(got[:, :, 1, :, RIGHT], plain[:, :, 1, :, RIGHT])
    assert torch.equal(got[:, :, 2, :, LEFT], plain[:, :, 2, :, LEFT])


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (torch.zeros(1, 64, 64), "the mask is empty"),
        (torch.full((1, 8, 8), float("nan")), "NaN or infinite"),
        (torch.ones(1, 1, 8, 8), r"\[frames, height, width\], got \[1, 1, 8, 8\]"),
        (torch.ones(0, 8, 8), r"got \[0, 8, 8\]"),
    ],
)
def test_masks_that_are_none_are_refused(
    bench: WanBench,
    base: Any,
    prompt: Conditioning,
    negative: Conditioning,
    identity: dict[str, Any],
    mask: Tensor,
    message: str,
) -> None:
    with pytest.raises(ValueError, match=message):
        bench.apply(base, prompt, negative, **identity, mask=mask)


@pytest.mark.parametrize("frames", [2, 4, 9])
def test_a_mask_of_another_length_is_refused_at_the_sampler(
    bench: WanBench,
    base: Any,
    prompt: Conditioning,
    negative: Conditioning,
    identity: dict[str, Any],
    frames: int,
) -> None:
    on = bench.apply(base, prompt, negative, **identity, mask=torch.ones(frames, 64, 64))
    with pytest.raises(ValueError, match=f"has {frames} frames, the video has 5"):
        bench.sample(on.model, on.positive, on.negative)


def test_a_mask_of_another_shape_is_said(
    bench: WanBench,
    base: Any,
    prompt: Conditioning,
    negative: Conditioning,
    identity: dict[str, Any],
    caplog: pytest.LogCaptureFixture,
) -> None:
    on = bench.apply(base, prompt, negative, **identity, mask=torch.ones(1, 32, 64))
    bench.sample(on.model, on.positive, on.negative)
    assert "64x32 px, the video 64x64 px: the mask is stretched" in caplog.text


@pytest.mark.parametrize(("columns", "touched"), [(LEFT, []), (RIGHT, [4, 5, 6, 7]), (slice(2, 6), [4, 5])])
def test_an_area_sees_its_part_of_the_mask(
    bench: WanBench,
    base: Any,
    prompt: Conditioning,
    negative: Conditioning,
    identity: dict[str, Any],
    columns: slice,
    touched: list[int],
) -> None:
    """The mask is of the whole picture, the prompt of its right half."""
    on = bench.apply(base, prompt, negative, **identity, **ONLY_LAST_BLOCK, mask=make_mask(columns))

    def cut(cond: Conditioning) -> Conditioning:
        return bench.comfy.run(
            "ConditioningSetArea", conditioning=cond, width=32, height=64, x=32, y=0, strength=1.0
        )[0]

    (got,), (plain,) = (bench.predict(on.model, [cut(cond)]) for cond in (on.positive, prompt))
    assert list_touched_columns(got, plain) == touched


def list_touched_columns(got: Tensor, plain: Tensor) -> list[int]:
    return [i for i in range(got.shape[-1]) if not torch.equal(got[..., i], plain[..., i])]


def add_windows_across(bench: WanBench, model: Any, dim: int) -> Any:
    """Windows of half a latent's height (3) or width (4), without overlap."""
    return bench.comfy.run(
        "ContextWindowsManual", model=model, context_length=4, context_overlap=0, context_schedule="standard_static",
        context_stride=1, closed_loop=False, fuse_method="flat", dim=dim, freenoise=False,
    )[0]  # fmt: skip


@pytest.mark.parametrize("dim", [3, 4])
def test_context_windows_across_the_picture_see_their_part_of_the_mask(
    bench: WanBench,
    base: Any,
    prompt: Conditioning,
    negative: Conditioning,
    identity: dict[str, Any],
    dim: int,
) -> None:
    on = bench.apply(base, prompt, negative, **identity, **ONLY_LAST_BLOCK, mask=make_mask(LEFT))
    windowed = add_windows_across(bench, on.model, dim)
    got, plain = (bench.predict(windowed, [cond])[0] for cond in (on.positive, prompt))
    touched = list_touched_columns(got, plain)
    assert touched[:4] == [0, 1, 2, 3]
    # A window that begins at column 4 has column 3 in front of it, in one token with column 4.
    assert not {5, 6, 7} & set(touched)


@pytest.mark.parametrize("dim", [3, 4])
def test_context_windows_across_the_picture_leave_reference_frames_out(
    bench: WanBench,
    base: Any,
    prompt: Conditioning,
    negative: Conditioning,
    identity: dict[str, Any],
    dim: int,
) -> None:
    on = bench.apply(base, prompt, negative, **identity, **ONLY_LAST_BLOCK, vace_reference_frames=1)
    windowed = add_windows_across(bench, on.model, dim)
    got, plain = (bench.predict(windowed, [cond])[0] for cond in (on.positive, prompt))
    assert torch.equal(got[:, :, 0], plain[:, :, 0])
    assert not torch.equal(got[:, :, 1], plain[:, :, 1])


def test_two_areas_of_one_person_each_see_their_part_of_the_mask(
    bench: WanBench, base: Any, prompt: Conditioning, negative: Conditioning, identity: dict[str, Any]
) -> None:
    """Areas of one size share a batch."""
    on = bench.apply(base, prompt, negative, **identity, **ONLY_LAST_BLOCK, mask=make_mask(LEFT))

    def cut(cond: Conditioning, x: int) -> Conditioning:
        return bench.comfy.run(
            "ConditioningSetArea", conditioning=cond, width=32, height=64, x=x, y=0, strength=1.0
        )[0]

    got = bench.predict(on.model, [cut(on.positive, x) for x in (0, 32)])
    plain = bench.predict(on.model, [cut(prompt, x) for x in (0, 32)])
    touched = [list_touched_columns(*pair) for pair in zip(got, plain, strict=True)]
    assert touched == [[0, 1, 2, 3], []]


def test_reference_frames_count_for_a_mask_without_a_reference(
    bench: WanBench,
    base: Any,
    full: Any,
    prompt: Conditioning,
    negative: Conditioning,
    notes: list[str],
) -> None:
    person = {"adapter": full, "id": bench.make_id(), "vace_reference_frames": 1}
    bench.apply(base, prompt, negative, **person, mask=make_mask(LEFT))
    assert "does nothing" not in notes[-1].splitlines()[0]
    bench.apply(base, prompt, negative, **person)
    assert "vace_reference_frames does nothing without a reference or a mask" in notes[-1]


def test_one_person_becomes_another_along_the_frames(
    bench: WanBench,
    base: Any,
    prompt: Conditioning,
    negative: Conditioning,
    identity: dict[str, Any],
    other_identity: dict[str, Any],
) -> None:
    """The first fades while the second rises: alone at the start, half and half later."""
    fading = torch.cat([torch.ones(1, 64, 64), torch.full((4, 64, 64), 0.5)])
    first = bench.apply(base, prompt, negative, **identity, **ONLY_LAST_BLOCK, mask=fading)
    both = bench.apply(
        first.model, first.positive, first.negative, **other_identity, **ONLY_LAST_BLOCK, mask=1 - fading
    )
    half = bench.apply(base, prompt, negative, **identity, **ONLY_LAST_BLOCK, ref_strength=0.5)
    half = bench.apply(
        half.model, half.positive, half.negative, **other_identity, **ONLY_LAST_BLOCK, ref_strength=0.5
    )
    alone = bench.apply(base, prompt, negative, **identity, **ONLY_LAST_BLOCK)
    got, mixed, one = (bench.predict(on.model, [on.positive])[0] for on in (both, half, alone))
    assert max_error(got[:, :, 0], one[:, :, 0]) < 1e-5
    assert max_error(got[:, :, 1], mixed[:, :, 1]) < 1e-5
    assert max_error(one[:, :, 1], mixed[:, :, 1]) > 1e-4
