"""Identities belong to conditionings: whatever the host puts into one batch, each row gets its own."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from wan_bench import LATENT_CHANNELS, Applied, Conditioning, WanBench, count_batches, max_error, seeded


@pytest.fixture(scope="module")
def on(
    bench: WanBench, base: Any, prompt: Conditioning, negative: Conditioning, identity: dict[str, Any]
) -> Applied:
    return bench.apply(base, prompt, negative, **identity)


@pytest.fixture(scope="module")
def other(bench: WanBench, base: Any, full: Any, prompt: Conditioning, negative: Conditioning) -> Applied:
    """Another person, with other strengths and windows."""
    return bench.apply(
        base,
        bench.make_text(3),
        negative,
        adapter=full,
        id=bench.make_id(8),
        reference=bench.make_reference(base, full, seed=8),
        id_strength=0.6,
        ref_blocks="1-2",
    )


def test_all_three_in_one_batch_equal_each_alone(bench: WanBench, on: Applied) -> None:
    conds = [on.positive, on.negative, on.middle]
    alone = [bench.predict(on.model, [cond])[0] for cond in conds]
    for a, b in itertools.combinations(alone, 2):
        assert max_error(a, b) > 1e-3, "the three differ, or the test would prove nothing"
    for order in itertools.permutations(range(3)):
        model, rows = count_batches(on.model)
        together = bench.predict(model, [conds[i] for i in order])
        assert rows == [3]
        for i, prediction in zip(order, together, strict=True):
            assert max_error(prediction, alone[i]) < 1e-5


def test_two_persons_and_several_videos_in_one_batch(bench: WanBench, on: Applied, other: Applied) -> None:
    videos = seeded(2, LATENT_CHANNELS, 2, 8, 8, seed=11)
    conds = [on.positive, other.positive, on.negative, other.middle]
    model, rows = count_batches(on.model)
    together = bench.predict(model, conds, x=videos)
    assert rows == [8]
    for cond, prediction in zip(conds, together, strict=True):
        for i in range(2):
            (alone,) = bench.predict(on.model, [cond], x=videos[i : i + 1])
            assert max_error(prediction[i : i + 1], alone) < 1e-5


def test_rows_without_identity_beside_rows_with_one(
    bench: WanBench, base: Any, on: Applied, negative: Conditioning
) -> None:
    with_identity, without = bench.predict(on.model, [on.positive, negative])
    assert max_error(with_identity, bench.predict(on.model, [on.positive])[0]) < 1e-5
    assert max_error(without, bench.predict(base, [negative])[0]) < 1e-5


def test_combined_prompts_of_two_persons(bench: WanBench, on: Applied, other: Applied) -> None:
    """The core's ConditioningCombine averages the predictions of its parts."""
    (combined,) = bench.comfy.run(
        "ConditioningCombine", conditioning_1=on.positive, conditioning_2=other.positive
    )
    model, rows = count_batches(on.model)
    (prediction,) = bench.predict(model, [combined])
    assert rows == [2]
    expected = sum(bench.predict(on.model, [c])[0] for c in (on.positive, other.positive)) / 2
    assert max_error(prediction, expected) < 1e-5


@pytest.mark.parametrize("batch", [1, 2])
def test_ksampler_equals_guidance_by_hand(bench: WanBench, on: Applied, batch: int) -> None:
    """One Euler step at cfg 3, against the formula with each prediction made alone."""
    latent = bench.make_latent(batch)
    sampled = bench.sample(on.model, on.positive, on.negative, steps=1, latent_image=latent)
    import comfy.sample

    sampling = on.model.get_model_object("model_sampling")
    sigma = sampling.sigmas[-1]
    noise = comfy.sample.prepare_noise(latent["samples"], 5)
    for i in range(batch):
        x = sampling.noise_scaling(sigma, noise[i : i + 1], torch.zeros_like(noise[i : i + 1]))
        positive, negative = (
            bench.predict(on.model, [cond], float(sigma), x)[0] for cond in (on.positive, on.negative)
        )
        expected = on.model.model.process_latent_out(negative + 3 * (positive - negative))
        assert max_error(sampled[i : i + 1], expected) < 1e-5


def test_parts_of_two_adapters_with_different_blocks_share_a_batch(
    bench: WanBench, base: Any, lite: Any, on: Applied, prompt: Conditioning, negative: Conditioning
) -> None:
    light = bench.apply(base, prompt, negative, adapter=lite, id=bench.make_id(1))
    model, rows = count_batches(on.model)
    together = bench.predict(model, [light.positive, on.positive])
    assert rows == [2]
    for prediction, cond in zip(together, (light.positive, on.positive), strict=True):
        assert max_error(prediction, bench.predict(on.model, [cond])[0]) < 1e-5
