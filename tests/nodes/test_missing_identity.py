"""A person never drops out without a word: MODEL without Lynx, conditionings without a person, replaced attention."""

from __future__ import annotations

import logging
import types
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from wan_bench import OTHER_T2V, Applied, Conditioning, WanBench, list_leftovers, max_error, seeded

NO_LYNX = "MODEL of the sampler does not carry Lynx"


@pytest.fixture(scope="module")
def on(
    bench: WanBench, base: Any, prompt: Conditioning, negative: Conditioning, identity: dict[str, Any]
) -> Applied:
    return bench.apply(base, prompt, negative, **identity)


def list_warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [
        r.getMessage() for r in caplog.records if r.levelno == logging.WARNING and "Lynx:" in r.getMessage()
    ]


# --- MODEL without Lynx ---------------------------------------------------------------------------


def sample_with_guider(bench: WanBench, guider: Any) -> Tensor:
    (noise,) = bench.comfy.run("RandomNoise", noise_seed=3)
    (sampler,) = bench.comfy.run("KSamplerSelect", sampler_name="euler")
    return bench.comfy.run(
        "SamplerCustomAdvanced", noise=noise, guider=guider, sampler=sampler, sigmas=torch.tensor([1.0, 0.5, 0.0]),
        latent_image=bench.make_latent(),
    )[0]["samples"]  # fmt: skip


def make_guider(bench: WanBench, name: str, model: Any, on: Applied) -> Any:
    run = bench.comfy.run
    if name == "CFGGuider":
        return run("CFGGuider", model=model, positive=on.positive, negative=on.negative, cfg=3.0)[0]
    if name == "BasicGuider":
        return run("BasicGuider", model=model, conditioning=on.positive)[0]
    if name == "DualCFGGuider":
        return run(
            "DualCFGGuider", model=model, cond1=on.positive, cond2=on.middle, negative=on.negative, cfg_conds=3.0,
            cfg_cond2_negative=2.0, style="regular",
        )[0]  # fmt: skip
    guider = bench.comfy.pack_module("nodes.host.triple_guidance").TripleGuider(model)
    guider.set_conds(on.positive, on.negative, on.middle)
    guider.set_cfg(5.0, 2.0)
    return guider


@pytest.mark.parametrize("name", ["CFGGuider", "BasicGuider", "DualCFGGuider", "triple guidance"])
def test_guiders_stop_at_the_first_step(
    bench: WanBench, base: Any, on: Applied, prompt: Conditioning, negative: Conditioning, name: str
) -> None:
    with pytest.raises(ValueError, match=NO_LYNX):
        sample_with_guider(bench, make_guider(bench, name, base, on))
    with_person = sample_with_guider(bench, make_guider(bench, name, on.model, on))
    nobody = sample_with_guider(
        bench, make_guider(bench, name, base, Applied(base, prompt, negative, negative))
    )
    assert max_error(with_person, nobody) > 1e-3


def plain(bench: WanBench, base: Any, on: Applied) -> Any:
    return base


def add_context_windows(bench: WanBench, base: Any, on: Applied) -> Any:
    inputs = {"context_length": 5, "context_overlap": 0, "context_schedule": "standard_static"}
    return bench.comfy.run(
        "WanContextWindowsManual", model=base, **inputs, fuse_method="flat", freenoise=False
    )[0]


def merge_into_plain(bench: WanBench, base: Any, on: Applied) -> Any:
    return bench.comfy.run("ModelMergeSimple", model1=base, model2=on.model, ratio=1.0)[0]


def load_lora(bench: WanBench, base: Any, on: Applied) -> Any:
    return bench.load_lora(base)


@pytest.mark.parametrize("make_model", [plain, add_context_windows, merge_into_plain, load_lora])
@pytest.mark.parametrize("cfg", [1.0, 3.0])
def test_ksampler_stops_at_the_first_step(
    bench: WanBench, base: Any, on: Applied, cfg: float, make_model: Callable[..., Any]
) -> None:
    model = make_model(bench, base, on)
    leftovers = list_leftovers(base)
    with pytest.raises(ValueError, match=NO_LYNX):
        bench.sample(model, on.positive, on.negative, cfg=cfg, latent_image=bench.make_latent(frames=4))
    assert list_leftovers(base) == leftovers


