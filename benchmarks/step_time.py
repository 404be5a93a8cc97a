"""Time of a patched model's step against the same model unpatched: `python benchmarks/step_time.py`.

Both run in one process, in turn, through the host's own sampling code; the adapter is a full
one, read from files, precomputed and applied by the pack's own code. The ratio is what to look at:
at most 1.05 on a CPU, 1.02 is aimed for on a GPU.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import torch
from adapter_files import write_adapter
from host_model import DEFAULT_HOST, Step, build_base, load_host, make_text, run_step, synchronise
from shapes import SHAPES, Shape

from lynx_core.spec import EMBEDDING_DIM, null_embedding

T = TypeVar("T")
REFERENCE_LATENT = (1, 16, 1, 32, 32)
"""A 256 px face."""

MB = 1e6


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--device", default="cpu", help="cpu, cuda or cuda:N (default: cpu)")
    parser.add_argument("--shape", choices=SHAPES, help="default: narrow on a CPU, 14b on a GPU")
    parser.add_argument(
        "--dtype", choices=("float32", "bfloat16"), help="default: float32 on a CPU, bfloat16 on a GPU"
    )
    parser.add_argument("--pairs", type=int, default=5, help="measured pairs of steps (default: 5)")
    parser.add_argument(
        "--predictions",
        type=int,
        choices=(1, 2, 3),
        default=1,
        help="in one batch: 1 prompt, 2 and negative, 3 and middle (default: 1)",
    )
    parser.add_argument("--adapter-dir", type=Path, help="keep the adapter's files here and use them again")
    parser.add_argument("--comfyui", type=Path, default=DEFAULT_HOST, help="host (default: %(default)s)")
    return parser.parse_args()


def measure(what: str, device: torch.device, function: Callable[[], T]) -> T:
    """Run a function once and print how long it took."""
    synchronise(device)
    start = time.perf_counter()
    result = function()
    synchronise(device)
    print(f"{what:44s} {time.perf_counter() - start:8.2f} s", flush=True)
    return result


def apply_adapter(pack: Any, model: Any, folder: Path, device: torch.device) -> Any:
    """Precompute a random face and its null through the model and apply both (`AppliedIdentity`)."""
    application, reference_pass = (
        pack.pack_module(f"nodes.host.{name}") for name in ("application", "reference_pass")
    )
    adapter = pack.pack_module("lynx_core.formats.adapter").open_adapter(folder)
    dtype = model.model.get_dtype_inference()
    embedding = torch.nn.functional.normalize(torch.randn(EMBEDDING_DIM), dim=0)
    measure("precompute ID, null", device, lambda: application.get_id_kv(adapter, null_embedding(), dtype))
    measure("precompute ID, face", device, lambda: application.get_id_kv(adapter, embedding, dtype))

    null, face = torch.zeros(REFERENCE_LATENT), torch.randn(REFERENCE_LATENT)
    text = make_text(seed=9)
    checksum = pack.pack_module("nodes.host.base_model").describe_base(model).checksum
    measure(
        "precompute reference, null (with the model's load)",
        device,
        lambda: reference_pass.get_null_kv(model, adapter, text, null, checksum),
    )
    reference = measure(
        "precompute reference, face",
        device,
        lambda: reference_pass.make_reference(model, adapter, text, face, null),
    )
    parts = [reference.face, reference.null]
    print(f"cached reference keys and values, with null   {sum_bytes(parts) / MB:8.1f} MB")
    return application.apply_identity(
        model,
        make_text(seed=1),
        make_text(seed=2),
        adapter,
        pack.pack_module("nodes.host.identity").FaceID(embedding, adapter.recogniser),
        reference,
        pack.pack_module("nodes.presets").PRESETS["as published"],
    )


def sum_bytes(parts: list[Any]) -> int:
    return sum(part.kv_cache.count_bytes() for part in parts)


def run_pairs(
    base: Any, applied: Any, shape: Shape, device: torch.device, predictions: int, pairs: int
) -> list[tuple[Step, Step]]:
    """Measure steps without and with the adapter in turn, after one of each to warm up."""
    latent = torch.randn(shape.latent, generator=torch.Generator().manual_seed(0))
    with_id = [applied.positive, applied.negative, applied.middle][:predictions]
    without = [make_text(seed) for seed in (1, 2, 2)][:predictions]
    found = []
    for pair in range(pairs + 1):
        plain = run_step(base, without, latent, device)
        patched = run_step(applied.model, with_id, latent, device)
        if pair:
            found.append((plain, patched))
            print(
                f"pair {pair}: {plain.seconds:.3f} s without, {patched.seconds:.3f} s with, "
                f"ratio {patched.seconds / plain.seconds:.4f}",
                flush=True,
            )
    return found


class HookClock:
    """Adds up the processor time inside the pack's hooks: their share of a step, hardly disturbed by noise."""

    def __init__(self, pack: Any) -> None:
        self.cpu_seconds = 0.0
        hook_type = pack.pack_module("nodes.host.attention_hooks").AttentionHook
        for name in ("inject_query", "add_residual"):
            setattr(hook_type, name, self.time_calls(getattr(hook_type, name)))

    def time_calls(self, method: Callable[..., Any]) -> Callable[..., Any]:
        def timed(hook: Any, x: torch.Tensor, call: Any) -> Any:
            start = time.process_time()
            result = method(hook, x, call)
            self.cpu_seconds += time.process_time() - start
            return result

        return timed


