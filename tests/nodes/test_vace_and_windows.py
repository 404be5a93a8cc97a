"""Long videos in context windows, and VACE models with reference frames of their own."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from wan_bench import VACE, Applied, Conditioning, WanBench, max_error, seeded

FRAMES = 3


def add_windows(bench: WanBench, model: Any) -> Any:
    """Windows of two latent frames without overlap; the host gives a later one the frame before it to look at."""
    return bench.comfy.run(
        "WanContextWindowsManual",
        model=model,
        context_length=5,
        context_overlap=0,
        context_schedule="standard_static",
        fuse_method="flat",
        freenoise=False,
    )[0]


def predict_windows_by_hand(bench: WanBench, on: Applied, cond: Conditioning, x: Tensor) -> Tensor:
    (first,), (second,) = (bench.predict(on.model, [cond], x=window) for window in (x[:, :, :2], x[:, :, 1:]))
    return torch.cat([first, second[:, :, 1:]], dim=2)


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
    """In the last block nothing after self-attention mixes tokens: frames left out are the base's, to the bit."""
    x = seeded(2, 16, FRAMES, 8, 8, seed=13)
    (plain,) = bench.predict(vace, [vace_text], x=x)
    only_last = {"id_strength": 0.0, "ref_blocks": "3"}
    for skipped in (0, 1, 2, 3, 7):
        on = bench.apply(
            vace, vace_text, negative, **vace_identity, **only_last, vace_reference_frames=skipped
        )
        (got,) = bench.predict(on.model, [on.positive], x=x)
        kept = [torch.equal(got[:, :, i], plain[:, :, i]) for i in range(FRAMES)]
        assert kept == [i < skipped for i in range(FRAMES)]


def test_odd_sizes_count_frames_right(
    bench: WanBench, base: Any, prompt: Conditioning, negative: Conditioning, identity: dict[str, Any]
) -> None:
    """The host pads an odd latent to whole patches; a frame then has more tokens than pixels / 4."""
    x = seeded(1, 16, FRAMES, 7, 9, seed=14)
    on = bench.apply(
        base, prompt, negative, **identity, id_strength=0.0, ref_blocks="3", vace_reference_frames=1
    )
    (plain,), (got,) = bench.predict(base, [prompt], x=x), bench.predict(on.model, [on.positive], x=x)
    assert [torch.equal(got[:, :, i], plain[:, :, i]) for i in range(FRAMES)] == [True, False, False]


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
    assert bench.sample(on.model, on.positive, on.negative, latent_image=latent).isfinite().all()


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
    assert out.isfinite().all()
