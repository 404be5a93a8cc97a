"""torch.compile through the core's own node path: the same numbers, and no compilation at a later step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import psutil
import pytest
import torch
from torch import Tensor
from wan_bench import Applied, Conditioning, WanBench, list_leftovers, max_error

KEYS = {
    "whole model": ["diffusion_model"],
    "each block": [f"diffusion_model.blocks.{block}" for block in range(4)],
}


class CountingBackend:
    """Runs what Dynamo captured as it is, and counts how often it was asked."""

    def __init__(self) -> None:
        self.compilations = 0

    def __call__(self, graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Callable[..., Any]:
        self.compilations += 1
        return graph.forward


@pytest.fixture(autouse=True)
def _fresh_dynamo() -> Any:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.fixture(autouse=True)
def _steady_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a CPU the host's attention reads the free memory inside of what is compiled, and Dynamo guards on it.

    It compiles once more when it first sees another number, in whichever step that happens to be.
    """
    memory = psutil.virtual_memory()
    monkeypatch.setattr(psutil, "virtual_memory", lambda: memory)


@pytest.fixture(scope="module")
def on(
    bench: WanBench, base: Any, prompt: Conditioning, negative: Conditioning, identity: dict[str, Any]
) -> Applied:
    return bench.apply(base, prompt, negative, **identity)


def compile_model(model: Any, keys: list[str], backend: Any) -> Any:
    """What the core's TorchCompileModel does, with a backend that needs no C++ compiler."""
    from comfy_api.torch_helpers import set_torch_compile_wrapper

    model = model.clone()
    set_torch_compile_wrapper(
        model=model,
        backend=backend,
        options={"guard_filter_fn": lambda entries: ["transformer_options" not in e.name for e in entries]},
        keys=keys,
    )
    return model


@pytest.mark.parametrize("keys", KEYS)
def test_same_numbers_and_no_recompilation(
    bench: WanBench, base: Any, on: Applied, negative: Conditioning, keys: str
) -> None:
    backend = CountingBackend()
    compiled = compile_model(on.model, KEYS[keys], backend)
    conds = [on.positive, on.negative, on.middle]
    counts = []
    for sigma in (0.95, 0.8, 0.5, 0.1):
        got, expected = (torch.cat(bench.predict(model, conds, sigma)) for model in (compiled, on.model))
        assert max_error(got, expected) < 1e-4
        counts.append(backend.compilations)
    assert counts[0] > 0
    assert counts == [counts[0]] * 4
    assert list_leftovers(base) == []


@pytest.mark.parametrize("keys", [["diffusion_model.blocks.0", "diffusion_model.blocks.2"]])
def test_a_window_that_opens_and_closes_while_sampling(
    bench: WanBench,
    base: Any,
    prompt: Conditioning,
    negative: Conditioning,
    identity: dict[str, Any],
    keys: str,
) -> None:
    """Compiled code must not remember whether an identity was there when it was captured."""
    on = bench.apply(base, prompt, negative, **identity, id_start=0.3, ref_end=0.5)
    compiled = compile_model(on.model, keys, CountingBackend())
    sampling = base.get_model_object("model_sampling")
    for percent in (0.1, 0.4, 0.9, 0.1):
        sigma = float(sampling.percent_to_sigma(percent))
        for cond in (on.positive, negative):
            (got,), (expected,) = (bench.predict(m, [cond], sigma) for m in (compiled, on.model))
            assert max_error(got, expected) < 1e-4


def test_another_identity_on_a_compiled_model(
    bench: WanBench, base: Any, full: Any, on: Applied, prompt: Conditioning, negative: Conditioning
) -> None:
    compiled = compile_model(on.model, ["diffusion_model.blocks.1"], CountingBackend())
    bench.predict(compiled, [on.positive])
    count = torch._dynamo.utils.counters["frames"]["total"]
    other = bench.apply(
        base,
        prompt,
        negative,
        adapter=full,
        id=bench.make_id(8),
        reference=bench.make_reference(base, full, seed=8),
    )
    (got,), (expected,) = (bench.predict(m, [other.positive]) for m in (compiled, other.model))
    assert max_error(got, expected) < 1e-4
    assert torch._dynamo.utils.counters["frames"]["total"] == count > 0


def test_compiled_before_apply_with_aot_autograd(
    bench: WanBench, base: Any, prompt: Conditioning, negative: Conditioning, identity: dict[str, Any]
) -> None:
    """aot_eager traces through functionalisation, as inductor does before it writes code."""
    compiled = compile_model(base, ["diffusion_model.blocks.3"], "aot_eager")
    on = bench.apply(compiled, prompt, negative, **identity)
    plain = bench.apply(base, prompt, negative, **identity)
    (got,), (expected,) = (bench.predict(x.model, [x.positive]) for x in (on, plain))
    assert max_error(got, expected) < 1e-4