def print_ratio(what: str, found: list[tuple[Step, Step]], read: Callable[[Step], float]) -> None:
    ratios = [read(b) / read(a) for a, b in found]
    without, with_id = (statistics.median(read(pair[i]) for pair in found) for i in (0, 1))
    print(
        f"{what:24s} {without:9.3f} s without, {with_id:9.3f} s with; ratio, median of {len(ratios)} pairs "
        f"{statistics.median(ratios):.4f} ({min(ratios):.4f} to {max(ratios):.4f})"
    )


def report(found: list[tuple[Step, Step]], is_gpu: bool) -> None:
    """Print medians, and that the adapter had an effect at all."""
    print_ratio("step, wall clock", found, lambda step: step.seconds)
    if not is_gpu:
        print_ratio("step, processor time", found, lambda step: step.cpu_seconds)
    peaks = [statistics.median(pair[i].peak_bytes for pair in found) / MB for i in (0, 1)]
    print(
        f"peak memory of a step    {peaks[0]:9.1f} MB without, {peaks[1]:8.1f} MB with ({peaks[1] - peaks[0]:+.1f} MB)"
    )
    change = [
        float((b - a).norm() / a.norm())
        for a, b in zip(found[0][0].predictions, found[0][1].predictions, strict=True)
    ]
    print(f"the adapter changes the predictions by {', '.join(f'{c:.3f}' for c in change)}")


def main() -> None:
    arguments = parse_arguments()
    device = torch.device(arguments.device)
    is_gpu = device.type == "cuda"
    shape = SHAPES[arguments.shape or ("14b" if is_gpu else "narrow")]
    dtype = getattr(torch, arguments.dtype or ("bfloat16" if is_gpu else "float32"))
    with tempfile.TemporaryDirectory() as temporary, torch.inference_mode():
        torch.manual_seed(0)
        pack = load_host(arguments.comfyui, Path(temporary) / "host", device)
        print(f"{shape}, {dtype}, {device}, {arguments.predictions} predictions a step")
        print(f"work that the adapter adds to a block        {shape.added_work:8.2%} "
              f"(14B: {SHAPES['14b'].added_work:.2%})")  # fmt: skip
        folder = arguments.adapter_dir or Path(temporary) / "adapter"
        write_adapter(folder, shape.dim, shape.num_blocks)
        base = measure("build the base model", device, lambda: build_base(shape, device, dtype))
        applied = apply_adapter(pack, base, folder, device)
        clock = None if is_gpu else HookClock(pack)
        found = run_pairs(base, applied, shape, device, arguments.predictions, arguments.pairs)
        report(found, is_gpu)
        if clock:
            # The step that warms up is among those the clock has seen.
            seconds = clock.cpu_seconds / (len(found) + 1)
            rest = statistics.fmean(patched.cpu_seconds for _, patched in found) - seconds
            print(
                f"share of the hooks        {seconds:9.3f} s of processor time a step, {seconds / rest:.4f} of the rest"
            )
        if is_gpu:
            print(
                f"GPU memory at the peak of the last step      {torch.cuda.max_memory_allocated(device) / MB:8.1f} MB"
            )


if __name__ == "__main__":
    main()
