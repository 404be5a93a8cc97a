"""The arithmetic of both adapters, against a plain reference that shares no line with the pack.

The reference takes the adapter's raw tensors, sees the face through the bare host network, and
writes each attention out: what is normed, what is rotated, what is added where, as published.
Sizes are none of the stand-ins', so that no width is taken for another.
"""

from __future__ import annotations

import types
from collections.abc import Callable
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from wan_bench import LATENT_CHANNELS, RECOGNISER, Applied, Conditioning, WanBench, max_error, seeded

DIM, HEAD_DIM, NUM_BLOCKS = 384, 128, 3
TOKEN_DIM, NUM_QUERIES, NUM_REGISTERS, RESAMPLER_DIM = 160, 6, 5, 64
Weights = dict[str, Tensor]


def make_resampler(output_dim: int) -> Weights:
    """One layer, one head of 64, in the published names."""
    d = RESAMPLER_DIM
    shapes = {
        "latents": (1, NUM_QUERIES, d), "proj_in.weight": (d, 512), "proj_in.bias": (d,), "proj_out.weight": (output_dim, d),
        "proj_out.bias": (output_dim,), "layers.0.0.to_q.weight": (64, d), "layers.0.0.to_kv.weight": (128, d),
        "layers.0.0.to_out.weight": (d, 64), "layers.0.1.1.weight": (4 * d, d), "layers.0.1.3.weight": (d, 4 * d),
    }  # fmt: skip
    weights = {
        name: seeded(*shape, seed=i) / shape[-1] ** 0.5 for i, (name, shape) in enumerate(shapes.items())
    }
    for name, width in (
        ("norm_out", output_dim),
        ("layers.0.0.norm1", d),
        ("layers.0.0.norm2", d),
        ("layers.0.1.0", d),
    ):
        weights[f"{name}.weight"] = 1 + 0.2 * seeded(width, seed=80 + len(name))
        weights[f"{name}.bias"] = 0.2 * seeded(width, seed=90 + len(name))
    return weights


def make_layers(names: tuple[str, str], entries: int, in_dim: int, bias: bool, seed: int) -> Weights:
    weights = {}
    for entry in range(entries):
        for i, name in enumerate(names):
            weights[f"{entry}.{name}.weight"] = seeded(DIM, in_dim, seed=seed + 10 * entry + i) / in_dim**0.5
            if bias:
                weights[f"{entry}.{name}.bias"] = 0.5 * seeded(DIM, seed=seed + 10 * entry + 5 + i)
    return weights


@pytest.fixture(scope="module")
def odd_base(bench: WanBench) -> Any:
    return bench.make_base(DIM, NUM_BLOCKS, "wan_odd_size.safetensors")


@pytest.fixture(scope="module", params=["full", "lite"])
def files(request: pytest.FixtureRequest, bench: WanBench) -> dict[str, Weights]:
    """Adapter files of the odd sizes, written under models/lynx; lite has no bias, registers or reference."""
    is_full = request.param == "full"
    parts = {
        "resampler": make_resampler(TOKEN_DIM),
        "ip_layers": make_layers(("to_k_ip", "to_v_ip"), 3 if is_full else 2, TOKEN_DIM, is_full, 100),
    }
    if is_full:
        for block in range(NUM_BLOCKS):
            parts["ip_layers"][f"{block}.registers"] = seeded(1, NUM_REGISTERS, TOKEN_DIM, seed=150 + block)
        parts["ref_layers"] = make_layers(("to_k_ref", "to_v_ref"), NUM_BLOCKS, DIM, True, 200)
    folder = bench.comfy.base_dir / "models" / "lynx" / f"odd_{request.param}"
    folder.mkdir()
    for name, weights in parts.items():
        save_file(weights, str(folder / f"{name}.safetensors"))
    return {"folder": folder, **parts}


def rms_norm(x: Tensor, weight: Tensor | float, eps: float) -> Tensor:
    return x / (x.pow(2).mean(-1, keepdim=True) + eps).sqrt() * weight


