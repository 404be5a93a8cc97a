"""Strength, window and block range of each part, presets, and more than one identity."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from wan_bench import Conditioning, WanBench, max_error

Inputs = dict[str, Any]


@pytest.mark.parametrize("part", ["id", "ref"])
def test_window_outside_equals_base_inside_equals_always(
    bench: WanBench, base: Any, prompt: Conditioning, negative: Conditioning, identity: Inputs, part: str
) -> None:
    other = {"id": "ref", "ref": "id"}[part]
    inputs = {**identity, f"{other}_strength": 0.0}
    window = {f"{part}_start": 0.2, f"{part}_end": 0.6}
    windowed = bench.apply(base, prompt, negative, **inputs, **window)
    always = bench.apply(base, prompt, negative, **inputs)
    sampling = base.get_model_object("model_sampling")
    for percent, is_open in (
        (0.05, False),
        (0.19, False),
        (0.21, True),
        (0.59, True),
        (0.61, False),
        (0.95, False),
    ):
        sigma = float(sampling.percent_to_sigma(percent))
        (got,) = bench.predict(windowed.model, [windowed.positive], sigma)
        (with_part,) = bench.predict(always.model, [always.positive], sigma)
        (without,) = bench.predict(base, [prompt], sigma)
        assert not torch.equal(with_part, without)
        assert torch.equal(got, with_part if is_open else without), percent


def test_the_full_window_holds_the_first_and_the_last_step(
    bench: WanBench, base: Any, prompt: Conditioning, negative: Conditioning, identity: Inputs
) -> None:
    on = bench.apply(base, prompt, negative, **identity)
    sampling = base.get_model_object("model_sampling")
    for sigma in (float(sampling.sigma_max), float(sampling.sigma_min)):
        (got,), (without,) = (
            bench.predict(on.model, [on.positive], sigma),
            bench.predict(base, [prompt], sigma),
        )
        assert not torch.equal(got, without)


@pytest.mark.parametrize("part", ["id", "ref"])
@pytest.mark.parametrize(("text", "first"), [("0", 0), ("1-2", 1), (" 2 , 3 ", 2), ("3", 3), ("ALL", 0)])
def test_blocks_before_the_range_see_nothing(
    bench: WanBench,
    base: Any,
    prompt: Conditioning,
    negative: Conditioning,
    identity: Inputs,
    part: str,
    text: str,
    first: int,
) -> None:
    other = {"id": "ref", "ref": "id"}[part]
    inputs = {**identity, f"{other}_strength": 0.0, f"{part}_blocks": text}
    on = bench.apply(base, prompt, negative, **inputs)
    plain = bench.record_blocks(base, prompt)
    states = bench.record_blocks(on.model, on.positive)
    assert sorted(states) == [0, 1, 2, 3]
    for block, state in states.items():
        assert torch.equal(state, plain[block]) == (block < first), block


def test_ranges_add_up_to_all(
    bench: WanBench, base: Any, prompt: Conditioning, negative: Conditioning, identity: Inputs
) -> None:
    ranges = {"id_blocks": "0-1, 2, 3", "ref_blocks": "3,0-2"}
    parts = bench.apply(base, prompt, negative, **identity, **ranges)
    whole = bench.apply(base, prompt, negative, **identity)
    some = bench.apply(base, prompt, negative, **identity, id_blocks="0-1", ref_blocks="3")
    a, b, c = (bench.predict(x.model, [x.positive])[0] for x in (parts, whole, some))
    assert torch.equal(a, b)
    assert not torch.equal(a, c)


def test_strength_scales_the_residual(
    bench: WanBench, base: Any, prompt: Conditioning, negative: Conditioning, identity: Inputs
) -> None:
    """In the last block's cross-attention the residual meets a linear map, and the ffn only later."""
    plain = bench.predict(base, [prompt])[0]
    change = []
    for strength in (0.01, 0.02, -0.01):
        on = bench.apply(
            base, prompt, negative, **identity, ref_strength=0.0, id_blocks="3", id_strength=strength
        )
        change.append(bench.predict(on.model, [on.positive])[0] - plain)
    assert max_error(change[1] / 2, change[0]) < 0.05
    assert max_error(-change[2], change[0]) < 0.05


def test_the_values_count_whatever_the_preset(
    bench: WanBench,
    base: Any,
    prompt: Conditioning,
    negative: Conditioning,
    identity: Inputs,
    notes: list[str],
) -> None:
    """As when a Float is linked to a strength, or a value is edited in an API prompt."""
    values = {"id_strength": 0.3, "ref_strength": 0.4, "ref_start": 0.1, "id_blocks": "0-2"}
    by_hand = bench.apply(base, prompt, negative, **identity, **values)
    expected = bench.predict(by_hand.model, [by_hand.positive])[0]
    notes.clear()
    for name in bench.comfy.pack_module("nodes.presets").PRESETS:
        on = bench.apply(base, prompt, negative, **identity, preset=name, **values)
        assert torch.equal(bench.predict(on.model, [on.positive])[0], expected), name
        said = notes.pop()
        for words in (f"Not as in the preset '{name}'", "id_strength is 0.3", "ref_strength is 0.4", "0-2"):
            assert words in said, said


def test_a_preset_that_shows_its_own_values_needs_no_remark(
    bench: WanBench,
    base: Any,
    prompt: Conditioning,
    negative: Conditioning,
    identity: Inputs,
    notes: list[str],
) -> None:
    for name, settings in bench.comfy.pack_module("nodes.presets").PRESETS.items():
        bench.apply(base, prompt, negative, **identity, preset=name, **settings.list_widgets())
        assert "preset" not in notes[-1], notes[-1]


