"""Triple guidance: `u + g_id * (i - u) + g * (c - i)`, on any sampler, with nothing computed in vain."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from wan_bench import Applied, Conditioning, WanBench, count_batches, max_error


@pytest.fixture(scope="module")
def on(
    bench: WanBench, base: Any, prompt: Conditioning, negative: Conditioning, identity: dict[str, Any]
) -> Applied:
    return bench.apply(base, prompt, negative, **identity)


def run_guider(bench: WanBench, guider: Any, sampler: str = "euler", steps: int = 2) -> Tensor:
    """Sample with SamplerCustomAdvanced, as a graph does."""
    (noise,) = bench.comfy.run("RandomNoise", noise_seed=5)
    (chosen,) = bench.comfy.run("KSamplerSelect", sampler_name=sampler)
    (sigmas,) = bench.comfy.run(
        "BasicScheduler", model=guider.model_patcher, scheduler="simple", steps=steps, denoise=1.0
    )
    return bench.comfy.run(
        "SamplerCustomAdvanced",
        noise=noise,
        guider=guider,
        sampler=chosen,
        sigmas=sigmas,
        latent_image=bench.make_latent(),
    )[0]["samples"]


def make_guider(bench: WanBench, applied: Applied, cfg: float, identity_cfg: float) -> Any:
    return bench.comfy.run("LynxGuider", **applied._asdict(), cfg=cfg, identity_cfg=identity_cfg)[0]


def without_shortcuts(applied: Applied) -> Applied:
    """Let every prediction be made, as nodes such as NAG ask for."""
    model = applied.model.clone()
    model.disable_model_cfg1_optimization()
    return applied._replace(model=model)


def test_is_the_published_formula_in_one_batch(bench: WanBench, on: Applied) -> None:
    import comfy.samplers

    model, rows = count_batches(on.model)
    guider = make_guider(bench, on._replace(model=model), 5.0, 2.0)
    seen: list[tuple[Tensor, Tensor]] = []

    def keep(args: dict[str, Any]) -> Tensor:
        seen.append((args["input"].clone(), args["denoised"].clone()))
        return args["denoised"]

    guider.model_options = comfy.samplers.comfy.model_patcher.set_model_options_post_cfg_function(
        guider.model_options, keep
    )
    run_guider(bench, guider, steps=1)
    x, denoised = seen[0]
    assert rows == [3]
    sigma = float(on.model.get_model_object("model_sampling").sigmas[-1])
    c, u, i = bench.predict(on.model, [on.positive, on.negative, on.middle], sigma, x)
    assert max_error(denoised, u + 2 * (i - u) + 5 * (c - i)) < 1e-5


def test_equals_the_cores_dual_cfg_guider(bench: WanBench, on: Applied) -> None:
    (dual,) = bench.comfy.run(
        "DualCFGGuider",
        model=on.model,
        cond1=on.positive,
        cond2=on.middle,
        negative=on.negative,
        cfg_conds=5.0,
        cfg_cond2_negative=2.0,
        style="regular",
    )
    ours = run_guider(bench, make_guider(bench, on, 5.0, 2.0))
    assert max_error(ours, run_guider(bench, dual)) < 2e-4


@pytest.mark.parametrize("sampler", ["euler", "dpmpp_2m"])
def test_lynx_sampler_equals_guider_and_custom_sampler(bench: WanBench, on: Applied, sampler: str) -> None:
    (latent,) = bench.comfy.run(
        "LynxSampler",
        **on._asdict(),
        cfg=5.0,
        identity_cfg=2.0,
        seed=5,
        steps=2,
        sampler_name=sampler,
        scheduler="simple",
        latent_image=bench.make_latent(),
    )
    assert torch.equal(latent["samples"], run_guider(bench, make_guider(bench, on, 5.0, 2.0), sampler))


@pytest.mark.parametrize("sampler", ["euler", "uni_pc"])
def test_lynx_sampler_at_equal_guidance_equals_ksampler(bench: WanBench, on: Applied, sampler: str) -> None:
    """With both guidances the same the middle one falls out, and plain guidance is left."""
    inputs = {"steps": 3, "seed": 5, "sampler_name": sampler, "scheduler": "simple"}
    (latent,) = bench.comfy.run(
        "LynxSampler", **on._asdict(), **inputs, cfg=3.0, identity_cfg=3.0, latent_image=bench.make_latent()
    )
    ksampler = bench.sample(on.model, on.positive, on.negative, cfg=3.0, **inputs)
    assert max_error(latent["samples"], ksampler) < 1e-4


def test_lynx_sampler_keeps_what_else_a_latent_holds_and_starts_from_it(bench: WanBench, on: Applied) -> None:
    start = bench.make_latent()
    start["samples"] = torch.full_like(start["samples"], 0.5)
    inputs = on._asdict() | {"steps": 4, "sampler_name": "euler", "seed": 5, "latent_image": start}
    (whole,) = bench.comfy.run("LynxSampler", **inputs, denoise=1.0)
    (little,) = bench.comfy.run("LynxSampler", **inputs, denoise=0.25)
    assert max_error(little["samples"], start["samples"]) < max_error(whole["samples"], start["samples"])
    (mask,) = bench.comfy.run(
        "LynxSampler",
        **inputs | {"latent_image": {**start, "noise_mask": torch.zeros(1, 1, 2, 8, 8), "batch_index": [0]}},
    )
    assert max_error(mask["samples"], start["samples"]) < 1e-5, "an empty mask keeps the latent"
    assert mask["batch_index"] == [0]


@pytest.mark.parametrize(
    ("cfg", "identity_cfg", "batch"), [(5.0, 1.0, 2), (3.0, 3.0, 2), (1.0, 1.0, 1), (1.0, 2.0, 3)]
)
def test_shortcuts_equal_the_full_formula(
    bench: WanBench, on: Applied, cfg: float, identity_cfg: float, batch: int
) -> None:
    model, rows = count_batches(on.model)
    short = run_guider(bench, make_guider(bench, on._replace(model=model), cfg, identity_cfg))
    assert set(rows) == {batch}
    rows.clear()
    full = run_guider(
        bench, make_guider(bench, without_shortcuts(on._replace(model=model)), cfg, identity_cfg)
    )
    assert set(rows) == {3}
    assert max_error(short, full) < 1e-4


@pytest.mark.parametrize(("cfg", "identity_cfg"), [(5.0, 1.0), (3.0, 3.0), (1.0, 1.0), (5.0, 2.0)])
def test_other_nodes_never_see_zeros_for_a_prediction_left_out(
    bench: WanBench, on: Applied, cfg: float, identity_cfg: float
) -> None:
    seen: list[dict[str, Any]] = []

    def keep(args: dict[str, Any]) -> Tensor:
        seen.append(args)
        return args["denoised"]

    model = on.model.clone()
    model.set_model_sampler_post_cfg_function(keep)
    run_guider(bench, make_guider(bench, on._replace(model=model), cfg, identity_cfg), steps=1)
    (args,) = seen
    for name in ("cond_denoised", "uncond_denoised", "denoised"):
        assert args[name].abs().max() > 1e-2, name
    assert args["cond_scale"] == cfg
    assert args["cond"] is not None


def test_cfg_1_at_ksampler_computes_the_positive_alone(bench: WanBench, on: Applied) -> None:
    model, rows = count_batches(on.model)
    once = bench.sample(model, on.positive, on.negative, cfg=1.0)
    assert rows == [1, 1]
    full = without_shortcuts(on)
    assert max_error(once, bench.sample(full.model, on.positive, on.negative, cfg=1.0)) < 1e-5


@pytest.mark.parametrize("parts", [("id",), ("reference",)])
@pytest.mark.parametrize("cfg", [1.0, 4.0])
def test_one_part_alone_samples_at_any_cfg(
    bench: WanBench,
    base: Any,
    prompt: Conditioning,
    negative: Conditioning,
    identity: dict[str, Any],
    parts: tuple[str, ...],
    cfg: float,
) -> None:
    inputs = {name: value for name, value in identity.items() if name in (*parts, "adapter")}
    applied = bench.apply(base, prompt, negative, **inputs)
    assert run_guider(bench, make_guider(bench, applied, cfg, 2.0), steps=1).isfinite().all()
    assert bench.sample(applied.model, applied.positive, applied.negative, cfg=cfg, steps=1).isfinite().all()
