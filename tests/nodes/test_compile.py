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
        self.of_hooks: list[str] = []
        """What was captured of the pack's hooks, which the compiler must not see."""

    def __call__(self, graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Callable[..., Any]:
        self.compilations += 1
        traces = [str(node.stack_trace) for node in graph.graph.nodes]
        self.of_hooks += [trace for trace in traces if "attention_hooks.py" in trace]
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
    assert backend.of_hooks == []
    assert list_leftovers(base) == []


def test_a_window_that_opens_and_closes_while_sampling(
    bench: WanBench, base: Any, prompt: Conditioning, negative: Conditioning, identity: dict[str, Any]
) -> None:
    """Compiled code must not remember whether an identity was there when it was captured, nor how strong it was."""
    backend = CountingBackend()
    windows = {"id_start": 0.3, "ref_end": 0.5}
    on = bench.apply(base, prompt, negative, **identity, **windows)
    weak = bench.apply(base, prompt, negative, **identity, **windows, id_strength=0.4, ref_strength=0.7)
    compiled = compile_model(on.model, ["diffusion_model.blocks.0", "diffusion_model.blocks.2"], backend)
    sampling = base.get_model_object("model_sampling")
    counts = []
    for applied in (on, weak):
        for percent in (0.1, 0.4, 0.9, 0.1):
            sigma = float(sampling.percent_to_sigma(percent))
            for cond in (applied.positive, negative):
                (got,), (expected,) = (bench.predict(m, [cond], sigma) for m in (compiled, on.model))
                assert max_error(got, expected) < 1e-4
        counts.append(backend.compilations)
    assert counts[0] > 0
    assert counts[1] == counts[0], "the strength is compiled in"
    assert backend.of_hooks == []


def test_other_identities_compile_nothing(
    bench: WanBench,
    base: Any,
    full: Any,
    on: Applied,
    prompt: Conditioning,
    negative: Conditioning,
    identity: dict[str, Any],
) -> None:
    """Another person, another strength, reference frames of VACE, two people: to the compiler all the same."""
    backend = CountingBackend()
    compiled = compile_model(on.model, ["diffusion_model.blocks.1"], backend)
    bench.predict(compiled, [on.positive, on.negative])
    count = backend.compilations
    other = {"adapter": full, "id": bench.make_id(8), "reference": bench.make_reference(base, full, seed=8)}
    applied = {
        "person": bench.apply(base, prompt, negative, **other),
        "strength": bench.apply(base, prompt, negative, **identity, id_strength=0.3, ref_strength=-2.0),
        "frames": bench.apply(base, prompt, negative, **identity, vace_reference_frames=1),
        "two people": bench.apply(on.model, on.positive, on.negative, **other),
    }
    for name, it in applied.items():
        conds = [it.positive, it.negative]
        got, expected = (torch.cat(bench.predict(m, conds)) for m in (compiled, it.model))
        assert max_error(got, expected) < 1e-4, name
        assert backend.compilations == count > 0, name


def test_compiled_before_apply_with_aot_autograd(
    bench: WanBench, base: Any, prompt: Conditioning, negative: Conditioning, identity: dict[str, Any]
) -> None:
    """aot_eager traces through functionalisation, as inductor does before it writes code."""
    compiled = compile_model(base, ["diffusion_model.blocks.3"], "aot_eager")
    on = bench.apply(compiled, prompt, negative, **identity)
    plain = bench.apply(base, prompt, negative, **identity)
    (got,), (expected,) = (bench.predict(x.model, [x.positive]) for x in (on, plain))
    assert max_error(got, expected) < 1e-4