def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    heads = []
    for q, k, v in zip(
        query.split(HEAD_DIM, -1), key.split(HEAD_DIM, -1), value.split(HEAD_DIM, -1), strict=True
    ):
        heads.append(torch.softmax(q @ k.transpose(1, 2) / HEAD_DIM**0.5, -1) @ v)
    return torch.cat(heads, -1)


def rotate(x: Tensor, freqs: Tensor) -> Tensor:
    from comfy.ldm.flux.math import apply_rope1

    return apply_rope1(x.unflatten(-1, (-1, HEAD_DIM)), freqs).flatten(2)


def layer_norm(x: Tensor, weights: Weights, name: str) -> Tensor:
    x = x - x.mean(-1, keepdim=True)
    return (
        x / (x.pow(2).mean(-1, keepdim=True) + 1e-5).sqrt() * weights[f"{name}.weight"]
        + weights[f"{name}.bias"]
    )


def resample(w: Weights, embedding: Tensor) -> Tensor:
    """The Perceiver Resampler with one layer and one head."""
    x = (embedding @ w["proj_in.weight"].T + w["proj_in.bias"])[None, None]
    latents = w["latents"]
    normed_x, normed = layer_norm(x, w, "layers.0.0.norm1"), layer_norm(latents, w, "layers.0.0.norm2")
    key, value = (torch.cat([normed_x, normed], 1) @ w["layers.0.0.to_kv.weight"].T).split(64, -1)
    weights = torch.softmax(normed @ w["layers.0.0.to_q.weight"].T @ key.transpose(1, 2) / 8, -1)
    latents = latents + weights @ value @ w["layers.0.0.to_out.weight"].T
    hidden = layer_norm(latents, w, "layers.0.1.0") @ w["layers.0.1.1.weight"].T
    latents = latents + torch.nn.functional.gelu(hidden) @ w["layers.0.1.3.weight"].T
    return layer_norm(latents @ w["proj_out.weight"].T + w["proj_out.bias"], w, "norm_out")


def record_features(base: Any, text: Tensor, latent: Tensor) -> list[Tensor]:
    """Run the bare network at timestep 0 and keep the input of each self-attention."""
    features: list[Tensor] = []
    network = base.model.diffusion_model
    hooks = [
        block.self_attn.register_forward_pre_hook(lambda _, args: features.append(args[0].clone()))
        for block in network.blocks
    ]
    with torch.inference_mode():
        network(base.model.process_latent_in(latent), torch.zeros(1), context=text)
    for hook in hooks:
        hook.remove()
    return features


def project(weights: Weights, name: str, x: Tensor) -> Tensor:
    return x @ weights[f"{name}.weight"].T + weights.get(f"{name}.bias", 0)


def write_out(
    base: Any, files: dict[str, Weights], tokens: Tensor, features: list[Tensor], scales: tuple[float, float]
) -> Any:
    """Give the base with both attentions written out, the adapters in them."""
    id_scale, ref_scale = scales
    is_lite = "ref_layers" not in files

    def make_self_attention(block: int) -> Callable[..., Tensor]:
        def forward(self: Any, x: Tensor, freqs: Tensor, **_: Any) -> Tensor:
            query, key = (
                rms_norm(part(x), norm.weight, 1e-6)
                for part, norm in ((self.q, self.norm_q), (self.k, self.norm_k))
            )
            out = attend(rotate(query, freqs), rotate(key, freqs), self.v(x))
            if not is_lite:
                ref_key = rms_norm(
                    project(files["ref_layers"], f"{block}.to_k_ref", features[block]),
                    self.norm_k.weight,
                    1e-6,
                )
                ref_value = project(files["ref_layers"], f"{block}.to_v_ref", features[block])
                out = out + ref_scale * attend(query, ref_key, ref_value)
            return self.o(out)

        return forward

    def make_cross_attention(block: int) -> Callable[..., Tensor]:
        def forward(self: Any, x: Tensor, context: Tensor, **_: Any) -> Tensor:
            query, key = (
                rms_norm(self.q(x), self.norm_q.weight, 1e-6),
                rms_norm(self.k(context), self.norm_k.weight, 1e-6),
            )
            out = attend(query, key, self.v(context))
            entry = block // 2 if is_lite else block
            if not is_lite or block % 2 == 0:
                here = tokens if is_lite else torch.cat([tokens, files["ip_layers"][f"{entry}.registers"]], 1)
                id_key = project(files["ip_layers"], f"{entry}.to_k_ip", here)
                id_key = (
                    rms_norm(id_key, 1.0, 1e-5) if is_lite else rms_norm(id_key, self.norm_k.weight, 1e-6)
                )
                out = out + id_scale * attend(
                    query, id_key, project(files["ip_layers"], f"{entry}.to_v_ip", here)
                )
            return self.o(out)

        return forward

    model = base.clone()
    for block in range(NUM_BLOCKS):
        for name, forward in (
            ("self_attn", make_self_attention(block)),
            ("cross_attn", make_cross_attention(block)),
        ):
            path = f"diffusion_model.blocks.{block}.{name}"
            model.add_object_patch(f"{path}.forward", types.MethodType(forward, model.get_model_object(path)))
    return model


