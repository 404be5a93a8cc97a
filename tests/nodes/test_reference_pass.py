"""The reference pass sees the base model with its LoRAs, and nothing else that is on the MODEL."""

from __future__ import annotations

import types
from typing import Any

import pytest
import torch
from torch import Tensor
from wan_bench import Conditioning, WanBench, max_error


def with_attention_patches(bench: WanBench, model: Any) -> Any:
    model = model.clone()
    model.set_model_attn1_patch(lambda args: args["x"] * 0.5)
    model.set_model_attn2_patch(lambda args: args["x"] * 0.5)
    model.model_options["transformer_options"]["optimized_attention_override"] = (
        lambda func, *args, **kwargs: func(*args, **kwargs) * 0.5
    )
    return model


def with_object_patches(bench: WanBench, model: Any) -> Any:
    def forward(self: Any, x: Tensor, context: Tensor, **_: Any) -> Tensor:
        return self.o(self.norm_q(self.q(x)))

    model = model.clone()
    name = "diffusion_model.blocks.0.cross_attn"
    model.add_object_patch(f"{name}.forward", types.MethodType(forward, model.get_model_object(name)))
    return model


def with_wrappers(bench: WanBench, model: Any) -> Any:
    from comfy.patcher_extension import WrappersMP

    model = model.clone()
    for kind in (WrappersMP.APPLY_MODEL, WrappersMP.DIFFUSION_MODEL):
        model.add_wrapper(kind, lambda executor, x, *args, **kwargs: executor(x * 0.5, *args, **kwargs))
    model.set_model_unet_function_wrapper(
        lambda apply_model, args: apply_model(args["input"] * 0.5, args["timestep"], **args["c"])
    )
    return model


def with_compiled_blocks(bench: WanBench, model: Any) -> Any:
    from comfy_api.torch_helpers import set_torch_compile_wrapper

    model = model.clone()
    set_torch_compile_wrapper(model=model, backend="eager", keys=["diffusion_model.blocks.1"])
    return model


def with_compiled_block_as_object_patch(bench: WanBench, model: Any) -> Any:
    """As other packs' compile nodes do it."""
    model = model.clone()
    name = "diffusion_model.blocks.2"
    model.add_object_patch(name, torch.compile(model.get_model_object(name), backend="eager"))
    return model


def with_identity(bench: WanBench, model: Any) -> Any:
    identity = {"adapter": bench.open_adapter("lynx_full"), "id": bench.make_id()}
    return bench.apply(model, bench.make_text(1), bench.make_text(2), **identity).model


def with_context_windows(bench: WanBench, model: Any) -> Any:
    return bench.comfy.run("WanContextWindowsManual", model=model, context_length=1, context_overlap=0)[0]


def with_another_shift(bench: WanBench, model: Any) -> Any:
    return bench.comfy.run("ModelSamplingSD3", model=model, shift=1.5)[0]


def with_nag_and_skip_layers(bench: WanBench, model: Any) -> Any:
    (model,) = bench.comfy.run("NAGuidance", model=model)
    return bench.comfy.run("UNetTemporalAttentionMultiply", model=model)[0]


PATCHES = {
    name.removeprefix("with_"): function
    for name, function in list(globals().items())
    if name.startswith("with_")
}


@pytest.mark.parametrize("name", PATCHES)
def test_what_else_is_on_the_model_does_not_change_the_features(
    bench: WanBench, base: Any, name: str
) -> None:
    expected = bench.record_features(base)
    got = bench.record_features(PATCHES[name](bench, base))
    assert sorted(got) == [0, 1, 2, 3]
    for block, features in expected.items():
        assert torch.equal(got[block], features), block


@pytest.mark.parametrize("name", PATCHES)
def test_the_models_own_patches_are_still_there_afterwards(
    bench: WanBench, base: Any, prompt: Conditioning, name: str
) -> None:
    patched = PATCHES[name](bench, base)
    (before,) = bench.predict(patched, [prompt])
    bench.record_features(patched)
    assert torch.equal(bench.predict(patched, [prompt])[0], before)


def test_the_patches_do_something(bench: WanBench, base: Any, prompt: Conditioning) -> None:
    """Or the tests above would prove nothing."""
    (plain,) = bench.predict(base, [prompt])
    for name in ("attention_patches", "object_patches", "wrappers"):
        assert max_error(bench.predict(PATCHES[name](bench, base), [prompt])[0], plain) > 1e-3, name