@pytest.mark.parametrize("which", ["positive", "negative"])
def test_one_conditioning_with_an_identity_is_enough_to_stop(
    bench: WanBench, base: Any, on: Applied, prompt: Conditioning, negative: Conditioning, which: str
) -> None:
    conds = {"positive": prompt, "negative": negative, which: getattr(on, which)}
    with pytest.raises(ValueError, match=NO_LYNX):
        bench.sample(base, **conds)


def test_one_forgotten_expert_of_two(
    bench: WanBench, base: Any, on: Applied, full: Any, prompt: Conditioning, negative: Conditioning
) -> None:
    """Wan 2.2: the second KSamplerAdvanced gets the low-noise expert as it was loaded."""
    stage = {"noise_seed": 5, "steps": 2, "cfg": 3.0, "sampler_name": "euler", "scheduler": "simple"}
    conds = {"positive": on.positive, "negative": on.negative}
    (latent,) = bench.comfy.run(
        "KSamplerAdvanced", model=on.model, **conds, **stage, latent_image=bench.make_latent(), add_noise="enable",
        start_at_step=0, end_at_step=1, return_with_leftover_noise="enable",
    )  # fmt: skip
    low_noise = bench.load_base(OTHER_T2V)
    with pytest.raises(ValueError, match="Lynx Apply for each expert"):
        bench.comfy.run(
            "KSamplerAdvanced", model=low_noise, **conds, **stage, latent_image=latent, add_noise="disable",
            start_at_step=1, end_at_step=2, return_with_leftover_noise="disable",
        )  # fmt: skip


def test_lynx_on_the_first_model_of_a_merge_stays(bench: WanBench, base: Any, on: Applied) -> None:
    (merged,) = bench.comfy.run("ModelMergeSimple", model1=on.model, model2=base, ratio=1.0)
    assert torch.equal(
        bench.sample(merged, on.positive, on.negative), bench.sample(on.model, on.positive, on.negative)
    )


# --- conditionings without an identity --------------------------------------------------------------


def test_model_with_lynx_and_plain_conditionings(
    bench: WanBench,
    on: Applied,
    prompt: Conditioning,
    negative: Conditioning,
    caplog: pytest.LogCaptureFixture,
) -> None:
    for _ in range(2):
        caplog.clear()
        bench.sample(on.model, prompt, negative)
        (warning,) = list_warnings(caplog)
        assert "no conditioning that is sampled carries an identity" in warning


def test_well_wired_graphs_say_nothing(
    bench: WanBench, on: Applied, negative: Conditioning, caplog: pytest.LogCaptureFixture
) -> None:
    """At cfg 1 the negative conditioning is not computed."""
    (combined,) = bench.comfy.run("ConditioningCombine", conditioning_1=on.positive, conditioning_2=on.middle)
    (late,) = bench.comfy.run("ConditioningSetTimestepRange", conditioning=on.positive, start=0.0, end=0.9)
    for positive in (on.positive, combined, late):
        bench.sample(on.model, positive, on.negative)
    bench.sample(on.model, on.positive, negative, cfg=1.0)
    assert list_warnings(caplog) == []


def test_a_window_that_no_step_falls_into_is_said(
    bench: WanBench,
    base: Any,
    prompt: Conditioning,
    negative: Conditioning,
    identity: dict[str, Any],
    caplog: pytest.LogCaptureFixture,
) -> None:
    window = {"id_start": 0.97, "id_end": 0.98, "ref_start": 0.97, "ref_end": 0.98}
    late = bench.apply(base, prompt, negative, **identity | window)
    bench.sample(late.model, late.positive, late.negative)
    of_id, of_reference = sorted(list_warnings(caplog))
    assert "ID: no step of this sampling falls into its window" in of_id
    assert "reference: no step of this sampling falls into its window" in of_reference


