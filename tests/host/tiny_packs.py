"""A tiny base, tiny adapters of every variant and samples of many sizes, for tests of packing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lynx_core.hashing import hash_tensors
from lynx_core.models.adapter_configs import configure_variant
from lynx_core.models.adapter_modules import AdapterModules
from lynx_core.models.packed_wan import PackedInputs, PackedWan
from lynx_core.spec import Variant

DIM, NUM_BLOCKS, TEXT_DIM = 256, 2, 32


@dataclass(frozen=True)
class TinySample:
    """One sample of a pack."""

    latent: Tensor
    timestep: float
    text: Tensor
    embedding: Tensor
    reference: Tensor | None


def make_transformer(seed: int = 0, num_blocks: int = NUM_BLOCKS, num_heads: int = 2) -> Any:
    """Make a random base of diffusers' own class: dim 256, by default 2 heads x 128."""
    from diffusers import WanTransformer3DModel

    torch.manual_seed(seed)
    return WanTransformer3DModel(
        num_attention_heads=num_heads,
        attention_head_dim=DIM // num_heads,
        text_dim=TEXT_DIM,
        freq_dim=64,
        ffn_dim=96,
        num_layers=num_blocks,
    )


def make_adapter(variant: Variant, seed: int = 1, zero_init: bool = False) -> AdapterModules:
    """Make a random adapter that fits the tiny base, loud enough to show in the output."""
    configs = configure_variant(
        variant, DIM, NUM_BLOCKS, lite_token_dim=192, resampler_dim=64, resampler_depth=1, resampler_heads=2
    )
    adapter = AdapterModules.create(configs, seed, zero_init=zero_init)
    if not zero_init:
        with torch.no_grad():
            for name, parameter in adapter.named_parameters():
                if ".to_" in name and parameter.ndim == 2:
                    parameter.mul_(3)
    return adapter


def make_samples(seed: int = 2) -> list[TinySample]:
    """Make four samples: image, video, one without a reference, one with null identity and grey reference."""
    random = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=random)

    def sample(size: tuple[int, int, int], timestep: float, text: int, face: int | None) -> TinySample:
        reference = draw(16, 1, face, face) if face else None
        embedding = torch.nn.functional.normalize(draw(512), dim=0)
        return TinySample(draw(16, *size), timestep, draw(text, TEXT_DIM), embedding, reference)

    samples = [
        sample((1, 4, 6), 37.0, 5, 4),
        sample((3, 6, 4), 911.5, 9, 6),
        sample((2, 2, 8), 500.0, 1, None),
    ]
    null = sample((1, 8, 2), 250.25, 7, None)
    grey = torch.full((16, 1, 4, 4), 0.1)
    return [*samples, TinySample(null.latent, null.timestep, null.text, torch.zeros(512), grey)]


def make_reference_text() -> Tensor:
    """Make the stand-in for the encoded prompt of the reference pass."""
    return torch.randn(4, TEXT_DIM, generator=torch.Generator().manual_seed(3))


def pack(samples: Sequence[TinySample]) -> PackedInputs:
    """Put samples in one pack."""
    return PackedInputs(
        latents=[sample.latent for sample in samples],
        timesteps=torch.tensor([sample.timestep for sample in samples]),
        texts=[sample.text for sample in samples],
        embeddings=torch.stack([sample.embedding for sample in samples]),
        reference_latents=[sample.reference for sample in samples],
        reference_text=make_reference_text(),
    )


def run_pack(
    wan: PackedWan, adapter: AdapterModules, samples: Sequence[TinySample]
) -> tuple[list[Tensor], list[dict[str, Tensor]]]:
    """Predict a pack; also the adapter gradients of each sample's own loss, by parameter name."""
    parameters = {name: p for name, p in adapter.named_parameters() if p.requires_grad}
    outputs = wan(pack(samples), adapter)
    gradients = []
    for output in outputs:
        loss = output.float().square().mean()
        found = torch.autograd.grad(loss, list(parameters.values()), retain_graph=True, allow_unused=True)
        gradients.append(
            {
                name: torch.zeros_like(parameters[name]) if gradient is None else gradient
                for name, gradient in zip(parameters, found, strict=True)
            }
        )
    return [output.detach() for output in outputs], gradients


def relative_error(found: Tensor, expected: Tensor) -> float:
    """Relative L2 error; absolute where nothing is expected."""
    scale = expected.double().norm()
    error = (found.double() - expected.double()).norm()
    return float((error / scale if scale else error).detach())


def flatten(gradients: dict[str, Tensor]) -> Tensor:
    """Lay all gradients end to end."""
    return torch.cat([gradients[name].flatten() for name in sorted(gradients)])


def hash_weights(module: torch.nn.Module) -> str:
    """Hash all weights and buffers, to the bit."""
    return hash_tensors({**dict(module.named_parameters()), **dict(module.named_buffers())})
