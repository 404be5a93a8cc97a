"""Long videos in context windows, and VACE models with reference frames of their own."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from wan_bench import ONLY_LAST_BLOCK, VACE, Applied, Conditioning, WanBench, max_error, seeded

FRAMES = 3


def add_windows(bench: WanBench, model: Any, schedule: str = "standard_static", **inputs: Any) -> Any:
    """Windows of two latent frames without overlap; a newer host gives a later one the frame before it to look at."""
    return bench.comfy.run(
        "WanContextWindowsManual",
        model=model,
        context_schedule=schedule,
        fuse_method="flat",
        freenoise=False,
        **{"context_length": 5, "context_overlap": 0, **inputs},
    )[0]


def predict_windows_by_hand(bench: WanBench, on: Applied, cond: Conditioning, x: Tensor) -> Tensor:
    import comfy.context_windows

    handler = comfy.context_windows.IndexListContextHandler
    in_front = int("causal_window_fix" in inspect.signature(handler).parameters)
    (first,), (second,) = (
        bench.predict(on.model, [cond], x=window) for window in (x[:, :, :2], x[:, :, 2 - in_front :])
    )
    return torch.cat([first, second[:, :, in_front:]], dim=2)


def test_each_context_window_has_the_identity(
    bench: WanBench, base: Any, prompt: Conditioning, negative: Conditioning, identity: dict[str, Any]
) -> None:
    on = bench.apply(base, prompt, negative, **identity)
    windowed = add_windows(bench, on.model)
    x = seeded(1, 16, 4, 8, 8, seed=12)
    conds = [on.positive, on.negative, on.middle]
    for cond, got in zip(conds, bench.predict(windowed, conds, x=x), strict=True):
        assert max_error(got, predict_windows_by_hand(bench, on, cond, x)) < 1e-5
        assert max_error(got, bench.predict(on.model, [cond], x=x)[0]) > 1e-3, "windows were used"
    first = bench.apply(add_windows(bench, base), prompt, negative, **identity)
    assert torch.equal(
        bench.predict(first.model, [first.positive], x=x)[0], bench.predict(windowed, [on.positive], x=x)[0]
    )


def test_only_the_first_window_has_reference_frames_at_its_start(
    bench: WanBench, base: Any, prompt: Conditioning, negative: Conditioning, identity: dict[str, Any]
) -> None:
    skipping = bench.apply(base, prompt, negative, **identity, vace_reference_frames=1)
    everywhere = bench.apply(base, prompt, negative, **identity)
    x = seeded(1, 16, 4, 8, 8, seed=13)
    (got,) = bench.predict(add_windows(bench, skipping.model), [skipping.positive], x=x)
    first, second = (
        predict_windows_by_hand(bench, on, on.positive, x)[:, :, part]
        for on, part in ((skipping, slice(0, 2)), (everywhere, slice(2, 4)))
    )
    assert max_error(got, torch.cat([first, second], dim=2)) < 1e-5
    assert max_error(got, predict_windows_by_hand(bench, skipping, skipping.positive, x)) > 1e-4


def list_untouched_frames(a: Tensor, b: Tensor) -> list[int]:
    return [i for i in range(a.shape[2]) if torch.equal(a[:, :, i], b[:, :, i])]


@pytest.mark.parametrize("skipped", [1, 3])
def test_looped_windows_that_start_before_the_reference_frames(
    bench: WanBench,
    base: Any,
    prompt: Conditioning,
    negative: Conditioning,
    identity: dict[str, Any],
    skipped: int,
) -> None:
    """In a window such as [8, 9, 0, 1] the reference frames are in the middle."""
    on = bench.apply(base, prompt, negative, **identity, **ONLY_LAST_BLOCK, vace_reference_frames=skipped)
    windows: list[list[int]] = []

    def look(executor: Any, *args: Any, **kwargs: Any) -> Tensor:
        windows.append(list(args[5]["context_window"].index_list))
        return executor(*args, **kwargs)

    import comfy.patcher_extension

    looped = add_windows(
        bench, on.model, "looped_uniform", context_length=13, context_overlap=5, closed_loop=True
    )
    looped.add_wrapper(comfy.patcher_extension.WrappersMP.APPLY_MODEL, look)
    x = seeded(1, 16, 10, 8, 8, seed=15)
    (got,) = bench.predict(looped, [on.positive], x=x)
    (plain,) = bench.predict(looped, [prompt], x=x)
    assert any(0 in window[1:] for window in windows), "a window looped, or the test would prove nothing"
    assert list_untouched_frames(got, plain) == list(range(skipped))


@pytest.mark.parametrize(
    ("temporal", "z", "untouched"),
    [(0.5, 0.25, {1, 2}), (0.5, 0.5, set()), (1.0, 0.0, {0, 1, 2}), (0.25, 0.0, {0, 1})],
)
def test_an_area_in_time_counts_frames_from_the_start_of_the_video(
    bench: WanBench,
    base: Any,
    prompt: Conditioning,
    negative: Conditioning,
    identity: dict[str, Any],
    temporal: float,
    z: float,
    untouched: set[int],
) -> None:
    """Three reference frames of eight; a second prompt of the same size elsewhere shares the batch."""
    on = bench.apply(base, prompt, negative, **identity, **ONLY_LAST_BLOCK, vace_reference_frames=3)

    def cut(cond: Conditioning, temporal: float = temporal, z: float = z) -> Conditioning:
        return bench.comfy.run(
            "ConditioningSetAreaPercentageVideo", conditioning=cond, width=1.0, height=0.5, temporal=temporal, x=0.0,
            y=0.25, z=z, strength=1.0,
        )[0]  # fmt: skip

    x = seeded(1, 16, 8, 8, 8, seed=16)
    inside = slice(round(z * 8), round(z * 8) + round(temporal * 8))
    elsewhere = cut(on.positive, z=1.0 - temporal)
    got, _ = bench.predict(on.model, [cut(on.positive), elsewhere], x=x)
    plain, _ = bench.predict(on.model, [cut(prompt), cut(prompt, z=1.0 - temporal)], x=x)
    frames = {inside.start + i for i in list_untouched_frames(got[:, :, inside], plain[:, :, inside])}
    assert frames == {frame for frame in untouched if inside.start <= frame < inside.stop}


def test_an_area_in_time_within_a_window(bench: WanBench) -> None:
    """The host cuts the window out first, with the frame from before it in front, and then the area."""
    module = bench.comfy.pack_module("nodes.host.model_call")
    cond = bench.comfy.pack_module("nodes.host.conditioning").LynxCond(())
    cut = cond.process_cond(batch_size=1, area=[2, 4, 4, 1, 0, 0])
    longer, shorter = (module.Window(0, places) for places in ([7, 8, 9, 0, 1], [8, 9, 0, 1]))
    assert module.list_places(cond, 0, 5, longer) == [7, 8, 9, 0, 1]
    assert module.list_places(cut, 0, 2, longer) == [8, 9]
    assert module.list_places(cut, 0, 2, shorter) == [9, 0]
    assert module.list_places(cut, 0, 2, None) == [1, 2]
    assert module.list_places(cut, 1, 4, longer) == [0, 1, 2, 3]


@pytest.mark.parametrize(("fix", "untouched"), [(True, [0]), (False, [0, 4])])
def test_a_reference_frame_that_every_window_keeps(
    bench: WanBench,
    base: Any,
    prompt: Conditioning,
    negative: Conditioning,
    identity: dict[str, Any],
    fix: bool,
    untouched: list[int],
) -> None:
    """The host can put the video's first latent frame at the start of every window."""
    node = bench.comfy.node_classes["ContextWindowsManual"].INPUT_TYPES()
    if "latent_retain_index_list" not in {**node["required"], **node.get("optional", {})}:
        pytest.skip("this host keeps no latent frames")
    on = bench.apply(base, prompt, negative, **identity, **ONLY_LAST_BLOCK, vace_reference_frames=1)
    (windowed,) = bench.comfy.run(
        "ContextWindowsManual", model=on.model, context_length=4, context_overlap=0, context_schedule="standard_static",
        context_stride=1, closed_loop=False, fuse_method="flat", dim=2, freenoise=False, cond_retain_index_list="",
        split_conds_to_windows=False, latent_retain_index_list="0", causal_window_fix=fix,
    )  # fmt: skip
    x = seeded(1, 16, 8, 8, 8, seed=18)
    (got,), (plain,) = (bench.predict(windowed, [cond], x=x) for cond in (on.positive, prompt))
    assert list_untouched_frames(got, plain) == untouched


