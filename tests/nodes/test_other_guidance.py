"""What other nodes hang on cfg acts with Lynx Guider as it does with the core's sampler."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from test_guidance import make_guider, run_guider, without_shortcuts
from torch import Tensor
from wan_bench import Applied, Conditioning, WanBench, count_batches, max_error

NODES: dict[str, dict[str, Any]] = {
    "RescaleCFG": {"multiplier": 0.7},
    "VideoLinearCFGGuidance": {"min_cfg": 1.0},
    "VideoTriangleCFGGuidance": {"min_cfg": 2.0},
    "CFGNorm": {"strength": 0.7, "pre_cfg": True},
    "CFGZeroStar": {},
    "APG": {"eta": 1.0, "norm_threshold": 5.0, "momentum": 0.5},
    "TCFG": {},
    "Mahiro": {},
    "FreSca": {"scale_low": 1.0, "scale_high": 2.0, "freq_cutoff": 1},
    "SkipLayerGuidanceDiT": {"double_layers": "1, 2", "single_layers": "", "scale": 3.0,
                             "start_percent": 0.0, "end_percent": 1.0, "rescaling_scale": 0.0},
    "SkipLayerGuidanceDiTSimple": {"double_layers": "1, 2", "single_layers": "", "start_percent": 0.0, "end_percent": 1.0},
    "PerpNeg": {"neg_scale": 1.0},
}  # fmt: skip


@pytest.fixture(scope="module")
def on(
    bench: WanBench, base: Any, prompt: Conditioning, negative: Conditioning, identity: dict[str, Any]
) -> Applied:
    return bench.apply(base, prompt, negative, **identity)


def patch(bench: WanBench, name: str, applied: Applied) -> Any:
    inputs = dict(NODES[name])
    if name == "CFGNorm" and "pre_cfg" not in str(bench.comfy.node_classes[name].INPUT_TYPES()):
        inputs.pop("pre_cfg")  # an older host has the other way alone
    if name == "PerpNeg":
        inputs["empty_conditioning"] = bench.make_text(9)
    return bench.comfy.run(name, model=applied.model, **inputs)[0]


def run_core(
    bench: WanBench, model: Any, positive: Conditioning, negative: Conditioning, cfg: float
) -> Tensor:
    (guider,) = bench.comfy.run("CFGGuider", model=model, positive=positive, negative=negative, cfg=cfg)
    return run_guider(bench, guider)


@pytest.mark.parametrize("name", NODES)
def test_a_node_that_changes_cfg_acts_as_with_the_core(bench: WanBench, on: Applied, name: str) -> None:
    patched = on._replace(model=patch(bench, name, on))
    for identity_cfg, other in ((1.0, on.middle), (4.0, on.negative)):
        ours = run_guider(bench, make_guider(bench, patched, 4.0, identity_cfg))
        assert torch.equal(ours, run_core(bench, patched.model, on.positive, other, 4.0))
    ours = run_guider(bench, make_guider(bench, patched, 4.0, 2.0))
    assert max_error(ours, run_guider(bench, make_guider(bench, on, 4.0, 2.0))) > 1e-3, "the node acts"


def test_a_cfg_function_gets_one_mean_of_the_two_negatives(bench: WanBench, on: Applied) -> None:
    """With cfg 5 and identity_cfg 2: three quarters of the person, one quarter of nobody."""
    seen: list[dict[str, Any]] = []

    def keep(args: dict[str, Any]) -> Tensor:
        seen.append({k: v.clone() if isinstance(v, Tensor) else v for k, v in args.items()})
        return args["uncond"] + (args["cond"] - args["uncond"]) * args["cond_scale"]

    model = on.model.clone()
    model.set_model_sampler_cfg_function(keep)
    ours = run_guider(bench, make_guider(bench, on._replace(model=model), 5.0, 2.0), steps=1)
    (args,) = seen
    c, u, i = bench.predict(
        on.model, [on.positive, on.negative, on.middle], float(args["sigma"][0]), args["input"]
    )
    assert args["cond_scale"] == 5.0
    assert max_error(args["cond_denoised"], c) < 1e-5
    assert max_error(args["uncond_denoised"], 0.75 * i + 0.25 * u) < 1e-5
    assert max_error(ours, run_guider(bench, make_guider(bench, on, 5.0, 2.0), steps=1)) < 1e-5


@pytest.mark.parametrize(
    ("cfg", "identity_cfg"), [(1.0, 2.0), (1.1, 2.0), (0.0, 2.0), (3.0, 5.0), (4.0, 0.5), (1.0, 0.0)]
)
def test_any_two_scales_give_the_published_formula(
    bench: WanBench, on: Applied, cfg: float, identity_cfg: float
) -> None:
    seen: list[dict[str, Any]] = []
    model = on.model.clone()
    model.set_model_sampler_post_cfg_function(lambda args: seen.append(args) or args["denoised"])
    run_guider(bench, make_guider(bench, on._replace(model=model), cfg, identity_cfg), steps=1)
    args = seen[0]
    c, u, i = bench.predict(
        on.model, [on.positive, on.negative, on.middle], float(args["sigma"][0]), args["input"]
    )
    assert max_error(args["denoised"], u + identity_cfg * (i - u) + cfg * (c - i)) < 2e-5


def test_a_cfg_pp_sampler_sees_every_prediction(bench: WanBench, on: Applied) -> None:
    """It asks for all of them, and steps along the negative one."""
    ours = run_guider(bench, make_guider(bench, on, 4.0, 4.0), sampler="euler_cfg_pp")
    (core,) = bench.comfy.run(
        "CFGGuider", model=on.model, positive=on.positive, negative=on.negative, cfg=4.0
    )
    assert max_error(ours, run_guider(bench, core, sampler="euler_cfg_pp")) < 1e-4


def test_a_cache_for_two_predictions_is_named_with_the_way_out(bench: WanBench, on: Applied) -> None:
    """TeaCache and MagCache keep their state by the index of the prediction, 0 and 1."""
    model, rows = count_batches(on.model)
    count = model.model_options["model_function_wrapper"]

    def cache(apply_model: Callable[..., Tensor], args: dict[str, Any]) -> Tensor:
        state = {0: "positive", 1: "negative"}
        assert [state[index] for index in args["c"]["transformer_options"]["cond_or_uncond"]]
        return count(apply_model, args)

    model.set_model_unet_function_wrapper(cache)
    cached = on._replace(model=model)
    with pytest.raises(ValueError, match="TeaCache") as refusal:
        run_guider(bench, make_guider(bench, cached, 5.0, 2.0))
    for part in ("EasyCache", "identity_cfg to 1", "cfg"):
        assert part in str(refusal.value)
    for cfg, identity_cfg in ((5.0, 1.0), (3.0, 3.0), (1.0, 1.0)):
        run_guider(bench, make_guider(bench, cached, cfg, identity_cfg), steps=1)
    assert rows == [2, 2, 1]


def test_a_key_error_of_another_kind_stays_as_it_is(bench: WanBench, on: Applied) -> None:
    def fail(apply_model: Callable[..., Tensor], args: dict[str, Any]) -> Tensor:
        raise KeyError("sigmas")

    model = on.model.clone()
    model.set_model_unet_function_wrapper(fail)
    with pytest.raises(KeyError, match="sigmas"):
        run_guider(bench, make_guider(bench, on._replace(model=model), 5.0, 2.0))


@pytest.mark.parametrize("name", ["EasyCache", "LazyCache"])
def test_the_cores_caches_work_with_three_predictions(bench: WanBench, on: Applied, name: str) -> None:
    def cached(threshold: float) -> Tensor:
        (model,) = bench.comfy.run(
            name, model=on.model, reuse_threshold=threshold, start_percent=0.0, end_percent=1.0
        )
        return run_guider(bench, make_guider(bench, on._replace(model=model), 5.0, 2.0), steps=6)

    plain = run_guider(bench, make_guider(bench, on, 5.0, 2.0), steps=6)
    assert torch.equal(cached(0.0), plain)
    assert 1e-4 < max_error(cached(3.0), plain) < 1.0, "steps are skipped"


def test_all_predictions_are_made_when_a_node_asks_for_them(bench: WanBench, on: Applied) -> None:
    full = without_shortcuts(on)
    model, rows = count_batches(full.model)
    run_guider(bench, make_guider(bench, full._replace(model=model), 3.0, 3.0), steps=1)
    assert rows == [3]