def test_loras_change_the_features(bench: WanBench, base: Any) -> None:
    plain, with_lora = bench.record_features(base), bench.record_features(bench.load_lora(base))
    assert torch.equal(plain[0], with_lora[0]), (
        "what the first self-attention sees is before any of its weights"
    )
    assert all(max_error(with_lora[block], plain[block]) > 1e-3 for block in (1, 2, 3))
    again = bench.record_features(base)
    assert all(torch.equal(plain[block], again[block]) for block in plain)


def test_the_pass_is_not_compiled(bench: WanBench, base: Any, full: Any) -> None:
    """It runs once, at a size of its own, and reads weights from files on the way."""
    graphs: list[Any] = []

    def backend(graph: Any, inputs: list[Tensor]) -> Any:
        graphs.append(graph)
        return graph.forward

    network = base.get_model_object("diffusion_model")
    compiled = base.clone()
    compiled.add_object_patch("diffusion_model", torch.compile(network, backend=backend))
    got, expected = (bench.make_reference(model, full, seed=6).face.kv_cache for model in (compiled, base))
    assert graphs == []
    assert compiled.get_model_object("diffusion_model") is not network
    for a, b in zip(got.parameters(), expected.parameters(), strict=True):
        assert torch.equal(a, b)


class RecordingClip:
    """Keeps what it is asked to encode."""

    def __init__(self, clip: Any) -> None:
        self.clip = clip
        self.texts: list[str] = []

    def tokenize(self, text: str) -> Any:
        self.texts.append(text)
        return self.clip.tokenize(text)

    def encode_from_tokens_scheduled(self, tokens: Any) -> Any:
        return self.clip.encode_from_tokens_scheduled(tokens)


class RecordingVAE:
    """Keeps what it is asked to encode."""

    def __init__(self, vae: Any) -> None:
        self.vae = vae
        self.images: list[Tensor] = []

    def encode(self, image: Tensor) -> Tensor:
        self.images.append(image.clone())
        return self.vae.encode(image)


@pytest.fixture(scope="module")
def loaded(bench: WanBench) -> dict[str, Any]:
    (clip,) = bench.comfy.run("CLIPLoader", clip_name="umt5_xxl_fp8_e4m3fn_scaled.safetensors", type="wan")
    (vae,) = bench.comfy.run("VAELoader", vae_name="wan_2.1_vae.safetensors")
    return {"clip": RecordingClip(clip), "vae": RecordingVAE(vae)}


@pytest.fixture(scope="module")
def faces(bench: WanBench) -> Any:
    """Two photos of one person as LYNX_FACE."""
    photos = torch.rand(2, 256, 256, 3, generator=torch.Generator().manual_seed(3))
    return bench.comfy.run("LynxCropFace", image=photos, already_aligned=True)[0]


def test_what_the_pass_is_given(
    bench: WanBench, base: Any, full: Any, loaded: dict[str, Any], faces: Any
) -> None:
    bench.comfy.run("LynxEncodeReference", adapter=full, model=base, face=faces, **loaded)
    assert loaded["clip"].texts[-1] == "image of a face"
    face, null = loaded["vae"].images[-2:]
    assert face.shape == null.shape == (1, 256, 256, 3)
    assert null.unique().tolist() == [0.5], "mid-grey"
    assert max_error(face[0], torch.from_numpy(faces[0].reference_crop) / 255) < 1e-6


def test_a_batch_of_photos_gives_the_one_asked_for(
    bench: WanBench, base: Any, full: Any, loaded: dict[str, Any], faces: Any
) -> None:
    run = {"adapter": full, "model": base, **loaded}
    keys = [
        bench.comfy.run("LynxEncodeReference", face=face, photo_number=number, **run)[0]
        .face.kv_cache.get_block(2)
        .key
        for face, number in ((faces, 1), (faces, 2), (faces[1:], 1), (faces[:1], 1))
    ]
    assert torch.equal(keys[0], keys[3])
    assert torch.equal(keys[1], keys[2])
    assert not torch.equal(keys[0], keys[1])
    assert keys[0].shape == (1, 256, 256), "32 x 32 latent in patches of 2 x 2"