@pytest.fixture(scope="module")
def vace(bench: WanBench) -> Any:
    return bench.load_base(VACE)


@pytest.fixture(scope="module")
def vace_text(bench: WanBench) -> Conditioning:
    """A prompt with VACE's control video and mask, as WanVaceToVideo makes them."""
    (embedding, options) = bench.make_text(1)[0]
    control = {
        "vace_frames": [seeded(1, 32, FRAMES, 8, 8, seed=71)],
        "vace_mask": [torch.ones(1, 64, FRAMES, 8, 8)],
        "vace_strength": [1.0],
    }
    return [[embedding, {**options, **control}]]


@pytest.fixture(scope="module")
def vace_identity(bench: WanBench, vace: Any, full: Any) -> dict[str, Any]:
    return {"adapter": full, "id": bench.make_id(), "reference": bench.make_reference(vace, full)}


def test_features_are_those_of_the_model_without_its_control_branch(bench: WanBench, vace: Any) -> None:
    import comfy.sd

    tensors = load_file(str(bench.comfy.base_dir / "models" / "diffusion_models" / VACE))
    path = bench.comfy.base_dir / "vace_backbone.safetensors"
    save_file({name: t for name, t in tensors.items() if not name.startswith("vace_")}, str(path))
    backbone = comfy.sd.load_diffusion_model(str(path), model_options={"dtype": torch.float32})
    a, b = bench.record_features(vace), bench.record_features(backbone)
    assert sorted(a) == sorted(b) == [0, 1, 2, 3]
    for block in a:
        assert max_error(a[block], b[block]) < 1e-5