SCALES = (0.8, 0.6)


@pytest.fixture(scope="module")
def applied(
    bench: WanBench, odd_base: Any, files: dict[str, Any], prompt: Conditioning, negative: Conditioning
) -> Applied:
    """The pack's way: open, precompute, apply."""
    adapter = bench.open_adapter(files["folder"].name)
    reference = bench.make_reference(odd_base, adapter) if "ref_layers" in files else None
    inputs = {"adapter": adapter, "id": bench.make_id(), "reference": reference}
    return bench.apply(odd_base, prompt, negative, **inputs, id_strength=SCALES[0], ref_strength=SCALES[1])


@pytest.mark.parametrize("which", ["positive", "negative", "middle"])
@pytest.mark.parametrize("sigma", [0.95, 0.3])
def test_prediction_equals_the_plain_reference(
    bench: WanBench,
    odd_base: Any,
    files: dict[str, Any],
    applied: Applied,
    prompt: Conditioning,
    negative: Conditioning,
    which: str,
    sigma: float,
) -> None:
    """`negative` carries the null identity: resampler(zeros) and the features of the null image."""
    is_null = which == "negative"
    embedding = torch.zeros(512) if is_null else bench.make_id(recogniser=RECOGNISER).embedding
    latent = seeded(1, LATENT_CHANNELS, 1, 8, 8, seed=3000 if is_null else 2000)
    features = record_features(odd_base, bench.make_text(50)[0][0], latent)
    model = write_out(odd_base, files, resample(files["resampler"], embedding), features, SCALES)
    text = prompt if which == "positive" else negative
    x = seeded(1, LATENT_CHANNELS, 2, 6, 10, seed=5)
    (expected,) = bench.predict(model, [text], sigma, x)
    (got,) = bench.predict(applied.model, [getattr(applied, which)], sigma, x)
    assert max_error(got, expected) < 1e-5
    off = write_out(odd_base, files, resample(files["resampler"], embedding), features, (0.0, 0.0))
    (plain,) = bench.predict(odd_base, [text], sigma, x)
    assert max_error(bench.predict(off, [text], sigma, x)[0], plain) < 1e-5, "the reference itself"
    assert max_error(expected, plain) > 1e-2


def test_recorded_features_equal_the_bare_networks(bench: WanBench, odd_base: Any) -> None:
    expected = record_features(
        odd_base, bench.make_text(50)[0][0], seeded(1, LATENT_CHANNELS, 1, 8, 8, seed=2000)
    )
    got = bench.record_features(odd_base)
    assert len(expected) == len(got) == NUM_BLOCKS
    for block, features in enumerate(expected):
        assert max_error(got[block], features) < 1e-5


def test_the_files_are_what_the_test_thinks(files: dict[str, Any]) -> None:
    stored = load_file(str(files["folder"] / "ip_layers.safetensors"))
    assert all(torch.equal(stored[name], tensor) for name, tensor in files["ip_layers"].items())
