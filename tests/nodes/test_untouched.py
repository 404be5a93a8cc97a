"""Strength 0 is the untouched model, and nothing stays on a model after a run, however it ended."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from wan_bench import Conditioning, WanBench, list_leftovers, max_error

OFF = {"id_strength": 0.0, "ref_strength": 0.0}


@pytest.fixture(scope="session")
def base(bench: WanBench) -> Any:
    """A model of this file's own: the host itself leaves a `forward` behind where an object patch has been."""
    return bench.load_base()


def interrupt() -> None:
    """Press the host's Cancel button."""
    import comfy.model_management

    comfy.model_management.interrupt_current_processing()


@pytest.fixture
def interrupted(bench: WanBench) -> Any:
    """The exception that Cancel raises; the button is up again after the test."""
    import comfy.model_management

    yield comfy.model_management.InterruptProcessingException
    comfy.model_management.interrupt_current_processing(False)


def count_wrappers(model: Any) -> int:
    return sum(len(found) for by_key in model.wrappers.values() for found in by_key.values())


@pytest.mark.parametrize("parts", [("id", "reference"), ("id",), ("reference",)])
def test_strength_0_is_the_untouched_model_bit_for_bit(
    bench: WanBench,
    base: Any,
    prompt: Conditioning,
    negative: Conditioning,
    identity: dict[str, Any],
    parts: tuple[str, ...],
) -> None:
    plain = bench.sample(base, prompt, negative)
    inputs = {name: value for name, value in identity.items() if name in (*parts, "adapter")}
    off = bench.apply(base, prompt, negative, **inputs, **OFF)
    assert torch.equal(bench.sample(off.model, off.positive, off.negative), plain)
    assert count_wrappers(off.model) == 0
    on = bench.apply(base, prompt, negative, **inputs)
    assert count_wrappers(on.model) == 2, "one around the sampling, one around each call"
    assert max_error(bench.sample(on.model, on.positive, on.negative), plain) > 1e-2


def test_strength_0_of_one_part_is_that_part_left_out(
    bench: WanBench, base: Any, prompt: Conditioning, negative: Conditioning, identity: dict[str, Any]
) -> None:
    for strength, name in (("id_strength", "id"), ("ref_strength", "reference")):
        off = bench.apply(base, prompt, negative, **identity, **{strength: 0.0})
        without = bench.apply(base, prompt, negative, **{k: v for k, v in identity.items() if k != name})
        both = bench.apply(base, prompt, negative, **identity)
        (a,), (b,), (c,) = (bench.predict(x.model, [x.positive]) for x in (off, without, both))
        assert torch.equal(a, b)
        assert max_error(a, c) > 1e-3


def test_nothing_is_left_on_the_model_after_a_run(
    bench: WanBench, base: Any, prompt: Conditioning, negative: Conditioning, identity: dict[str, Any]
) -> None:
    plain = bench.sample(base, prompt, negative)
    weights = {name: tensor.clone() for name, tensor in base.model.state_dict().items()}
    on = bench.apply(base, prompt, negative, **identity)
    first = bench.sample(on.model, on.positive, on.negative)
    assert list_leftovers(base) == []
    after = base.model.state_dict()
    assert after.keys() == weights.keys()
    assert all(torch.equal(after[name], weights[name]) for name in weights)
    assert count_wrappers(base) == 0
    assert torch.equal(bench.sample(base, prompt, negative), plain)
    assert torch.equal(bench.sample(on.model, on.positive, on.negative), first), "queued again"
    again = bench.apply(base, prompt, negative, **identity)
    assert torch.equal(bench.sample(again.model, again.positive, again.negative), first), "applied again"


def test_the_reference_pass_leaves_the_model_clean(
    bench: WanBench, base: Any, full: Any, prompt: Conditioning, negative: Conditioning
) -> None:
    plain = bench.sample(base, prompt, negative)
    options = repr(base.model_options)
    bench.make_reference(base, full, seed=9)
    assert list_leftovers(base) == []
    assert repr(base.model_options) == options
    assert torch.equal(bench.sample(base, prompt, negative), plain)


def test_interrupted_while_sampling(
    bench: WanBench,
    base: Any,
    prompt: Conditioning,
    negative: Conditioning,
    identity: dict[str, Any],
    interrupted: type[BaseException],
) -> None:
    import comfy.model_management

    plain = bench.sample(base, prompt, negative)
    on = bench.apply(base, prompt, negative, **identity)
    whole = bench.sample(on.model, on.positive, on.negative)

    def stop(args: dict[str, Any], extra: dict[str, Any]) -> dict[str, Any]:
        interrupt()
        comfy.model_management.throw_exception_if_processing_interrupted()
        return extra["original_block"](args)

    stopping = on.model.clone()
    stopping.set_model_patch_replace(stop, "dit", "double_block", 2)
    with pytest.raises(interrupted):
        bench.sample(stopping, on.positive, on.negative)
    assert list_leftovers(base) == []
    assert torch.equal(bench.sample(base, prompt, negative), plain)
    assert torch.equal(bench.sample(on.model, on.positive, on.negative), whole)


def test_interrupted_in_the_reference_pass(
    bench: WanBench,
    base: Any,
    prompt: Conditioning,
    negative: Conditioning,
    interrupted: type[BaseException],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    adapter = bench.open_adapter("lynx_full")
    plain = bench.sample(base, prompt, negative)
    expected = bench.make_reference(base, adapter, seed=4)
    read = type(adapter).read_ref_layer
    blocks: list[int] = []

    def read_then_stop(self: Any, block: int) -> Any:
        blocks.append(block)
        if block == 1:
            interrupt()
        return read(self, block)

    with monkeypatch.context() as patch:
        patch.setattr(type(adapter), "read_ref_layer", read_then_stop)
        with pytest.raises(interrupted):
            bench.make_reference(base, adapter, seed=4)
    assert blocks == [0, 1], "no block is computed after Cancel"
    assert list_leftovers(base) == []
    assert torch.equal(bench.sample(base, prompt, negative), plain)
    again = bench.make_reference(base, adapter, seed=4)
    for a, b in zip(again.face.kv_cache.parameters(), expected.face.kv_cache.parameters(), strict=True):
        assert torch.equal(a, b)


def test_interrupted_while_the_id_is_precomputed(
    bench: WanBench,
    base: Any,
    prompt: Conditioning,
    negative: Conditioning,
    interrupted: type[BaseException],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    adapter = bench.open_adapter("lynx_full")
    inputs = {"adapter": adapter, "id": bench.make_id(77)}
    whole = bench.apply(base, prompt, negative, **inputs)
    expected = bench.sample(whole.model, whole.positive, whole.negative)
    cache = bench.comfy.pack_module("nodes.host.identity").IdentityKVCache
    monkeypatch.setattr(
        bench.comfy.pack_module("nodes.host.application"), "_id_kv_cache", cache(max_entries=4)
    )
    read = type(adapter).read_id_layer

    def read_then_stop(self: Any, block: int) -> Any:
        interrupt()
        return read(self, block)

    with monkeypatch.context() as patch:
        patch.setattr(type(adapter), "read_id_layer", read_then_stop)
        with pytest.raises(interrupted):
            bench.apply(base, prompt, negative, **inputs)
    on = bench.apply(base, prompt, negative, **inputs)
    assert torch.equal(bench.sample(on.model, on.positive, on.negative), expected)
