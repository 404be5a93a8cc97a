"""Tokens a second of training steps: packed, one sample a step, and aspect-ratio buckets, in one run.

    OMP_NUM_THREADS=1 python benchmarks/training_step.py     # small shape, on a CPU that others use
    python benchmarks/training_step.py --shape 14b --mfu     # the 14B's blocks, random bf16 weights, GPU

All three ways run the same samples through the same packed forward and backward (a batch of equal
shapes is a pack as well), with gradients for the full adapter. `--mfu` adds one step of 33,600 tokens
against the measured matmul rate of the same device. FLOPs counted: the model's, forward and backward
to the inputs; recomputation by checkpointing is not counted as useful. Ends 1 when packing is
less than 1.5 times as fast as either other way on a GPU.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from packing import generate_shapes

from lynx_core.models.adapter_modules import AdapterModules, configure_variant
from lynx_core.models.packed_wan import PackedInputs, PackedWan
from lynx_core.models.segment_attention import choose_backend
from lynx_core.training.packing import PackingConfig, fit_to_budget, plan_epoch

MIN_RATIO = 1.5
ROUNDS = 2
LONG_CLIP = (21, 80, 80)
"""Latents of 81 frames of 640x640: 33,600 tokens."""


@dataclass(frozen=True)
class Shape:
    """Size of the base; `num_blocks` of the 14B's 40 are enough to time one."""

    num_heads: int
    ff_dim: int
    num_blocks: int
    text_dim: int

    @property
    def dim(self) -> int:
        return 128 * self.num_heads


SHAPES = {"small": Shape(2, 512, 2, 64), "14b": Shape(40, 13824, 40, 4096)}


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


def run_pack(base: PackedWan, adapter: AdapterModules, shapes: np.ndarray, text_dim: int) -> None:
    """Forward and backward of one pack of random samples."""
    device = next(adapter.parameters()).device
    count = len(shapes)
    inputs = PackedInputs(
        latents=[torch.randn(16, *(int(side) for side in sides), device=device) for sides in shapes],
        timesteps=torch.full((count,), 500.0, device=device),
        texts=[torch.randn(40, text_dim, device=device)] * count,
        embeddings=torch.nn.functional.normalize(torch.randn(count, 512, device=device)),
        reference_latents=[torch.randn(16, 1, 32, 32, device=device)] * count,
        reference_text=torch.randn(6, text_dim, device=device),
    )
    loss = torch.stack([velocity.float().square().mean() for velocity in base(inputs, adapter)]).sum()
    loss.backward()
    adapter.zero_grad(set_to_none=True)


def time_packs(base: PackedWan, adapter: AdapterModules, packs: Sequence[np.ndarray], text_dim: int) -> float:
    """Seconds for all packs."""
    _wait()
    start = time.perf_counter()
    for shapes in packs:
        run_pack(base, adapter, shapes, text_dim)
    _wait()
    return time.perf_counter() - start


def make_buckets(shapes: np.ndarray, lengths: np.ndarray, budget: int) -> list[np.ndarray]:
    """Batches of one shape each, as many samples as the budget takes."""
    batches = []
    for sides in np.unique(shapes, axis=0):
        members = np.flatnonzero((shapes == sides).all(axis=1))
        size = max(1, budget // int(lengths[members[0]]))
        batches += [shapes[members[i : i + size]] for i in range(0, len(members), size)]
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


def compare(base: PackedWan, adapter: AdapterModules, shape: Shape, samples: int, budget: int) -> bool:
    """Time the three ways; gives whether packing is fast enough."""
    shapes = generate_shapes(samples, 0.3, seed=0)
    config = PackingConfig(budget=budget, oversize="trim", model_dim=shape.dim)
    lengths = fit_to_budget(shapes, config).lengths
    shapes[:, 0] = lengths // ((shapes[:, 1] // 2) * (shapes[:, 2] // 2))
    plan = plan_epoch(lengths, config, seed=0, epoch=0, world_size=1)
    ways = {
        "packed": [shapes[plan.pack(step, 0)] for step in range(len(plan))],
        "one sample a step": [sides[None] for sides in shapes],
        "buckets": make_buckets(shapes, lengths, budget),
    }
    run_pack(base, adapter, shapes[:1], shape.text_dim)
    rates = {}
    times = {name: float("inf") for name in ways}
    for _ in range(ROUNDS):  # in turns, so that a busy moment does not fall on one way alone
        for name, packs in ways.items():
            times[name] = min(times[name], time_packs(base, adapter, packs, shape.text_dim))
    for name, packs in ways.items():
        seconds = times[name]
        rates[name] = lengths.sum() / seconds
        fill = lengths.sum() / (len(packs) * budget)
        print(
            f"{name:18} {len(packs):5} steps, fill {fill:5.1%}, {rates[name]:9.0f} tokens/s, {seconds:.1f} s"
        )
    ratios = {name: rates["packed"] / rate for name, rate in rates.items() if name != "packed"}
    print(", ".join(f"{ratio:.2f} x {name}" for name, ratio in ratios.items()))
    return min(ratios.values()) >= MIN_RATIO


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", choices=SHAPES, default="small")
    parser.add_argument("--blocks", type=int, help="blocks of the base, if not all")
    parser.add_argument("--samples", type=int, default=60)
    parser.add_argument("--budget", type=int, default=33_600)
    parser.add_argument("--mfu", action="store_true")
    arguments = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    shape = SHAPES[arguments.shape]
    if arguments.blocks:
        shape = Shape(shape.num_heads, shape.ff_dim, arguments.blocks, shape.text_dim)
    base, adapter = build(shape, device, dtype)
    print(f"{device}, {dtype}, width {shape.dim}, {shape.num_blocks} blocks, attention {base.backend}")
    is_fast = compare(base, adapter, shape, arguments.samples, arguments.budget)
    if arguments.mfu:
        clip = np.array([LONG_CLIP])
        run_pack(base, adapter, clip, shape.text_dim)
        seconds = time_packs(base, adapter, [clip], shape.text_dim)
        rate = measure_matmul_rate(device, dtype, 8192 if device.type == "cuda" else 1024)
        useful = count_flops(33_600, shape) / seconds
        print(
            f"33,600 tokens: {seconds:.2f} s, {useful / 1e12:.1f} TFLOP/s of {rate / 1e12:.1f} in matmul, MFU {useful / rate:.0%}"
        )
    return 0 if is_fast or device.type == "cpu" else 1


if __name__ == "__main__":
    sys.exit(main())
