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
    seen: list[dict[str, Any]] = []
    applied.model.set_model_sampler_post_cfg_function(lambda args: seen.append(args) or args["denoised"])
    run_guider(bench, make_guider(bench, applied, cfg, 2.0), steps=1)
    bench.sample(applied.model, applied.positive, applied.negative, cfg=cfg, steps=1)
    triple, ordinary = seen
    for args, identity_cfg in ((triple, 2.0), (ordinary, cfg)):
        c, u, i = bench.predict(
            applied.model,
            [applied.positive, applied.negative, applied.middle],
            float(args["sigma"][0]),
            args["input"],
        )
        assert max_error(args["denoised"], u + identity_cfg * (i - u) + cfg * (c - i)) < 2e-5


# --- which guidance ------------------------------------------------------------------------


@pytest.fixture
def notes(bench: WanBench, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What the guiding nodes say on their faces."""
    seen: list[str] = []
    guide = bench.comfy.pack_module("nodes.nodes_guidance")
    monkeypatch.setattr(guide, "show_note", lambda node, *lines: seen.append("\n".join(lines)))
    return seen


def sample_both(bench: WanBench, applied: Applied, **inputs: Any) -> tuple[Tensor, Tensor]:
    """Sample with Lynx Sampler and with the core's KSampler on positive and negative."""
    inputs = {"cfg": 5.0, "sampler_name": "euler", "steps": 3, **inputs}
    settings = {"seed": 5, "scheduler": "simple", "latent_image": bench.make_latent(), **inputs}
    conds = {name: cond for name, cond in applied._asdict().items() if cond is not None}
    (ours,) = bench.comfy.run("LynxSampler", **conds, identity_cfg=2.0, **settings)
    return ours["samples"], bench.sample(applied.model, applied.positive, applied.negative, **inputs)


@pytest.mark.parametrize("sampler", ["euler", "uni_pc", "euler_ancestral"])
def test_lynx_apply_bypassed_is_plain_wan(
    bench: WanBench, base: Any, prompt: Conditioning, negative: Conditioning, notes: list[str], sampler: str
) -> None:
    """The editor then feeds `middle` with what goes into Lynx Apply first: the positive prompt."""
    for middle in (prompt, None, negative):
        bypassed = Applied(base, prompt, negative, middle)
        assert torch.equal(*sample_both(bench, bypassed, sampler_name=sampler))
    assert all("Ordinary cfg 5" in note and "MODEL" not in note for note in notes)
    core, ours = (
        run_guider(bench, guider, sampler)
        for guider in (
            bench.comfy.run("CFGGuider", model=base, positive=prompt, negative=negative, cfg=5.0)[0],
            make_guider(bench, Applied(base, prompt, negative, prompt), 5.0, 2.0),
        )
    )
    assert torch.equal(core, ours)


def test_both_strengths_0_is_plain_wan(
    bench: WanBench, base: Any, prompt: Conditioning, negative: Conditioning, identity: dict[str, Any]
) -> None:
    off = bench.apply(base, prompt, negative, **identity, id_strength=0.0, ref_strength=0.0)
    ours, _ = sample_both(bench, off)
    assert torch.equal(ours, bench.sample(base, prompt, negative, cfg=5.0, steps=3))


def test_lynx_model_without_an_identity_is_said(
    bench: WanBench, on: Applied, prompt: Conditioning, negative: Conditioning, notes: list[str]
) -> None:
    ours, core = sample_both(bench, Applied(on.model, prompt, negative, negative))
    assert torch.equal(ours, core)
    (note,) = notes
    for part in ("Ordinary cfg 5", "MODEL carries Lynx", "outputs of one Lynx Apply"):
        assert part in note


def test_middle_left_open_is_made_of_negative_and_positive(
    bench: WanBench, on: Applied, notes: list[str]
) -> None:
    for cfg, identity_cfg in ((5.0, 2.0), (1.0, 3.0)):
        whole = run_guider(bench, make_guider(bench, on, cfg, identity_cfg))
        inputs = {k: v for k, v in on._asdict().items() if k != "middle"}
        (guider,) = bench.comfy.run("LynxGuider", **inputs, cfg=cfg, identity_cfg=identity_cfg)
        assert torch.equal(whole, run_guider(bench, guider))
    assert "middle is not connected" not in notes[0]
    assert "middle is not connected" in notes[1]


def test_middle_left_open_keeps_what_came_after_lynx_apply(bench: WanBench, on: Applied) -> None:
    """As when WanVaceToVideo stands between Lynx Apply and the guider."""
    module = bench.comfy.pack_module("nodes.host.triple_guidance")
    later = [[text, {**options, "vace_strength": [0.5]}] for text, options in on.negative]
    ((text, options),) = module.make_middle(on.positive, later)
    assert options["vace_strength"] == [0.5]
    assert torch.equal(text, on.negative[0][0])
    assert "vace_strength" not in on.negative[0][1]
    assert len(on.negative[0][1]["additional_models"]) == 2, "the negative itself stays as it is"


def test_middle_left_open_with_two_people_is_refused(
    bench: WanBench, base: Any, on: Applied, prompt: Conditioning, negative: Conditioning, full: Any
) -> None:
    other = bench.apply(base, prompt, negative, adapter=full, id=bench.make_id(7))
    both = [*on.positive, *other.positive]
    with pytest.raises(ValueError, match=r"joins 2 identities.*connect them to middle"):
        bench.comfy.run("LynxGuider", model=on.model, positive=both, negative=on.negative)
    one = [*on.positive, *prompt]
    bench.comfy.run("LynxGuider", model=on.model, positive=one, negative=on.negative)


def test_two_people_joined_as_the_help_page_says(
    bench: WanBench,
    base: Any,
    on: Applied,
    prompt: Conditioning,
    negative: Conditioning,
    full: Any,
    notes: list[str],
) -> None:
    """The combined prediction is the mean of both persons' predictions."""
    other = bench.apply(base, bench.make_text(3), negative, adapter=full, id=bench.make_id(7))
    joined = {
        name: bench.comfy.run(
            "ConditioningCombine", conditioning_1=getattr(on, name), conditioning_2=getattr(other, name)
        )[0]
        for name in ("positive", "negative", "middle")
    }
    both = run_guider(bench, make_guider(bench, on._replace(**joined), 5.0, 2.0), steps=1)
    assert notes == ["Triple guidance, cfg 5, identity_cfg 2: 3 predictions a step."]
    alone = [run_guider(bench, make_guider(bench, applied, 5.0, 2.0), steps=1) for applied in (on, other)]
    assert max_error(both, (alone[0] + alone[1]) / 2) < 1e-4


def test_wrong_wires_are_said(
    bench: WanBench,
    base: Any,
    on: Applied,
    prompt: Conditioning,
    negative: Conditioning,
    full: Any,
    notes: list[str],
) -> None:
    other = bench.apply(base, prompt, negative, adapter=full, id=bench.make_id(7))
    wirings = {
        "positive carries no identity: the prompt does not show": on._replace(positive=prompt),
        "middle carries no identity": on._replace(middle=negative),
        "negative carries no identity": on._replace(negative=negative),
        "middle carry different identities": on._replace(middle=other.middle),
        "middle carries the null identity alone: identity_cfg": on._replace(middle=on.negative),
        "negative carries the person": on._replace(negative=on.middle),
        "positive carries the null identity alone": on._replace(positive=on.negative, negative=on.positive),
        "positive carries no identity": on._replace(positive=prompt, middle=None),
    }
    for part, wiring in wirings.items():
        make_guider(bench, wiring, 5.0, 2.0)
        assert part in notes[-1]
        assert "of one Lynx Apply" in notes[-1]
    make_guider(bench, on, 5.0, 2.0)
    assert notes[-1] == "Triple guidance, cfg 5, identity_cfg 2: 3 predictions a step."
    make_guider(bench, on, 1.0, 1.0)
    assert notes[-1].endswith("1 prediction a step.")
