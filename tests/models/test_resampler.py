"""The Perceiver Resampler against a plain reference, and its widths read off published files."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from lynx_core.models.adapters import Resampler, ResamplerConfig, infer_resampler_config

CONFIG = ResamplerConfig(
    dim=48, depth=2, num_heads=3, num_queries=5, embedding_dim=20, output_dim=36, ff_dim=96, head_dim=64
)


@pytest.fixture
def resampler() -> Resampler:
    torch.manual_seed(0)
    module = Resampler(CONFIG).eval().requires_grad_(False)
    for parameter in module.parameters():
        parameter.add_(0.1 * torch.randn_like(parameter))
    return module


def norm(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    x = x - x.mean(-1, keepdim=True)
    return x / (x.square().mean(-1, keepdim=True) + 1e-5).sqrt() * weight + bias


def resample_one(w: dict[str, Tensor], embedding: Tensor) -> Tensor:
    """One embedding [512] to tokens, head by head, without batches."""
    face = w["proj_in.weight"] @ embedding + w["proj_in.bias"]
    latents = w["latents"][0]
    for i in range(CONFIG.depth):
        a, f = f"layers.{i}.0.", f"layers.{i}.1."
        queries_in = norm(latents, w[a + "norm2.weight"], w[a + "norm2.bias"])
        seen = torch.cat([norm(face[None], w[a + "norm1.weight"], w[a + "norm1.bias"]), queries_in])
        to_k, to_v = w[a + "to_kv.weight"].chunk(2)
        heads = []
        for q, k, v in zip(w[a + "to_q.weight"].split(64), to_k.split(64), to_v.split(64), strict=True):
            scores = (queries_in @ q.T) @ (seen @ k.T).T / 64**0.5
            heads.append(scores.softmax(-1) @ (seen @ v.T))
        latents = latents + torch.cat(heads, -1) @ w[a + "to_out.weight"].T
        hidden = norm(latents, w[f + "0.weight"], w[f + "0.bias"]) @ w[f + "1.weight"].T
        latents = latents + 0.5 * hidden * (1 + torch.erf(hidden / 2**0.5)) @ w[f + "3.weight"].T
    return norm(
        latents @ w["proj_out.weight"].T + w["proj_out.bias"], w["norm_out.weight"], w["norm_out.bias"]
    )


def test_equals_the_plain_reference(resampler: Resampler) -> None:
    embeddings = torch.randn(3, CONFIG.embedding_dim)
    tokens = resampler(embeddings)
    assert tokens.shape == (3, CONFIG.num_queries, CONFIG.output_dim)
    for got, embedding in zip(tokens, embeddings, strict=True):
        assert torch.allclose(got, resample_one(resampler.state_dict(), embedding), atol=1e-5)


def test_zeros_give_tokens_of_their_own(resampler: Resampler) -> None:
    """The null identity is what the network makes of zeros, and not zeros."""
    null = resampler(torch.zeros(1, CONFIG.embedding_dim))[0]
    assert torch.allclose(
        null, resample_one(resampler.state_dict(), torch.zeros(CONFIG.embedding_dim)), atol=1e-5
    )
    assert null.std() > 0.1


def test_widths_are_read_off_the_shapes(resampler: Resampler) -> None:
    shapes = {name: tuple(tensor.shape) for name, tensor in resampler.state_dict().items()}
    assert infer_resampler_config(shapes) == CONFIG


def test_the_published_sizes_have_the_published_names_and_shapes() -> None:
    config = ResamplerConfig(
        dim=1280, depth=4, num_heads=20, num_queries=16, embedding_dim=512, output_dim=5120, ff_dim=5120
    )
    with torch.device("meta"):
        shapes = {name: tuple(t.shape) for name, t in Resampler(config).state_dict().items()}
    assert shapes["latents"] == (1, 16, 1280)
    assert shapes["proj_in.weight"] == (1280, 512)
    assert shapes["proj_out.weight"] == (5120, 1280)
    assert shapes["layers.3.0.to_kv.weight"] == (2560, 1280)
    assert shapes["layers.3.1.1.weight"] == (5120, 1280)
    assert shapes["layers.3.1.3.weight"] == (1280, 5120)
    assert len(shapes) == 7 + 4 * 11


@pytest.mark.parametrize("name", ["dim", "depth", "num_heads", "head_dim"])
@pytest.mark.parametrize("value", [0, -1, 2.5])
def test_impossible_widths_are_refused(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=rf"{name}.*{value}"):
        ResamplerConfig(**{**vars(CONFIG), name: value})
