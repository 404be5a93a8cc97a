"""Other nodes that patch the same model: attention patches and overrides, NAG, in any order."""

from __future__ import annotations

import types
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from wan_bench import Conditioning, WanBench, max_error

NUM_BLOCKS = 4


def attend(query: Tensor, key: Tensor, value: Tensor, num_heads: int) -> Tensor:
    query, key, value = (t.unflatten(-1, (num_heads, -1)).transpose(1, 2) for t in (query, key, value))
    return F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)


def patch_attn1(model: Any) -> Any:
    model = model.clone()
    model.set_model_attn1_patch(lambda args: args["x"] * 0.5)
    return model


def patch_attn2(model: Any) -> Any:
    model = model.clone()
    model.set_model_attn2_patch(lambda args: args["x"] * 0.9)
    return model


def override_attention(model: Any) -> Any:
    model = model.clone()

    def override(func: Callable[..., Tensor], *args: Any, **kwargs: Any) -> Tensor:
        return func(*args, **kwargs) * 0.7

    model.model_options["transformer_options"]["optimized_attention_override"] = override
    return model


def add_core_nag(bench: WanBench) -> Callable[[Any], Any]:
    return lambda model: bench.comfy.run("NAGuidance", model=model, nag_scale=5.0)[0]


def patch_cross_attention(residual: Callable[[int, Tensor], Tensor] | None = None) -> Callable[[Any], Any]:
    """NAG as a third-party node does it: an own forward that takes the rows of the batch in two halves.

    `residual(block, query)` is what an identity adds, to write the expected result by hand.
    """

    def make_forward(block: int) -> Callable[..., Tensor]:
        def forward(self: Any, x: Tensor, context: Tensor, **_: Any) -> Tensor:
            outputs = []
            for half, text in zip(x.chunk(2), context.chunk(2), strict=True):
                query = self.norm_q(self.q(half))
                key, value = self.norm_k(self.k(text)), self.v(text)
                guided = 1.5 * attend(query, key, value, self.num_heads)
                guided -= 0.5 * attend(
                    query, key.flip(0), value.mean(1, True).expand_as(value), self.num_heads
                )
                outputs.append(guided + residual(block, query) if residual else guided)
            return self.o(torch.cat(outputs))

        return forward

    def patch(model: Any) -> Any:
        model = model.clone()
        for block in range(NUM_BLOCKS):
            name = f"diffusion_model.blocks.{block}.cross_attn"
            bound = types.MethodType(make_forward(block), model.get_model_object(name))
            model.add_object_patch(f"{name}.forward", bound)
        return model

    return patch


PATCHES = {
    "attn1 patch": lambda bench: patch_attn1,
    "attn2 patch": lambda bench: patch_attn2,
    "attention override": lambda bench: override_attention,
    "own cross-attention": lambda bench: patch_cross_attention(),
    "core NAG": add_core_nag,
    "shift": lambda bench: lambda model: bench.comfy.run("ModelSamplingSD3", model=model, shift=3.0)[0],
}


@pytest.mark.parametrize("name", PATCHES)
def test_order_of_the_nodes_does_not_matter(
    bench: WanBench,
    base: Any,
    prompt: Conditioning,
    negative: Conditioning,
    identity: dict[str, Any],
    name: str,
) -> None:
    patch = PATCHES[name](bench)
    first = bench.apply(patch(base), prompt, negative, **identity)
    last = bench.apply(base, prompt, negative, **identity)
    conds = [last.positive, last.negative]
    a, b = (torch.cat(bench.predict(model, conds)) for model in (first.model, patch(last.model)))
    assert torch.equal(a, b)
    alone = torch.cat(bench.predict(patch(base), [prompt, negative]))
    assert max_error(a, alone) > 1e-3, "the identity acts"
    if name not in ("core NAG", "shift"):  # these change how predictions are combined, not the predictions
        assert max_error(a, torch.cat(bench.predict(last.model, conds))) > 1e-3, "the patch acts"
    sampled = [bench.sample(model, *conds, steps=1) for model in (first.model, patch(last.model))]
    assert torch.equal(*sampled)


def test_attention_in_halves_gets_each_rows_identity(
    bench: WanBench, base: Any, prompt: Conditioning, negative: Conditioning, identity: dict[str, Any]
) -> None:
    on = bench.apply(base, prompt, negative, **identity, ref_strength=0.0, id_strength=0.8)
    attentions = [block.cross_attn for block in base.model.diffusion_model.blocks]
    # The host runs a batch back to front: the first half of the rows is the last conditioning.
    key_values = [cond[0][1]["additional_models"][0].model for cond in (on.negative, on.positive)]
    halves: dict[int, int] = {}

    def residual(block: int, query: Tensor) -> Tensor:
        half = halves[block] = (halves.get(block, -1) + 1) % 2
        baked = key_values[half].get_block(block)
        key = attentions[block].norm_k(baked.key)
        return 0.8 * attend(query, key, baked.value, attentions[block].num_heads)

    expected = bench.predict(patch_cross_attention(residual)(base), [prompt, negative])
    got = bench.predict(patch_cross_attention()(on.model), [on.positive, on.negative])
    for a, b in zip(got, expected, strict=True):
        assert max_error(a, b) < 1e-5


def test_an_attention_of_quite_another_kind_is_left_alone(
    bench: WanBench, base: Any, prompt: Conditioning, negative: Conditioning, identity: dict[str, Any]
) -> None:
    """Without a query that fits, the identity is left out there, and sampling goes on."""

    def forward(self: Any, x: Tensor, context: Tensor, **_: Any) -> Tensor:
        return self.o(self.v(context).mean(1, True).expand_as(x))

    def patch(model: Any) -> Any:
        model = model.clone()
        name = "diffusion_model.blocks.1.cross_attn"
        model.add_object_patch(f"{name}.forward", types.MethodType(forward, model.get_model_object(name)))
        return model

    on = bench.apply(base, prompt, negative, **identity, ref_strength=0.0)
    others = bench.apply(base, prompt, negative, **identity, ref_strength=0.0, id_blocks="0, 2, 3")
    a, b = (bench.predict(patch(x.model), [x.positive])[0] for x in (on, others))
    assert torch.equal(a, b)


def test_override_of_the_attention_does_not_see_the_extra_attention(
    bench: WanBench, base: Any, prompt: Conditioning, negative: Conditioning, identity: dict[str, Any]
) -> None:
    on = bench.apply(base, prompt, negative, **identity)
    key_lengths: list[int] = []

    def override(
        func: Callable[..., Tensor], query: Tensor, key: Tensor, *args: Any, **kwargs: Any
    ) -> Tensor:
        key_lengths.append(key.shape[1])
        return func(query, key, *args, **kwargs)

    model = on.model.clone()
    model.model_options["transformer_options"]["optimized_attention_override"] = override
    (got,) = bench.predict(model, [on.positive])
    assert key_lengths == [32, 16] * NUM_BLOCKS
    assert torch.equal(got, bench.predict(on.model, [on.positive])[0])