def test_reference_stays_out_of_vaces_own_reference_frames(
    bench: WanBench, vace: Any, vace_text: Conditioning, negative: Conditioning, vace_identity: dict[str, Any]
) -> None:
    x = seeded(2, 16, FRAMES, 8, 8, seed=13)
    (plain,) = bench.predict(vace, [vace_text], x=x)
    for skipped in (0, 1, 2, 3, 7):
        on = bench.apply(
            vace, vace_text, negative, **vace_identity, **ONLY_LAST_BLOCK, vace_reference_frames=skipped
        )
        (got,) = bench.predict(on.model, [on.positive], x=x)
        assert list_untouched_frames(got, plain) == list(range(min(skipped, FRAMES)))


def test_odd_sizes_count_frames_right(
    bench: WanBench, base: Any, prompt: Conditioning, negative: Conditioning, identity: dict[str, Any]
) -> None:
    """The host pads an odd latent to whole patches; a frame then has more tokens than pixels / 4."""
    x = seeded(1, 16, FRAMES, 7, 9, seed=14)
    on = bench.apply(base, prompt, negative, **identity, **ONLY_LAST_BLOCK, vace_reference_frames=1)
    (plain,), (got,) = bench.predict(base, [prompt], x=x), bench.predict(on.model, [on.positive], x=x)
    assert list_untouched_frames(got, plain) == [0]


def test_id_and_reference_act_on_a_vace_model(
    bench: WanBench, vace: Any, vace_text: Conditioning, negative: Conditioning, vace_identity: dict[str, Any]
) -> None:
    vace_negative = [[negative[0][0], vace_text[0][1]]]
    on = bench.apply(vace, vace_text, vace_negative, **vace_identity, vace_reference_frames=1)
    x = seeded(1, 16, FRAMES, 8, 8, seed=15)
    together = bench.predict(on.model, [on.positive, on.negative, on.middle], x=x)
    for cond, prediction in zip((on.positive, on.negative, on.middle), together, strict=True):
        assert max_error(prediction, bench.predict(on.model, [cond], x=x)[0]) < 1e-5
    assert max_error(together[0], bench.predict(vace, [vace_text], x=x)[0]) > 1e-3
    latent = {"samples": torch.zeros(1, 16, FRAMES, 8, 8)}
    plain = bench.sample(vace, vace_text, vace_negative, latent_image=latent)
    assert max_error(bench.sample(on.model, on.positive, on.negative, latent_image=latent), plain) > 1e-3


def test_the_cores_vace_node(
    bench: WanBench, vace: Any, prompt: Conditioning, negative: Conditioning, vace_identity: dict[str, Any]
) -> None:
    """As in a graph: a VACE reference image makes one more latent frame, whose number is trim_latent."""
    (vae,) = bench.comfy.run("VAELoader", vae_name="wan_2.1_vae.safetensors")
    picture = torch.rand(1, 64, 64, 3, generator=torch.Generator().manual_seed(2))
    positive, uncond, latent, trim = bench.comfy.run(
        "WanVaceToVideo",
        positive=prompt, negative=negative, vae=vae, width=64, height=64, length=5, batch_size=1, strength=1.0, reference_image=picture,
    )  # fmt: skip
    assert trim == 1
    on = bench.apply(vace, positive, uncond, **vace_identity, vace_reference_frames=trim)
    out = bench.sample(on.model, on.positive, on.negative, latent_image=latent, steps=1)
    assert out.shape[2] == 3
    assert max_error(out, bench.sample(vace, positive, uncond, latent_image=latent, steps=1)) > 1e-3
