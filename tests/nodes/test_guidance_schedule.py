"""Guidance in windows, and identity guidance every n-th step: what is computed, and that it is the formula."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from test_guidance import run_guider, without_shortcuts
from torch import Tensor
from wan_bench import Applied, Conditioning, WanBench, count_batches, max_error

STEPS = 6
WHOLE = {
    "cfg_start": 0.0,
    "cfg_end": 1.0,
    "identity_cfg_start": 0.0,
    "identity_cfg_end": 1.0,
    "identity_cfg_every": 1,
}


@pytest.fixture(scope="module")
def on(
    bench: WanBench, base: Any, prompt: Conditioning, negative: Conditioning, identity: dict[str, Any]
) -> Applied:
    """With a shift of 1, a share of sampling is 1 - sigma."""
    (model,) = bench.comfy.run("ModelSamplingSD3", model=base, shift=1.0)
    return bench.apply(model, prompt, negative, **identity)


def guide(
    bench: WanBench, applied: Applied, cfg: float = 5.0, identity_cfg: float = 2.0, **schedule: Any
) -> Any:
    return bench.comfy.run("LynxGuider", **applied._asdict(), cfg=cfg, identity_cfg=identity_cfg, **schedule)[
        0
    ]


def count(
    bench: WanBench, applied: Applied, sampler: str = "euler", **inputs: Any
) -> tuple[Tensor, list[int]]:
    """Sample, and give the number of predictions of each call of the model."""
    model, rows = count_batches(applied.model)
    guider = guide(bench, applied._replace(model=model), **inputs)
    return run_guider(bench, guider, sampler, steps=STEPS), rows


def sample_plainly(bench: WanBench, on: Applied, scales: list[tuple[float, float]], every: int = 1) -> Tensor:
    """Euler steps of the formula, each prediction made alone by the host, without the pack's guider."""
    import comfy.samplers

    model_sampling = on.model.get_model_object("model_sampling")
    sigmas = comfy.samplers.calculate_sigmas(model_sampling, "simple", len(scales))
    (noise,) = bench.comfy.run("RandomNoise", noise_seed=5)
    x = noise.generate_noise(bench.make_latent())
    kept, made = torch.zeros(()), -every
    for step, (g, g_id) in enumerate(scales):
        c, u, i = bench.predict(on.model, [on.positive, on.negative, on.middle], float(sigmas[step]), x)
        if step - made >= every:
            kept = (i - u) / sigmas[step]
            made = step if g_id != 1.0 else made
        denoised = c + (g - 1) * (c - i) + (g_id - 1) * kept * sigmas[step]
        x = x + (x - denoised) / sigmas[step] * (sigmas[step + 1] - sigmas[step])
    return on.model.model.latent_format.process_out(x)


@pytest.mark.parametrize("sampler", ["euler", "uni_pc", "dpmpp_2m", "heun"])
@pytest.mark.parametrize("scales", [(5.0, 2.0), (1.0, 2.0), (5.0, 1.0), (3.0, 3.0)])
def test_whole_windows_change_no_bit(
    bench: WanBench, on: Applied, sampler: str, scales: tuple[float, float]
) -> None:
    plain = run_guider(bench, bench.comfy.run("LynxGuider", **on._asdict(), cfg=scales[0], identity_cfg=scales[1])[0], sampler)  # fmt: skip
    assert torch.equal(plain, run_guider(bench, guide(bench, on, *scales, **WHOLE), sampler))


@pytest.mark.parametrize(
    ("schedule", "rows"),
    [
        ({}, [3, 3, 3, 3, 3, 3]),
        ({"cfg_end": 0.5}, [3, 3, 3, 3, 3, 3]),  # identity_cfg alone needs all three
        ({"identity_cfg_end": 0.5}, [3, 3, 3, 3, 2, 2]),
        ({"identity_cfg_start": 0.3, "identity_cfg_end": 0.7}, [2, 2, 3, 3, 3, 2]),
        ({"cfg_start": 0.3, "cfg_end": 0.7, "identity_cfg_start": 0.3, "identity_cfg_end": 0.5}, [1, 1, 3, 3, 2, 1]),
        ({"cfg_end": 0.0, "identity_cfg_end": 0.0}, [3, 1, 1, 1, 1, 1]),
        ({"identity_cfg_every": 2}, [3, 2, 3, 2, 3, 2]),
        ({"identity_cfg_every": 4}, [3, 2, 2, 2, 3, 2]),
        ({"identity_cfg_every": 100}, [3, 2, 2, 2, 2, 2]),
        ({"identity_cfg_every": 2, "identity_cfg_start": 0.3}, [2, 2, 3, 2, 3, 2]),
        ({"identity_cfg_every": 3, "cfg_end": 0.3}, [3, 2, 1, 3, 1, 1]),
    ],
)  # fmt: skip
def test_a_prediction_outside_of_its_window_is_not_made(
    bench: WanBench, on: Applied, schedule: dict[str, Any], rows: list[int], notes: list[str]
) -> None:
    _, seen = count(bench, on, **schedule)
    assert seen == rows
    (latent,) = bench.comfy.run(
        "LynxSampler", **on._asdict(), **schedule, cfg=5.0, identity_cfg=2.0, seed=5, steps=STEPS,
        sampler_name="euler", scheduler="simple", latent_image=bench.make_latent(),
    )  # fmt: skip
    assert torch.equal(latent["samples"], count(bench, on, **schedule)[0])
    if schedule:
        assert f": {sum(rows)} predictions over 6 steps, of 18." in "".join(notes)