@pytest.mark.parametrize(
    ("wrong", "part", "said"),
    [
        ({"id_start": 0.9, "id_end": 0.1}, "ID", "start 0.9, end 0.1"),
        ({"ref_blocks": "abc"}, "reference", "'abc' is no block number"),
        ({"ref_strength": 99.0}, "reference", "between -10 and 10, got 99"),
        ({"id_strength": float("nan")}, "ID", "between -10 and 10, got nan"),
    ],
)
def test_values_that_cannot_be_used(
    bench: WanBench,
    base: Any,
    prompt: Conditioning,
    negative: Conditioning,
    identity: Inputs,
    notes: list[str],
    wrong: Inputs,
    part: str,
    said: str,
) -> None:
    """They are an error that names the part; where a preset is set its values take their place, and it is said."""
    with pytest.raises(ValueError, match=f"^{part}: .*{said}"):
        bench.apply(base, prompt, negative, **identity, **wrong)
    preset = bench.comfy.pack_module("nodes.presets").PRESETS["more motion"].list_widgets()
    saved = bench.apply(base, prompt, negative, **identity, preset="more motion", **{**preset, **wrong})
    assert f"{part}: " in notes[-1] and said in notes[-1] and "preset 'more motion' is used" in notes[-1]
    shown = bench.apply(base, prompt, negative, **identity, preset="more motion", **preset)
    a, b = (bench.predict(x.model, [x.positive])[0] for x in (saved, shown))
    assert torch.equal(a, b)


@pytest.mark.parametrize(("part", "name"), [("id", "ID"), ("ref", "reference")])
def test_blocks_without_layers_name_the_part(
    bench: WanBench,
    base: Any,
    prompt: Conditioning,
    negative: Conditioning,
    identity: Inputs,
    part: str,
    name: str,
) -> None:
    with pytest.raises(ValueError, match=f"^{name}: blocks '7' holds none"):
        bench.apply(base, prompt, negative, **identity, **{f"{part}_blocks": "7"})


def test_widgets_that_do_nothing_are_named(
    bench: WanBench,
    base: Any,
    full: Any,
    prompt: Conditioning,
    negative: Conditioning,
    reference: Any,
    notes: list[str],
) -> None:
    bench.apply(base, prompt, negative, adapter=full, id=bench.make_id(), vace_reference_frames=1)
    assert "reference: nothing is connected" in notes[-1]
    assert "vace_reference_frames does nothing" in notes[-1]
    bench.apply(base, prompt, negative, adapter=full, reference=reference, ref_strength=0.0)
    assert "ID: nothing is connected" in notes[-1] and "reference: left out" in notes[-1]


def test_a_second_apply_adds_a_second_identity(
    bench: WanBench, base: Any, full: Any, prompt: Conditioning, negative: Conditioning, identity: Inputs
) -> None:
    other = {"adapter": full, "id": bench.make_id(8), "reference": bench.make_reference(base, full, seed=8)}
    one = bench.apply(base, prompt, negative, **identity)
    both = bench.apply(one.model, one.positive, one.negative, **other)
    reversed_order = bench.apply(base, prompt, negative, **other)
    reversed_order = bench.apply(
        reversed_order.model, reversed_order.positive, reversed_order.negative, **identity
    )
    first, second, swapped = (bench.predict(x.model, [x.positive])[0] for x in (one, both, reversed_order))
    assert max_error(first, second) > 1e-3
    assert max_error(second, swapped) < 1e-5
    # Half of a person twice is that person.
    half = {**identity, "id_strength": 0.5, "ref_strength": 0.5}
    twice = bench.apply(base, prompt, negative, **half)
    twice = bench.apply(twice.model, twice.positive, twice.negative, **half)
    assert max_error(bench.predict(twice.model, [twice.positive])[0], first) < 1e-5


def test_lite_id_with_full_reference(
    bench: WanBench, base: Any, reference: Any, prompt: Conditioning, negative: Conditioning
) -> None:
    """What many people run: the light ID layers beside the full reference layers."""
    mixed = bench.open_adapter("lynx_lite", "lynx_full/ref_layers.safetensors")
    on = bench.apply(base, prompt, negative, adapter=mixed, id=bench.make_id(), reference=reference)
    only_id = bench.apply(base, prompt, negative, adapter=mixed, id=bench.make_id())
    a, b, plain = (
        bench.predict(model, [cond])[0]
        for model, cond in ((on.model, on.positive), (only_id.model, only_id.positive), (base, prompt))
    )
    assert max_error(a, b) > 1e-3
    assert max_error(b, plain) > 1e-3


def test_the_lite_adapter_acts_in_every_second_block(
    bench: WanBench, base: Any, lite: Any, prompt: Conditioning, negative: Conditioning
) -> None:
    """Its two entries are blocks 0 and 2: chosen one by one they give what they give together."""
    with pytest.raises(ValueError, match="holds none of the blocks"):
        bench.apply(base, prompt, negative, adapter=lite, id=bench.make_id(), id_blocks="1, 3")
    on = bench.apply(base, prompt, negative, adapter=lite, id=bench.make_id(), id_blocks="1-3")
    plain, states = bench.record_blocks(base, prompt), bench.record_blocks(on.model, on.positive)
    assert [torch.equal(states[i], plain[i]) for i in range(4)] == [True, True, False, False]


def test_inputs_are_not_changed(bench: WanBench, base: Any, identity: Inputs) -> None:
    positive, negative = bench.make_text(1), bench.make_text(2)
    positive[0][1]["additional_models"] = []
    positive[0][1]["model_conds"] = {}
    on = bench.apply(base, positive, negative, **identity)
    assert positive[0][1] == {"additional_models": [], "model_conds": {}}
    assert negative[0][1] == {}
    assert on.positive[0][0] is positive[0][0]
