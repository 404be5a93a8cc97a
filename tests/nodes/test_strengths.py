"""Strength over time and depth: what the texts mean, and that they act."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from in_process import InProcessComfy
from wan_bench import Conditioning, WanBench, max_error


@pytest.fixture(scope="module")
def strengths(comfy: InProcessComfy) -> Any:
    return comfy.pack_module("nodes.presets")


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("constant", [1, 1, 1]),
        ("Ease In ", [0, 1, 1]),
        ("ease out", [1, 1, 0]),
        ("weak middle", [1, 0.3, 1]),
        ("weak ends", [0.3, 1, 0.3]),
        ("0:1, 0.5:0.3, 1:1", [1, 0.3, 1]),
        ("0.5:2", [2, 2, 2]),
        ("0:-1, 1:1", [-1, 0, 1]),
    ],
)
def test_curves_pass_through_their_points(strengths: Any, text: str, values: list[float]) -> None:
    curve = strengths.parse_curve(text)
    assert [curve.at(percent) for percent in (0.0, 0.5, 1.0)] == pytest.approx(values)


def test_curves_are_straight_between_points_and_level_beyond_them(strengths: Any) -> None:
    curve = strengths.parse_curve("0.2:1, 0.4:0")
    assert [curve.at(p) for p in (0.0, 0.3, 0.9)] == pytest.approx([1.0, 0.5, 0.0])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "'' is no point"),
        ("wavy", "'wavy' is no point"),
        ("0:1, 0.5", "'0.5' is no point"),
        ("0.5:1, 0.2:1", "each later than the one before, got 0.5, 0.2"),
        ("0:1, 0:2", "each later than the one before"),
        ("0:1, 1.5:1", "lie between 0 and 1, got 0, 1.5"),
        ("0:11", "between -10 and 10"),
    ],
)
def test_bad_curves_are_named(strengths: Any, text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        strengths.parse_curve(text)


@pytest.mark.parametrize(
    ("text", "weights"),
    [
        ("all", {0: 1, 1: 1, 2: 1, 3: 1}),
        ("first half", {0: 1, 1: 1}),
        ("second half", {2: 1, 3: 1}),
        ("middle half", {1: 1, 2: 1}),
        ("0-2:1, 2:0.5", {0: 1, 1: 1, 2: 0.5}),
        ("0-3:1, 1:0", {0: 1, 2: 1, 3: 1}),
        ("3", {3: 1}),
        ("2:-.5", {2: -0.5}),
    ],
)
def test_blocks_and_their_weights(strengths: Any, text: str, weights: dict[int, float]) -> None:
    assert strengths.weigh_blocks(text, (0, 1, 2, 3)) == weights


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("7-9", "holds none of the blocks"),
        ("0:0", "gives the weight 0 to every block"),
        ("0:", "no block number"),
        ("0:11", "no block number"),
    ],
)
def test_bad_weights_are_named(strengths: Any, text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        strengths.weigh_blocks(text, (0, 1, 2, 3))


def test_a_weight_acts_like_the_strength_in_its_block(
    bench: WanBench, base: Any, prompt: Conditioning, negative: Conditioning, identity: dict[str, Any]
) -> None:
    by_block = bench.apply(base, prompt, negative, **identity, id_blocks="2:0.5", ref_blocks="1:0.25")
    by_strength = bench.apply(
        base, prompt, negative, **identity, id_blocks="2", ref_blocks="1", id_strength=0.5, ref_strength=0.25
    )
    got, expected = (bench.predict(on.model, [on.positive])[0] for on in (by_block, by_strength))
    assert max_error(got, expected) < 1e-6


def test_a_curve_acts_at_its_share_of_sampling(
    bench: WanBench, base: Any, prompt: Conditioning, negative: Conditioning, identity: dict[str, Any]
) -> None:
    """At the noise of a quarter of sampling the curve gives what a strength of that value gives."""
    on = bench.apply(base, prompt, negative, **identity, id_curve="0:0, 0.5:1", ref_curve="0.25:0.5, 0.3:0")
    sigma = float(base.get_model_object("model_sampling").percent_to_sigma(0.25))
    flat = bench.apply(base, prompt, negative, **identity, id_strength=0.5, ref_strength=0.5)
    got, expected = (bench.predict(a.model, [a.positive], sigma=sigma)[0] for a in (on, flat))
    assert max_error(got, expected) < 1e-4
    start, end = (float(base.get_model_object("model_sampling").percent_to_sigma(p)) for p in (0.0, 0.9))
    plain, late = (bench.predict(on.model, [cond], sigma=end)[0] for cond in (prompt, on.positive))
    assert max_error(late, plain) > 1e-3
    early = bench.predict(on.model, [on.positive], sigma=min(start, 0.9999))[0]
    only_ref = bench.apply(base, prompt, negative, **identity, id_strength=0.0, ref_strength=0.5)
    assert (
        max_error(early, bench.predict(only_ref.model, [only_ref.positive], sigma=min(start, 0.9999))[0])
        < 1e-3
    )


def test_an_old_graph_without_curves_is_as_before(
    bench: WanBench, base: Any, prompt: Conditioning, negative: Conditioning, identity: dict[str, Any]
) -> None:
    plain = bench.apply(base, prompt, negative, **identity)
    named = bench.apply(base, prompt, negative, **identity, id_curve="constant", ref_curve="0:1")
    got, expected = (bench.predict(on.model, [on.positive])[0] for on in (named, plain))
    assert torch.equal(got, expected)


def test_a_bad_curve_names_its_part(
    bench: WanBench, base: Any, prompt: Conditioning, negative: Conditioning, identity: dict[str, Any]
) -> None:
    with pytest.raises(ValueError, match="reference: curve 'wavy'"):
        bench.apply(base, prompt, negative, **identity, ref_curve="wavy")


@pytest.mark.parametrize(("curve", "steps"), [("0:0", 2), ("ease in", 1)])
def test_a_curve_that_is_0_in_every_step_is_said(
    bench: WanBench,
    base: Any,
    identity: dict[str, Any],
    prompt: Conditioning,
    negative: Conditioning,
    curve: str,
    steps: int,
    caplog: pytest.LogCaptureFixture,
) -> None:
    on = bench.apply(base, prompt, negative, **identity, id_curve=curve)
    bench.sample(on.model, on.positive, on.negative, steps=steps)
    assert "ID: no step of this sampling falls into its window, or its curve is 0" in caplog.text