def test_one_conditioning_without(
    bench: WanBench,
    on: Applied,
    prompt: Conditioning,
    negative: Conditioning,
    caplog: pytest.LogCaptureFixture,
) -> None:
    bench.sample(on.model, on.positive, negative)
    bench.sample(on.model, prompt, on.negative)
    first, second = list_warnings(caplog)
    assert "negative carries no identity" in first
    assert "positive carries no identity" in second


@pytest.mark.parametrize("node", ["ConditioningConcat", "ConditioningAverage"])
def test_conditionings_that_keep_the_first_person_only(
    bench: WanBench, on: Applied, prompt: Conditioning, caplog: pytest.LogCaptureFixture, node: str
) -> None:
    inputs = {"conditioning_to_strength": 0.5} if node == "ConditioningAverage" else {}

    def join(to: Conditioning, add: Conditioning) -> Conditioning:
        return bench.comfy.run(node, conditioning_to=to, conditioning_from=add, **inputs)[0]

    other = bench.make_text(9)
    bench.sample(on.model, join(on.positive, other), on.negative)
    (warning,) = list_warnings(caplog)
    assert "text of positive was changed after Lynx Apply" in warning
    assert "identity of their first input alone" in warning
    caplog.clear()
    bench.sample(on.model, join(other, on.positive), on.negative)
    (warning,) = list_warnings(caplog)
    assert "positive carries no identity" in warning


# --- conditionings with the wrong identity ------------------------------------------------------------

MISSING = "positive carries the null identity alone: the person is missing"
SUBTRACTED = "negative carries the person, and guidance subtracts"


@pytest.mark.parametrize(
    ("as_positive", "as_negative", "said"),
    [
        ("negative", "positive", [MISSING, SUBTRACTED]),
        ("positive", "positive", [SUBTRACTED]),
        ("positive", "middle", [SUBTRACTED]),
        ("negative", "negative", [MISSING]),
    ],
)
def test_crossed_outputs_of_lynx_apply(
    bench: WanBench,
    on: Applied,
    caplog: pytest.LogCaptureFixture,
    as_positive: str,
    as_negative: str,
    said: list[str],
) -> None:
    bench.sample(on.model, getattr(on, as_positive), getattr(on, as_negative))
    (warning,) = list_warnings(caplog)
    for sentence in (MISSING, SUBTRACTED):
        assert (sentence in warning) == (sentence in said)
    assert "outputs of one Lynx Apply to the inputs of the same names" in warning


