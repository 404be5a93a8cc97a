"""Lynx Fade: one person becomes another over the frames of a video."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from wan_bench import ONLY_LAST_BLOCK, Conditioning, WanBench, max_error, seeded


def test_one_person_becomes_another_by_lynx_fade(
    bench: WanBench,
    base: Any,
    prompt: Conditioning,
    negative: Conditioning,
    identity: dict[str, Any],
    other_identity: dict[str, Any],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """By Lynx Fade, over a wide video: the first alone at the start, the second alone at the end."""
    fades = bench.comfy.run("LynxFade", latent=bench.make_latent(frames=3), start=0.1, end=0.6)
    people = [{**person, **ONLY_LAST_BLOCK} for person in (identity, other_identity)]
    first = bench.apply(base, prompt, negative, **people[0], mask=fades[0])
    both = bench.apply(first.model, first.positive, first.negative, **people[1], mask=fades[1])
    alone = [bench.apply(base, prompt, negative, **person) for person in people]
    x = seeded(1, 16, 3, 8, 12, seed=7)
    got, one, two = (bench.predict(on.model, [on.positive], x=x)[0] for on in (both, *alone))
    assert max_error(got[:, :, 0], one[:, :, 0]) < 1e-5
    assert max_error(got[:, :, 2], two[:, :, 2]) < 1e-5
    assert min(max_error(got[:, :, 1], person[:, :, 1]) for person in (one, two)) > 1e-4
    assert "stretched" not in caplog.text


def weigh_frames(bench: WanBench, mask: Tensor, num_latent_frames: int) -> list[float]:
    """What Lynx Apply makes of a mask in each latent frame."""
    module = bench.comfy.pack_module("nodes.host.region")
    part = module.LatentPart(range(num_latent_frames), range(8), range(8), (8, 8), (2, 2))
    tokens = module.Region(mask).to_tokens(part, torch.device("cpu")).view(num_latent_frames, -1)
    assert (tokens == tokens[:, :1]).all()
    return tokens[:, 0].tolist()


@pytest.mark.parametrize(
    ("frames", "start", "end", "first_alone", "second_alone"),
    [(5, 0.25, 0.75, 2, 2), (3, 0.25, 0.75, 1, 1), (21, 0.0, 1.0, 1, 1), (21, 0.95, 1.0, 20, 1), (31, 0.5, 0.5, 15, 16),
     (21, 1.0, 1.0, 20, 1), (2, 0.25, 0.75, 1, 1), (61, 0.5, 0.5, 30, 31)],
)  # fmt: skip
def test_a_fade_is_what_its_note_says(
    bench: WanBench,
    notes: list[str],
    frames: int,
    start: float,
    end: float,
    first_alone: int,
    second_alone: int,
) -> None:
    """In latent frames: whoever is said to be alone is, and a cut has no frame of both."""
    masks = bench.comfy.run("LynxFade", latent=bench.make_latent(frames=frames), start=start, end=end)
    assert torch.equal(masks[0] + masks[1], torch.ones(4 * frames - 3, 1, 1))
    first, second = (weigh_frames(bench, mask, frames) for mask in masks)
    assert (first.count(1.0), second.count(1.0)) == (first_alone, second_alone)
    assert second == sorted(second)
    assert start != end or first_alone + second_alone == frames
    alone = f"the first person alone for {4 * first_alone - 3}, the second for {4 * second_alone}"
    assert f"{4 * frames - 3} frames: {alone}" in notes[-1]


def test_a_fade_leaves_the_reference_frames_of_vace_out(bench: WanBench) -> None:
    latent = bench.make_latent(frames=4)
    first, _ = bench.comfy.run("LynxFade", latent=latent, start=0.0, end=1.0, vace_reference_frames=1)
    assert first.flatten().tolist() == [1.0, *[0.5] * 4, *[0.0] * 4]
    with pytest.raises(ValueError, match="has 1 frames without the 3 of vace_reference_frames"):
        bench.comfy.run("LynxFade", latent=latent, start=0.0, end=1.0, vace_reference_frames=3)


def test_a_fade_needs_the_latent_of_a_video(bench: WanBench) -> None:
    picture = {"samples": torch.zeros(1, 16, 8, 8)}
    with pytest.raises(ValueError, match=r"The latent is \[1, 16, 8, 8\], which is no video's"):
        bench.comfy.run("LynxFade", latent=picture, start=0.0, end=1.0)


@pytest.mark.parametrize(
    ("start", "end", "said"),
    [
        (0.7, 0.3, r"ends at 0\.3, before it starts at 0\.7; make end the larger"),
        (0.0, 0.0, "the first person is never seen"),
        (2.0, 3.0, "the second person is never seen"),
        (float("nan"), 0.5, "starts at nan"),
    ],
)
def test_a_fade_that_cannot_be_is_refused(bench: WanBench, start: float, end: float, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        bench.comfy.run("LynxFade", latent=bench.make_latent(), start=start, end=end)


def test_a_picture_has_no_course_to_fade_in(bench: WanBench) -> None:
    with pytest.raises(ValueError, match="has 1 frames, and nobody can become another in less than 2"):
        bench.comfy.run("LynxFade", latent=bench.make_latent(frames=1), start=0.25, end=0.75)
