"""Tokens a second of training: packed, one sample a step, and aspect-ratio buckets, in one run.

    OMP_NUM_THREADS=1 python benchmarks/training_step.py     # small shape, on a CPU
    python benchmarks/training_step.py --shape 14b --mfu     # the 14B's blocks, random bf16 weights, GPU

All ways run the same samples through the same packed forward and backward (a batch of equal
shapes is a pack as well), with gradients for the full adapter. Every pack is timed by itself; a step
of `--ranks` processes takes as long as its slowest pack, since all wait for the gradients. The small
shape scales lengths with the width, so that attention and linear layers share the work as in the
14B. `--mfu` adds one step of 33,600 tokens against the measured matmul rate of the same device.
FLOPs counted: the model's, forward and backward to the inputs; recomputation by checkpointing is not
counted as useful.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass, replace

import numpy as np
import torch
from packing import generate_shapes

from lynx_core.models.adapter_configs import configure_variant
from lynx_core.models.adapter_modules import AdapterModules
from lynx_core.models.packed_wan import PackedInputs, PackedWan
from lynx_core.models.segment_attention import choose_backend
from lynx_core.training.packing import PackingConfig, fit_to_budget, plan_epoch

LONG_CLIP = (21, 80, 80)
"""Latents of 81 frames of 640x640: 33,600 tokens."""


@dataclass(frozen=True)
class Shape:
    """Size of the base, and by how much the sides of pictures are divided for it."""

    num_heads: int
    ff_dim: int
    num_blocks: int
    text_dim: int
    shrink: int

    @property
    def dim(self) -> int:
        return 128 * self.num_heads


SHAPES = {"small": Shape(2, 692, 1, 64, shrink=4), "14b": Shape(40, 13824, 40, 4096, shrink=1)}


def build(shape: Shape, device: torch.device, dtype: torch.dtype) -> tuple[PackedWan, AdapterModules]:
    """A random base and a fresh full adapter."""
    from diffusers import WanTransformer3DModel

    torch.manual_seed(0)
    default = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    with torch.device(device):
        transformer = WanTransformer3DModel(
            num_attention_heads=shape.num_heads,
            text_dim=shape.text_dim,
            ffn_dim=shape.ff_dim,
            num_layers=shape.num_blocks,
        )
    torch.set_default_dtype(default)
    # Made anew: diffusers builds it in float64, and the default dtype would have rounded it.
    with torch.device(device):
        transformer.rope = type(transformer.rope)(128, (1, 2, 2), 1024)
    base = PackedWan(transformer, choose_backend(device, dtype), gradient_checkpointing=True)
    adapter = AdapterModules.create(configure_variant("full", shape.dim, shape.num_blocks), 0)
    return base, adapter.to(device)


def run_pack(base: PackedWan, adapter: AdapterModules, shapes: np.ndarray, shape: Shape) -> None:
    """Forward and backward of one pack of random samples."""
    text_dim, face_side = shape.text_dim, 32 // shape.shrink
    device = next(adapter.parameters()).device
    count = len(shapes)
    inputs = PackedInputs(
        latents=[torch.randn(16, *(int(side) for side in sides), device=device) for sides in shapes],
        timesteps=torch.full((count,), 500.0, device=device),
        texts=[torch.randn(40, text_dim, device=device)] * count,
        embeddings=torch.nn.functional.normalize(torch.randn(count, 512, device=device)),
        reference_latents=[torch.randn(16, 1, face_side, face_side, device=device)] * count,
        reference_text=torch.randn(6, text_dim, device=device),
    )
    loss = torch.stack([velocity.float().square().mean() for velocity in base(inputs, adapter)]).sum()
    loss.backward()
    adapter.zero_grad(set_to_none=True)


def time_pack(base: PackedWan, adapter: AdapterModules, shapes: np.ndarray, shape: Shape) -> float:
    """Seconds of one pack."""
    _wait()
    start = time.perf_counter()
    run_pack(base, adapter, shapes, shape)
    _wait()
    return time.perf_counter() - start


def make_buckets(shapes: np.ndarray, lengths: np.ndarray, budget: int) -> list[np.ndarray]:
    """Batches of samples of one shape each, as many as the budget takes."""
    batches = []
    for sides in np.unique(shapes, axis=0):
        members = np.flatnonzero((shapes == sides).all(axis=1))
        size = max(1, budget // int(lengths[members[0]]))
        batches += [members[i : i + size] for i in range(0, len(members), size)]
    return batches


def measure_matmul_rate(device: torch.device, dtype: torch.dtype, size: int) -> float:
    """FLOP/s of a square matmul."""
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    a @ b
    _wait()
    start = time.perf_counter()
    for _ in range(10):
        a @ b
    _wait()
    return 10 * 2 * size**3 / (time.perf_counter() - start)


def count_flops(tokens: int, shape: Shape) -> float:
    """Useful FLOPs of one step: forward, and backward to the inputs only, since the base is frozen."""
    linear = 2 * tokens * (6 * shape.dim**2 + 2 * shape.dim * shape.ff_dim)
    attention = 4 * tokens * (tokens + 512 + 256 + 32) * shape.dim
    # Backward: as much as the forward for linear layers, twice as much for attention.
    return shape.num_blocks * (2 * linear + 3 * attention)


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def deal_out(packs: list[np.ndarray], ranks: int) -> list[list[np.ndarray]]:
    """Deal shuffled packs out to the ranks, step by step; an incomplete last step is left out."""
    order = np.random.default_rng(0).permutation(len(packs))
    return [[packs[i] for i in order[k : k + ranks]] for k in range(0, len(packs) - ranks + 1, ranks)]


def compare(base: PackedWan, adapter: AdapterModules, shape: Shape, samples: int, ranks: int) -> None:
    """Time the three ways and print tokens a second of each; packs are lists of sample numbers."""
    shapes = generate_shapes(samples, 0.3, seed=0)
    config = PackingConfig(oversize="trim", model_dim=shape.dim * shape.shrink**2)
    lengths = fit_to_budget(shapes, config).lengths
    shapes[:, 0] = lengths // ((shapes[:, 1] // 2) * (shapes[:, 2] // 2))
    plan = plan_epoch(lengths, config, seed=0, epoch=0, packs_per_step=ranks)
    ways = {
        "packed": [
            [plan.pack(step * ranks + rank) for rank in range(ranks)] for step in range(len(plan) // ranks)
        ],
        "one sample a step": deal_out([np.array([i]) for i in range(samples)], ranks),
        "buckets": deal_out(make_buckets(shapes, lengths, config.max_tokens), ranks),
    }
    # Latent sides stay even: a token is 2 x 2 of them.
    shapes[:, 1:] = np.maximum(2, shapes[:, 1:] // shape.shrink // 2 * 2)
    run_pack(base, adapter, shapes[:1], shape)
    rates = {}
    for name, steps in ways.items():
        seconds = np.array(
            [[time_pack(base, adapter, shapes[pack], shape) for pack in step] for step in steps]
        )
        tokens = sum(int(lengths[pack].sum()) for step in steps for pack in step) / shape.shrink**2
        rates[name] = tokens / seconds.max(axis=1).sum()
        fill = tokens * shape.shrink**2 / (seconds.size * config.max_tokens)
        waiting = seconds.max(axis=1).sum() / seconds.mean(axis=1).sum()
        print(
            f"{name:18} {len(steps):4} steps, fill {fill:5.1%}, slowest over mean {waiting:.2f}, tokens/s of a "
            f"process: {tokens / seconds.sum():7.0f} alone, {rates[name] / ranks:7.0f} among {ranks}"
        )
    print(
        ", ".join(
            f"{rates['packed'] / rate:.2f} x {name}" for name, rate in rates.items() if name != "packed"
        )
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", choices=SHAPES, default="small")
    parser.add_argument("--blocks", type=int, help="blocks of the base, if not all")
    parser.add_argument("--samples", type=int, default=600)
    parser.add_argument("--ranks", type=int, default=8, help="processes that wait for each other")
    parser.add_argument("--mfu", action="store_true")
    arguments = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    shape = SHAPES[arguments.shape]
    if arguments.blocks:
        shape = replace(shape, num_blocks=arguments.blocks)
    base, adapter = build(shape, device, dtype)
    print(f"{device}, {dtype}, width {shape.dim}, {shape.num_blocks} blocks, attention {base.backend}")
    compare(base, adapter, shape, arguments.samples, arguments.ranks)
    if arguments.mfu:
        clip = np.array([LONG_CLIP])
        run_pack(base, adapter, clip, shape)
        seconds = time_pack(base, adapter, clip, shape)
        rate = measure_matmul_rate(device, dtype, 8192 if device.type == "cuda" else 1024)
        useful = count_flops(33_600, shape) / seconds
        print(
            f"33,600 tokens: {seconds:.2f} s, {useful / 1e12:.1f} TFLOP/s of {rate / 1e12:.1f} in matmul, MFU {useful / rate:.0%}"
        )


if __name__ == "__main__":
    main()
