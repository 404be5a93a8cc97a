"""`comfy-lynx prepare` by two processes against one, and what a checkpoint holds up a step.

    OMP_NUM_THREADS=1 python benchmarks/preparation.py                  # 200 pictures of 320 px; 1 GB of checkpoint
    python benchmarks/preparation.py --pictures 100 --checkpoint-gb 0.5

Networks of random weights in the layout of the release. Wan's own VAE takes hundreds of times as long for a picture as
the default here, so what a process takes to start weighs far less there: `--vae-dim 32` is four times nearer to it.
The two ways of preparing are timed in turn, `--rounds` times, each in a process of its own, from reading the manifest
to the index; the start of the processes is part of it. On a busy machine two processes cannot have two cores: two plain
processes that spin are timed beside them, and say what the machine gives. Aims: 1.7 times (or what the plain processes
give), a stall of 10 % of the write.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import shutil
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import numpy as np
import torch
from PIL import Image

from lynx_core.data import prepare
from lynx_core.data.manifest import KINDS, read_manifest
from lynx_core.data.media.decoding import DecodingConfig
from lynx_core.training.checkpoint import CheckpointFolder
from lynx_core.training.checkpoint_writer import CheckpointWriter

REPO = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(REPO / "tests" / folder) for folder in ("data", "host")]
MIN_RATIO, MAX_STALL = 1.7, 0.10
_SIDE_PX = 320


def write_set(folder: Path, num_pictures: int, vae_dim: int) -> None:
    """Pictures, each with a face crop of its own, their manifest, and the networks."""
    from small_encoders import save_small_models

    rng = np.random.default_rng(0)
    rows = []
    for number in range(num_pictures):
        for name, side in ((f"{number}.png", _SIDE_PX), (f"face{number}.png", 256)):
            Image.fromarray(rng.integers(0, 256, (side, side, 3), np.uint8)).save(folder / name)
        rows.append(
            {"id": str(number), "target": f"{number}.png", "references": [f"face{number}.png"], "caption": "a man", "kind": KINDS[0]}
        )  # fmt: skip
    (folder / "pairs.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
    save_small_models(folder / "models", vae_dim=vae_dim)


def prepare_once(folder: Path, count: int) -> None:
    """Prepare into an empty cache."""
    from small_encoders import make_small_encoders

    prepare._MIN_PAIRS = 1
    cache = folder / f"cache{count}"
    prepare.prepare_dataset(
        read_manifest(folder / "pairs.jsonl"),
        cache,
        make_small_encoders(folder / "models"),
        None,
        DecodingConfig(max_px=_SIDE_PX**2),
        workers=prepare.WorkerConfig(count),
    )
    shutil.rmtree(cache)


def spin(seconds: float) -> None:
    """So much of one core."""
    until = time.process_time() + seconds
    while time.process_time() < until:
        pass


def time_apart(target: object, *arguments: object, count: int = 1) -> float:
    """Wall time of processes that each do the same."""
    context = multiprocessing.get_context("spawn")
    start = time.perf_counter()
    processes = [context.Process(target=target, args=arguments) for _ in range(count)]  # type: ignore[arg-type]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
        assert process.exitcode == 0
    return time.perf_counter() - start


class OneProcess:
    """What a checkpoint writer needs to know of a run of one."""

    rank, world_size, is_main, checkpoint_group = 0, 1, True, None

    def gather(self, value: object) -> list[object]:
        return [value]


def measure_stall(folder: Path, gigabytes: float) -> tuple[float, float]:
    """Seconds that a step waits for a checkpoint, and seconds until it lies on the disk."""
    count = int(gigabytes * 1e9 / 4 / 8)
    tensors = {f"weights/{number}": torch.randn(count) for number in range(8)}
    writer = CheckpointWriter(CheckpointFolder(folder, 1, 0), OneProcess())  # type: ignore[arg-type]
    stalls, writes = [], []
    for step in range(1, 4):
        start = time.perf_counter()
        writer.begin({"step": step, "cursors": {}}, tensors)
        stalls.append(time.perf_counter() - start)
        writer.finish()
        writes.append(time.perf_counter() - start)
    writer.close()
    return median(stalls), median(writes)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--pictures", type=int, default=200)
    parser.add_argument("--vae-dim", type=int, default=4, help="width of the VAE; Wan's has 96")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--checkpoint-gb", type=float, default=1.0)
    arguments = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="lynx-prepare-"))
    try:
        stall, write = measure_stall(folder / "run", arguments.checkpoint_gb)
        print(
            f"checkpoint of {arguments.checkpoint_gb} GB: a step waits {stall:.2f} s, written in {write:.2f} s: "
            f"{stall / write:.1%}",
            flush=True,
        )
        shutil.rmtree(folder / "run")
        write_set(folder, arguments.pictures, arguments.vae_dim)
        ratios, given = [], []
        for _ in range(arguments.rounds):
            one, two = (time_apart(prepare_once, folder, count) for count in (1, 2))
            alone, beside = (time_apart(spin, 2.0, count=count) for count in (1, 2))
            ratios.append(one / two)
            given.append(2 * alone / beside)
            print(
                f"one process {one:.1f} s, two {two:.1f} s: {one / two:.2f} x; plain processes {given[-1]:.2f} x"
            )
        print(f"median {median(ratios):.2f} x, plain processes {median(given):.2f} x")
        is_fast = median(ratios) >= min(MIN_RATIO, 0.85 * median(given))
        return int(not is_fast or stall / write > MAX_STALL)
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    sys.exit(main())