def test_a_second_lynx_apply_keeps_what_the_first_has_crossed(
    bench: WanBench, on: Applied, full: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """A person on positive and negative alike, of which the first Lynx Apply has put one on the negative."""
    crossed = bench.apply(on.model, on.negative, on.positive, adapter=full, id=bench.make_id(7))
    bench.sample(crossed.model, crossed.positive, crossed.negative)
    (warning,) = list_warnings(caplog)
    assert SUBTRACTED in warning


def test_zeroed_text_is_no_lost_person(
    bench: WanBench, on: Applied, caplog: pytest.LogCaptureFixture
) -> None:
    def zero_out(conditioning: Conditioning) -> Conditioning:
        return bench.comfy.run("ConditioningZeroOut", conditioning=conditioning)[0]

    bench.sample(on.model, on.positive, zero_out(on.negative))
    assert list_warnings(caplog) == []
    bench.sample(on.model, on.positive, zero_out(on.positive))
    (warning,) = list_warnings(caplog)
    assert SUBTRACTED in warning and "ConditioningZeroOut keeps the identity of its input" in warning


# --- attention that another node replaces -----------------------------------------------------------


def patch_attention(model: Any, name: str, forward: Callable[..., Tensor], *blocks: int) -> Any:
    model = model.clone()
    for block in blocks:
        path = f"diffusion_model.blocks.{block}.{name}"
        model.add_object_patch(f"{path}.forward", types.MethodType(forward, model.get_model_object(path)))
    return model


def without_query(self: Any, x: Tensor, context: Tensor, **_: Any) -> Tensor:
    return self.o(self.v(context).mean(1, True).expand_as(x))


def without_output_projection(self: Any, x: Tensor, context: Tensor, **_: Any) -> Tensor:
    query = self.norm_q(self.q(x))
    return torch.nn.functional.linear(query, self.o.weight)


def without_both(self: Any, x: Tensor, context: Tensor, **_: Any) -> Tensor:
    return torch.nn.functional.linear(x, self.o.weight)


def with_tokens_of_its_own(self: Any, x: Tensor, context: Tensor, **_: Any) -> Tensor:
    query = self.norm_q(self.q(x[:, ::2]))
    return self.o(query.repeat_interleave(2, 1))


def with_heads_apart(self: Any, x: Tensor, context: Tensor, **_: Any) -> Tensor:
    query = self.norm_q(self.q(x).unsqueeze(2))
    return self.o(query.flatten(2))


@pytest.mark.parametrize(
    "forward",
    [without_query, without_output_projection, without_both, with_tokens_of_its_own, with_heads_apart],
)
def test_attention_of_another_kind_is_left_alone_and_named(
    bench: WanBench,
    base: Any,
    on: Applied,
    prompt: Conditioning,
    negative: Conditioning,
    identity: dict[str, Any],
    caplog: pytest.LogCaptureFixture,
    forward: Callable[..., Tensor],
) -> None:
    """The identity acts in the other blocks, and the log says once a sampling where it does not."""
    model = patch_attention(on.model, "cross_attn", forward, 1, 2)
    others = bench.apply(base, prompt, negative, **identity, id_blocks="0, 3")
    expected = bench.sample(
        patch_attention(others.model, "cross_attn", forward, 1, 2), others.positive, others.negative
    )
    caplog.clear()
    for _ in range(2):
        assert torch.equal(bench.sample(model, on.positive, on.negative), expected)
        (warning,) = list_warnings(caplog)
        assert "ID in blocks 1-2: another node" in warning
        caplog.clear()


def test_blocks_that_another_node_skips_are_named(
    bench: WanBench, on: Applied, caplog: pytest.LogCaptureFixture
) -> None:
    model = on.model.clone()
    model.set_model_patch_replace(lambda args, extra: args, "dit", "double_block", 2)
    bench.sample(model, on.positive, on.negative)
    (warning,) = list_warnings(caplog)
    assert "ID in blocks 2; reference in blocks 2" in warning
    assert "never acted" in warning


def test_blocks_skipped_in_some_steps_are_nothing_to_say(
    bench: WanBench, on: Applied, caplog: pytest.LogCaptureFixture
) -> None:
    """As caches and skip-layer guidance do."""
    steps: list[int] = []

    def skip_at_first(args: Any, extra: Any) -> Any:
        steps.append(1)
        return args if len(steps) == 1 else extra["original_block"](args)

    model = on.model.clone()
    model.set_model_patch_replace(skip_at_first, "dit", "double_block", 2)
    bench.sample(model, on.positive, on.negative)
    assert len(steps) == 2
    assert list_warnings(caplog) == []


def test_a_window_that_never_opens_is_no_skipped_attention(
    bench: WanBench,
    base: Any,
    prompt: Conditioning,
    negative: Conditioning,
    identity: dict[str, Any],
    caplog: pytest.LogCaptureFixture,
) -> None:
    x = seeded(1, 16, 2, 8, 8, seed=4)
    late = bench.apply(base, prompt, negative, **identity, id_start=0.9, ref_start=0.9)
    (got,) = bench.predict(late.model, [late.positive], 0.99, x)
    assert max_error(got, bench.predict(base, [prompt], 0.99, x)[0]) < 1e-6
    assert list_warnings(caplog)
    assert not [text for text in list_warnings(caplog) if "another node" in text]
