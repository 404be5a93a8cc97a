"""Memory that the pack takes, at the real size: `python benchmarks/memory.py`.

Keys and values of the full adapter with its null: at most 0.48 GB. Host memory while
computing keys and values: at most 1 GB above the base model. Adapter weights held while sampling: 0 bytes. The
adapter is a full-size one on the disk (8.6 GB, random), read by the pack's own code; the base
model's features, which the reference part is computed from, are random.
"""

from __future__ import annotations

import argparse
import gc
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from adapter_files import EMBEDDING_DIM, write_adapter
from host_model import DEFAULT_HOST, build_base, load_host, run_step
from peak_memory import PeakMemory, read_resident
from shapes import REF_TOKENS, SHAPES, Shape
from step_time import apply_adapter
from torch import Tensor, nn

from lynx_core.formats.adapter import Adapter, open_adapter
from lynx_core.models.kv_cache import KVCache, ReferenceKVBuilder, compute_id_kv

CPU = torch.device("cpu")
DTYPE = torch.bfloat16
MB, GB = 1e6, 1e9


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument(
        "--shape", choices=SHAPES, default="14b", help="of the adapter (default: %(default)s)"
    )
    parser.add_argument("--adapter-dir", type=Path, help="keep the adapter's files here and use them again")
    parser.add_argument("--comfyui", type=Path, default=DEFAULT_HOST, help="host (default: %(default)s)")
    return parser.parse_args()


def make_reference(adapter: Adapter, shape: Shape) -> KVCache:
    """Compute from random features, given block by block as the reference pass does."""
    builder = ReferenceKVBuilder(adapter, DTYPE)
    features = torch.randn(1, REF_TOKENS, shape.dim)
    for block in range(shape.num_blocks):
        builder.add_block(block, features)
    return builder.finish()


def measure_precompute(folder: Path, shape: Shape) -> None:
    """Precompute ID and reference, face and null, all kept; print memory and time of each."""
    before_all = read_resident()[0]
    adapter = open_adapter(folder)
    print(f"opening the adapter: {(read_resident()[0] - before_all) / MB:.1f} MB")
    face = nn.functional.normalize(torch.randn(EMBEDDING_DIM), dim=0)
    stages: dict[str, Callable[[], KVCache]] = {
        "ID, null": lambda: compute_id_kv(adapter, torch.zeros(EMBEDDING_DIM), CPU, DTYPE),
        "ID, face": lambda: compute_id_kv(adapter, face, CPU, DTYPE),
        "reference, null": lambda: make_reference(adapter, shape),
        "reference, face": lambda: make_reference(adapter, shape),
    }
    kept: dict[str, KVCache] = {}
    highest = 0
    for name, compute in stages.items():
        before, start = read_resident()[0], time.perf_counter()
        with PeakMemory(CPU) as peak:
            kept[name] = compute()
        highest = max(highest, before + peak.anonymous - before_all)
        print(
            f"{name:16s} kept {kept[name].count_bytes():>11,} bytes, anonymous peak "
            f"{peak.anonymous / MB:6.1f} MB, mapped file pages {peak.files / MB:7.1f} MB, "
            f"{time.perf_counter() - start:6.1f} s",
            flush=True,
        )
    total = sum(kv_cache.count_bytes() for kv_cache in kept.values())
    print(f"keys and values with the null          {total:,} bytes = {total / GB:.4f} GB (at most 0.48)")
    print(f"peak host memory while computing, all kept      {highest / GB:.3f} GB (at most 1)")


def sum_storages(tensors: Iterable[Tensor]) -> int:
    """Bytes of the tensors' storages, each counted once."""
    storages = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in tensors}
    return sum(storages.values())


def measure_sampling(pack: Any, folder: Path, shape: Shape) -> None:
    """Look in the middle of a model call for what is alive of the adapter."""
    base = build_base(shape, CPU, torch.float32)
    applied = apply_adapter(pack, base, folder, CPU)
    adapter_types = tuple(
        getattr(pack.pack_module(f"lynx_core.models.{module}"), name)
        for module, name in (
            ("adapters", "Resampler"), ("adapters", "IDAdapterLayer"), ("adapters", "RefAdapterLayer"),
        )
    )  # fmt: skip
    alive: list[nn.Module] = []

    def look(*_: Any) -> None:
        gc.collect()
        # `type`, because `isinstance` wakes objects that load lazily.
        alive.extend(x for x in gc.get_objects() if type(x) in adapter_types)
        tensors = [x for x in gc.get_objects() if issubclass(type(x), Tensor)]
        known = {t.untyped_storage().data_ptr() for t in [*base.model.parameters(), *kv_tensors()]}
        others = [t for t in tensors if t.device == CPU and t.untyped_storage().data_ptr() not in known]
        widest = max(sum_storages([t]) for t in others)
        print(
            f"alive in a model call: base model {sum_storages(base.model.parameters()) / MB:.1f} MB, precomputed keys and "
            f"values {sum_storages(kv_tensors()) / MB:.1f} MB, everything else {sum_storages(others) / MB:.1f} MB "
            f"(largest {widest / MB:.2f} MB); the adapter's file {file_bytes / MB:.1f} MB"
        )

    def kv_tensors() -> list[Tensor]:
        conds = (*applied.positive, *applied.negative)
        injections = [
            injection for _, options in conds for injection in options["model_conds"]["lynx"].injections
        ]
        return [tensor for injection in injections for tensor in injection.kv.kv_cache.parameters()]

    file_bytes = sum(file.stat().st_size for file in folder.iterdir())
    last = base.model.diffusion_model.blocks[-1].ffn
    handle = last.register_forward_hook(look)
    latent = torch.randn(shape.latent)
    run_step(applied.model, [applied.positive, applied.negative], latent, CPU)
    handle.remove()
    held = sum_storages(p for module in alive for p in module.parameters())
    print(f"adapter weights held while sampling          {held} bytes, in {len(alive)} modules (at most 0)")


def main() -> None:
    arguments = parse_arguments()
    shape = SHAPES[arguments.shape]
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as temporary, torch.inference_mode():
        folder = arguments.adapter_dir or Path(temporary) / "adapter"
        print(f"Precomputing: {shape}, {DTYPE}, on the CPU", flush=True)
        measure_precompute(write_adapter(folder, shape.dim, shape.num_blocks), shape)
        small = SHAPES["tiny"]
        print(f"Sampling: {small}", flush=True)
        pack = load_host(arguments.comfyui, Path(temporary) / "host", CPU)
        measure_sampling(pack, write_adapter(Path(temporary) / "small", small.dim, small.num_blocks), small)


if __name__ == "__main__":
    main()
