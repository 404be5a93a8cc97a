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


def guide(attention: Any, query: Tensor, text: Tensor, nag_text: Tensor) -> Tensor:
    """Normalized attention guidance (arXiv 2505.21179, equations 6 to 8): scale 11, tau 2.5, alpha 0.25."""
    positive, away = (
        attend(query, attention.norm_k(attention.k(t)), attention.v(t), attention.num_heads)
        for t in (text, nag_text.expand(len(query), -1, -1))
    )
    guided = 11.0 * positive - 10.0 * away
    sizes = [t.abs().sum(-1, keepdim=True) for t in (positive, guided)]
    guided = torch.where(sizes[1] > 2.5 * sizes[0], guided * 2.5 * sizes[0] / sizes[1], guided)
    return 0.25 * guided + 0.75 * positive


def add_nag(
    nag_text: Tensor, residual: Callable[[int, Tensor, int], Tensor] | None = None
) -> Callable[[Any], Any]:
    """NAG as KJNodes' WanVideoNAG does it: an own `cross_attn.forward` by object patch.

    At cfg above 1 it takes the batch in two halves, asks for the query of each and guides the first
    half alone. `residual(block, query, first_row)` is what an identity adds, to write the result by hand.
    """

    def make_forward(block: int) -> Callable[..., Tensor]:
        def forward(self: Any, x: Tensor, context: Tensor, **_: Any) -> Tensor:
            outputs: list[Tensor] = []
            first_row = 0
            halves = [(x, context)] if len(context) == 1 else zip(x.chunk(2), context.chunk(2), strict=True)
            for half, text in halves:
                query = self.norm_q(self.q(half))
                if outputs:
                    out = attend(query, self.norm_k(self.k(text)), self.v(text), self.num_heads)
                else:
                    out = guide(self, query, text, nag_text)
                outputs.append(out + residual(block, query, first_row) if residual else out)
                first_row += len(half)
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


def embed_nag_text(bench: WanBench, base: Any) -> Tensor:
    with torch.inference_mode():
        return base.get_model_object("diffusion_model").text_embedding(bench.make_text(77)[0][0])


PATCHES = {
    "attn1 patch": lambda *_: patch_attn1,
    "attn2 patch": lambda *_: patch_attn2,
    "attention override": lambda *_: override_attention,
    "NAG": lambda bench, base: add_nag(embed_nag_text(bench, base)),
    "shift": lambda bench, _: lambda model: bench.comfy.run("ModelSamplingSD3", model=model, shift=3.0)[0],
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
    patch = PATCHES[name](bench, base)
    first = bench.apply(patch(base), prompt, negative, **identity)
    last = bench.apply(base, prompt, negative, **identity)
    conds = [last.positive, last.negative]
    a, b = (torch.cat(bench.predict(model, conds)) for model in (first.model, patch(last.model)))
    assert torch.equal(a, b)
    alone = torch.cat(bench.predict(patch(base), [prompt, negative]))
    assert max_error(a, alone) > 1e-3, "the identity acts"
    if name != "shift":  # changes the schedule, not the predictions
        assert max_error(a, torch.cat(bench.predict(last.model, conds))) > 1e-3, "the patch acts"
    sampled = [bench.sample(model, *conds, steps=1) for model in (first.model, patch(last.model))]
    assert torch.equal(*sampled)


@pytest.mark.parametrize("num_conds", [1, 2, 3])
def test_attention_in_halves_gets_each_rows_identity(
    bench: WanBench,
    base: Any,
    prompt: Conditioning,
    negative: Conditioning,
    identity: dict[str, Any],
    num_conds: int,
) -> None:
    """With NAG, at cfg 1, at cfg above 1 and with three predictions, whose halves are two rows and one."""
    on = bench.apply(base, prompt, negative, **identity, ref_strength=0.0, id_strength=0.8)
    conds = [on.positive, on.negative, on.middle][:num_conds]
    attentions = [block.cross_attn for block in base.model.diffusion_model.blocks]
    # The host runs a batch back to front.
    kv_cache = [cond[0][1]["additional_models"][0].model for cond in reversed(conds)]

    def residual(block: int, query: Tensor, first_row: int) -> Tensor:
        rows = []
        for row, one in enumerate(query.split(1), start=first_row):
            block_kv = kv_cache[row].get_block(block)
            key = attentions[block].norm_k(block_kv.key)
            rows.append(0.8 * attend(one, key, block_kv.value, attentions[block].num_heads))
        return torch.cat(rows)

    nag_text = embed_nag_text(bench, base)
    plain = [prompt, negative, negative][:num_conds]
    expected = bench.predict(add_nag(nag_text, residual)(base), plain)
    got = bench.predict(add_nag(nag_text)(on.model), conds)
    for a, b in zip(got, expected, strict=True):
        assert max_error(a, b) < 1e-5


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