@pytest.mark.parametrize(
    ("schedule", "scales"),
    [
        ({"identity_cfg_end": 0.5}, [(5, 2)] * 4 + [(5, 1)] * 2),
        ({"cfg_start": 0.3, "cfg_end": 0.7}, [(1, 2)] * 2 + [(5, 2)] * 3 + [(1, 2)]),
        ({"cfg_end": 0.5, "identity_cfg_end": 0.2}, [(5, 2)] * 2 + [(5, 1)] * 2 + [(1, 1)] * 2),
        ({"identity_cfg_every": 2}, [(5, 2)] * 6),
        ({"identity_cfg_every": 3, "cfg_end": 0.3}, [(5, 2)] * 2 + [(1, 2)] * 4),
    ],
)
def test_equals_the_formula_step_by_step(
    bench: WanBench, on: Applied, schedule: dict[str, Any], scales: list[tuple[float, float]]
) -> None:
    ours, _ = count(bench, on, **schedule)
    plain = sample_plainly(bench, on, scales, schedule.get("identity_cfg_every", 1))
    assert max_error(ours, plain) < 2e-4
    assert max_error(ours, count(bench, on)[0]) > 1e-3, "the schedule acts"


@pytest.mark.parametrize(("cfg", "identity_cfg"), [(5.0, 1.0), (3.0, 3.0), (1.0, 1.0)])
def test_every_nth_step_changes_nothing_where_nothing_is_saved(
    bench: WanBench, on: Applied, cfg: float, identity_cfg: float, notes: list[str]
) -> None:
    every, rows = count(bench, on, cfg=cfg, identity_cfg=identity_cfg, identity_cfg_every=3)
    plain, as_many = count(bench, on, cfg=cfg, identity_cfg=identity_cfg)
    assert rows == as_many
    assert torch.equal(every, plain)
    assert "identity_cfg_every does nothing" in notes[0]


def test_a_window_of_ordinary_cfg_acts_too(
    bench: WanBench, on: Applied, prompt: Conditioning, negative: Conditioning
) -> None:
    plain = Applied(on.model, prompt, negative, negative)
    assert count(bench, plain, cfg_start=0.3, cfg_end=0.6)[1] == [1, 1, 2, 2, 1, 1]


def test_samplers_that_call_twice_a_step_keep_by_steps(bench: WanBench, on: Applied) -> None:
    """Heun's second call of a step lies at the noise level of the next one's first."""
    assert count(bench, on, "heun", identity_cfg_every=2)[1] == [3, 2, 2, 3, 3, 2, 2, 3, 3, 2, 2]
    assert count(bench, on, "uni_pc", identity_cfg_every=3)[1].count(3) == 2


def test_nothing_is_kept_from_one_run_to_the_next(bench: WanBench, on: Applied) -> None:
    guider = guide(bench, on, identity_cfg_every=100)
    first = run_guider(bench, guider, steps=STEPS)
    assert torch.equal(first, run_guider(bench, guider, steps=STEPS))
    assert guider._kept.difference is None


def test_nodes_that_ask_for_every_prediction_get_them(bench: WanBench, on: Applied) -> None:
    """The scales are those of the window all the same."""
    schedule = {"cfg_end": 0.5, "identity_cfg_end": 0.3}
    full, rows = count(bench, without_shortcuts(on), **schedule)
    assert set(rows) == {3}
    assert max_error(full, count(bench, on, **schedule)[0]) < 1e-4


def test_cfg_functions_get_the_scale_of_the_step(bench: WanBench, on: Applied) -> None:
    seen: list[dict[str, Any]] = []

    def keep(args: dict[str, Any]) -> Tensor:
        seen.append(args)
        return args["uncond"] + (args["cond"] - args["uncond"]) * args["cond_scale"]

    model = on.model.clone()
    model.set_model_sampler_cfg_function(keep)
    schedule = {"cfg_end": 0.5, "identity_cfg_end": 0.3, "identity_cfg_every": 2}
    ours = count(bench, on._replace(model=model), **schedule)[0]
    assert [args["cond_scale"] for args in seen] == [5, 5, 5, 5, 1, 1]
    assert all(args["uncond_denoised"].abs().max() > 1e-2 for args in seen)
    assert max_error(ours, count(bench, on, **schedule)[0]) < 1e-5


def test_the_hosts_override_of_cfg_counts(bench: WanBench, on: Applied) -> None:
    if "CFGOverride" not in bench.comfy.node_classes:
        pytest.skip("this host has no CFG Override")
    (model,) = bench.comfy.run("CFGOverride", model=on.model, cfg=1.0, start_percent=0.5, end_percent=1.0)
    overridden, rows = count(bench, on._replace(model=model), identity_cfg_end=0.3)
    assert rows == [3, 3, 2, 1, 1, 1]
    assert max_error(overridden, count(bench, on, cfg_end=0.49, identity_cfg_end=0.3)[0]) < 1e-6


def test_a_window_that_cannot_be_is_named(bench: WanBench, on: Applied) -> None:
    with pytest.raises(ValueError, match=r"identity_cfg: .*got start 0\.8, end 0\.2; set identity_cfg_start"):
        guide(bench, on, identity_cfg_start=0.8, identity_cfg_end=0.2)
