"""Packing on a mixed image and video workload: fill, imbalance, and the price of planning.

    python benchmarks/packing.py                   # one epoch of 1,000,000 samples
    python benchmarks/packing.py --samples 20000

Compared on the same data by fill: one sample per step, and aspect-ratio buckets as the usual
trainers build them (same frames, height and width in a batch, as many as the budget takes). Ends 1
when the fill is under 97 %, or planning 1,000,000 samples takes 20 s or 1 GB.
"""

from __future__ import annotations

import argparse
import resource
import sys
import time

import numpy as np

from lynx_core.training.packing import PackingConfig, fit_to_budget, plan_epoch

MIN_FILL = 0.97
MAX_SECONDS, MAX_GB, FULL_SIZE = 20.0, 1.0, 1_000_000
ASPECTS = ((1, 1), (9, 16), (16, 9))
SHORT_SIDES_PX = range(240, 481, 16)


def generate_shapes(num_samples: int, images: float, seed: int) -> np.ndarray:
    """Latent shapes [n, 3]: aspects 1:1, 9:16, 16:9, 240p to 480p, images and clips of 5 to 81 frames."""
    rng = np.random.default_rng(seed)
    latent_frames = np.where(rng.random(num_samples) < images, 1, rng.integers(2, 22, num_samples))
    short = rng.choice(np.array(SHORT_SIDES_PX), num_samples)
    width_parts, height_parts = np.array(ASPECTS)[rng.integers(len(ASPECTS), size=num_samples)].T
    unit = short / np.minimum(width_parts, height_parts)
    height, width = (
        np.round(unit * parts / 16).astype(np.int64) * 2 for parts in (height_parts, width_parts)
    )
    return np.stack([latent_frames, height, width], axis=1)


def measure_bucket_fill(shapes: np.ndarray, lengths: np.ndarray, budget: int) -> tuple[float, int]:
    """Fill and number of steps when a batch holds samples of one shape only."""
    _, first, counts = np.unique(shapes, axis=0, return_index=True, return_counts=True)
    per_batch = np.maximum(budget // lengths[first], 1)
    steps = int(np.ceil(counts / per_batch).sum())
    return float(lengths.sum() / (steps * budget)), steps


def measure_peak_gb() -> float:
    """The most memory this process has held."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--samples", type=int, default=FULL_SIZE)
    parser.add_argument("--images", type=float, default=0.3, help="share of images, 0 to 1")
    parser.add_argument("--ranks", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()

    config = PackingConfig()
    shapes = generate_shapes(arguments.samples, arguments.images, arguments.seed)
    lengths = fit_to_budget(shapes, config).lengths
    before_gb, start = measure_peak_gb(), time.perf_counter()
    plan = plan_epoch(lengths, config, seed=arguments.seed, epoch=0, packs_per_step=arguments.ranks)
    seconds, grown_gb = time.perf_counter() - start, measure_peak_gb() - before_gb

    bucket_fill, bucket_steps = measure_bucket_fill(shapes, lengths, config.max_tokens)
    alone = float(lengths.mean() / config.max_tokens)
    packed = plan.report
    print(f"{len(lengths)} samples, {arguments.images:.0%} images, {lengths.mean():.0f} tokens on average")
    print(f"{'':28}{'fill':>8}{'sequences':>12}{'ours':>8}")
    for name, fill, count in (
        ("one sample per step", alone, len(lengths)),
        ("aspect-ratio buckets", bucket_fill, bucket_steps),
        ("packed", packed.fill, packed.num_packs),
    ):
        print(f"{name:28}{fill:>8.1%}{count:>12}{packed.fill / fill:>7.2f}x")
    print(f"slowest of {arguments.ranks} ranks: {packed.imbalance:.4f} of the mean")
    print(
        f"planning: {seconds:.1f} s, {grown_gb:.2f} GB more at the peak ({measure_peak_gb():.2f} GB in all)"
    )
    too_dear = arguments.samples <= FULL_SIZE and (seconds > MAX_SECONDS or measure_peak_gb() > MAX_GB)
    return int(packed.fill < MIN_FILL or too_dear)


if __name__ == "__main__":
    sys.exit(main())
