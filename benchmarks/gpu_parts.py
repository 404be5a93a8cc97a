"""The parts of benchmarks/gpu.py, each run in a process of its own."""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import torch
from gpu import RESULT, Figure
from host_model import REPO, build_base, load_host, make_text, run_step, synchronise
from shapes import SHAPES, Shape
from torch import Tensor
from torch.nn import functional as F

T = TypeVar("T")
STEPS, PREDICTIONS = 50, 3
"""Of the published settings."""
GB = 1e9


class Bench:
    """What a part runs on.

    Args:
        device: the accelerator, or the CPU.
        small: tiny shapes, to see that it runs.
    """

    def __init__(self, device: torch.device, small: bool, work: Path, comfyui: Path) -> None:
        self.device, self.small, self.work, self.comfyui = device, small, work, comfyui
        self.shape: Shape = SHAPES["tiny" if small else "14b"]
        self.dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
        torch.manual_seed(0)
        if device.type == "cuda":
            torch.cuda.set_device(device)

    def time(self, function: Callable[[], Any], repeats: int, warm_ups: int = 1) -> float:
        """Median seconds of a call, by the device's own clock on a GPU."""
        for _ in range(warm_ups):
            function()
        synchronise(self.device)
        found = []
        for _ in range(repeats):
            if self.device.type == "cuda":
                start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
                start.record()
                function()
                end.record()
                end.synchronize()
                found.append(start.elapsed_time(end) / 1e3)
            else:
                begun = time.perf_counter()
                function()
                found.append(time.perf_counter() - begun)
        return statistics.median(found)

    def peak_gb(self) -> float:
        """Memory of the device at its peak since the last step began, what lies there included."""
        return torch.cuda.max_memory_allocated(self.device) / GB if self.device.type == "cuda" else 0.0

    def report(self, what: str, value: str, aim: str = "", holds: bool | None = None) -> None:
        """Print a figure, for the reader and for the table; tiny shapes say nothing of an aim."""
        figure = Figure(what, value, aim, None if self.small else holds)
        print(f"  {figure}\n{RESULT}{json.dumps(vars(figure))}", flush=True)

    def report_time(self, what: str, function: Callable[[], T]) -> T:
        """Run a function once and report how long it took."""
        synchronise(self.device)
        begun = time.perf_counter()
        found = function()
        synchronise(self.device)
        self.report(what, f"{time.perf_counter() - begun:.2f} s")
        return found

    @cached_property
    def pack(self) -> Any:
        """The host and the pack, imported."""
        return load_host(self.comfyui, self.work / f"host-{os.getpid()}", self.device)


def measure_card(bench: Bench) -> None:
    if bench.device.type == "cuda":
        properties = torch.cuda.get_device_properties(bench.device)
        bench.report("card", properties.name)
        bench.report("memory", f"{properties.total_memory / GB:.1f} GB")
        bench.report("multiprocessors", str(properties.multi_processor_count))
    else:
        bench.report("card", "the CPU: no figure counts")
    bench.report("torch, CUDA", f"{torch.__version__}, {torch.version.cuda}")
    bench.report("bf16 matmul", f"{measure_matmul(bench) / 1e12:.1f} TFLOP/s")


def measure_matmul(bench: Bench) -> float:
    """FLOP/s of a square product in bfloat16."""
    size = 64 if bench.small else 8192
    a, b = (torch.randn(size, size, device=bench.device, dtype=torch.bfloat16) for _ in range(2))
    return 2 * size**3 / bench.time(lambda: a @ b, repeats=10, warm_ups=3)


def measure_attention(bench: Bench) -> None:
    """Each backend against float32 attention sample by sample, on a pack of 33,600 tokens."""
    from lynx_core.models.segment_attention import Segments, attend_segments, unsupported_reason

    heads, lengths = (2, (5, 0, 9, 9)) if bench.small else (40, (16_800, 8_400, 4_200, 1_600, 1_600, 1_000))
    keys = tuple(length + 32 if length else 0 for length in lengths)
    segments, key_segments = Segments(lengths), Segments(keys)
    shapes = [(sum(count), heads, 128) for count in (lengths, keys, keys)]
    q, k, v = (torch.randn(shape, device=bench.device, dtype=bench.dtype) for shape in shapes)
    some = slice(0, min(heads, 4))  # float32 scores of all heads would take the card

    def oracle() -> Tensor:
        parts = zip(
            segments.split(q[:, some]),
            key_segments.split(k[:, some]),
            key_segments.split(v[:, some]),
            strict=True,
        )
        rows = [[tensor.float().transpose(0, 1)[None] for tensor in part] for part in parts if len(part[0])]
        with torch.nn.attention.sdpa_kernel(
            torch.nn.attention.SDPBackend.MATH
            if bench.small
            else torch.nn.attention.SDPBackend.EFFICIENT_ATTENTION
        ):
            return torch.cat([F.scaled_dot_product_attention(*row)[0].transpose(0, 1) for row in rows])

    true = oracle()
    for backend in ("loop", "varlen", "flash"):
        reason = unsupported_reason(backend, bench.device, bench.dtype)
        if reason:
            bench.report(f"attention, {backend}", f"not here: {reason}"[:90])
            continue
        run = lambda backend=backend: attend_segments(q, k, v, segments, key_segments, backend)  # noqa: E731
        error = float((run()[:, some].float() - true).norm() / true.norm())
        bench.report(f"attention, {backend}: error against float32", f"{error:.1e}", "< 1e-2", error < 1e-2)
        bench.report(f"attention, {backend}: time", f"{1e3 * bench.time(run, repeats=5):.2f} ms")


def measure_mfu(bench: Bench) -> None:
    """Half the blocks: weights, gradients and activations of all 40 do not fit 80 GB, and the share is the same."""
    import numpy as np
    import training_step

    shape = replace(
        training_step.SHAPES["small" if bench.small else "14b"], num_blocks=1 if bench.small else 20
    )
    base, adapter = training_step.build(shape, bench.device, bench.dtype)
    adapter.to(bench.dtype)
    clip = np.array([(2, 4, 4) if bench.small else training_step.LONG_CLIP])
    tokens = int(clip[0, 0] * clip[0, 1] * clip[0, 2] // 4)
    seconds = bench.time(lambda: training_step.run_pack(base, adapter, clip, shape), repeats=1)
    bench.report(f"training step of {tokens:,} tokens, {shape.num_blocks} blocks", f"{seconds:.2f} s")
    useful = training_step.count_flops(tokens, shape) / seconds
    rate = measure_matmul(bench)
    bench.report(
        "MFU, recomputation not counted as useful", f"{useful / rate:.0%}", ">= 50 %", useful / rate >= 0.5
    )
    bench.report("attention backend of the trainer", base.backend)
    bench.report("peak memory of the training step", f"{bench.peak_gb():.1f} GB")


def measure_bf16(bench: Bench) -> None:
    applied, base, adapter = _apply(bench, bench.dtype)
    one = _compare(bench, base, applied.model, applied, predictions=1, pairs=1 if bench.small else 2)
    bench.report("step of 1 prediction, ours over base", f"{one:.4f}", "<= 1.02", one <= 1.02)
    published = _project_at_every_step(bench, adapter, applied)
    ours_s, published_s = (
        _time_step(bench, model, _conds(applied, PREDICTIONS), warm=index == 0)
        for index, model in enumerate((applied.model, published))
    )
    bench.report(f"step of {PREDICTIONS} predictions, ours", f"{ours_s:.3f} s")
    bench.report(f"step of {PREDICTIONS} predictions, published way", f"{published_s:.3f} s")
    bench.report("peak memory, published way", f"{bench.peak_gb():.2f} GB")
    for share, name in ((1.0, "all predictions"), (2 / 3, "two of three predictions")):
        ratio = (share * ours_s) / published_s
        bench.report(f"{STEPS} steps, {name}: ours over published", f"{ratio:.3f}", "<= 0.85", ratio <= 0.85)
    bench.report(f"{STEPS} steps of {PREDICTIONS} predictions, ours", f"{STEPS * ours_s:.0f} s")


def measure_fp8(bench: Bench) -> None:
    applied, base, _ = _apply(bench, torch.float8_e4m3fn)
    ratio = _compare(bench, base, applied.model, applied, predictions=1, pairs=1 if bench.small else 2)
    bench.report("fp8: step of 1 prediction, ours over base", f"{ratio:.4f}", "<= 1.02", ratio <= 1.02)


def _apply(bench: Bench, dtype: torch.dtype) -> tuple[Any, Any, Any]:
    """Load the host, build the base, measure its peak, encode a face, and apply it."""
    from adapter_files import write_adapter

    _ = bench.pack  # the host's modules come with it
    name = str(dtype).removeprefix("torch.")
    begun = time.perf_counter()
    base = build_base(bench.shape, bench.device, dtype)
    synchronise(bench.device)
    print(f"  built {bench.shape} in {name}: {time.perf_counter() - begun:.1f} s", flush=True)
    folder = write_adapter(bench.work / f"adapter-{bench.shape.dim}", bench.shape.dim, bench.shape.num_blocks)
    print(f"  adapter of random weights is in {folder}: {time.perf_counter() - begun:.1f} s", flush=True)
    _time_step(bench, base, [make_text(1)], warm=False)
    plain = bench.peak_gb()
    applied, adapter = _encode(bench, base, folder)
    _time_step(bench, applied.model, [applied.positive], warm=False)
    ours = bench.peak_gb()
    bench.report(f"{name}: peak memory of a step, base", f"{plain:.2f} GB")
    bench.report(
        f"{name}: peak memory of a step, ours", f"{ours:.2f} GB", "<= base + 0.5 GB", ours <= plain + 0.5
    )
    return applied, base, adapter


def _encode(bench: Bench, base: Any, folder: Path) -> tuple[Any, Any]:
    """Encode ID and reference as the nodes do, save and load the identity, each timed, and apply it."""
    pack = bench.pack
    application, identity, reference_pass, files, model = (
        pack.pack_module(f"nodes.host.{module}")
        for module in ("application", "identity", "reference_pass", "identity_files", "base_model")
    )
    saved_files = pack.pack_module("lynx_core.formats.identity_file")
    adapter = pack.pack_module("lynx_core.formats.adapter").open_adapter(folder)
    dtype = base.model.get_dtype_inference()
    embedding = F.normalize(torch.randn(512), dim=0)
    face, null = torch.randn(1, 16, 1, 32, 32), torch.zeros(1, 16, 1, 32, 32)
    text = make_text(9)
    # The null is kept, so that a second face costs this alone.
    application.get_id_kv(adapter, torch.zeros(512), dtype)
    bench.report_time("encode ID", lambda: application.get_id_kv(adapter, embedding, dtype))
    reference_pass.get_null_kv(base, adapter, text, null, model.describe_base(base).checksum)
    reference = bench.report_time(
        "encode reference", lambda: reference_pass.make_reference(base, adapter, text, face, null)
    )
    face_id = identity.FaceID(embedding, adapter.recogniser)
    saved = files.collect_identity("gpu", face_id, None, reference, adapter, "", "", keeps_kv=True)
    path = bench.work / f"identity-{os.getpid()}.safetensors"
    num_bytes = saved_files.save_identity(path, saved, overwrite=True)
    opened = bench.report_time(
        f"load a saved identity of {num_bytes / GB:.2f} GB", lambda: saved_files.open_identity(path)
    )
    path.unlink()
    restored, restored_reference = files.restore_id(opened), files.restore_reference(opened)
    applied = application.apply_identity(
        base, make_text(1), make_text(2), None, restored, restored_reference,
        pack.pack_module("nodes.presets").PRESETS["as published"],
    )  # fmt: skip
    return applied, adapter


def _conds(applied: Any, predictions: int) -> list[Any]:
    return [applied.positive, applied.negative, applied.middle][:predictions]


def _time_step(bench: Bench, model: Any, conds: list[Any], *, warm: bool) -> float:
    """Seconds of one step, `warm`: after another one."""
    latent = torch.randn(bench.shape.latent, generator=torch.Generator().manual_seed(0))
    if warm:
        run_step(model, conds, latent, bench.device)
    return run_step(model, conds, latent, bench.device).seconds


def _compare(bench: Bench, base: Any, model: Any, applied: Any, predictions: int, pairs: int) -> float:
    """The median ratio of steps, in turn; both models have run once."""
    plain = [make_text(seed) for seed in (1, 2, 2)][:predictions]
    ratios = []
    for number in range(pairs):
        without = _time_step(bench, base, plain, warm=number == 0)
        with_id = _time_step(bench, model, _conds(applied, predictions), warm=number == 0)
        print(f"  pair {number + 1}: {without:.3f} s without, {with_id:.3f} s with", flush=True)
        ratios.append(with_id / without)
    return statistics.median(ratios)


def _project_at_every_step(bench: Bench, adapter: Any, applied: Any) -> Any:
    """The published way: all adapter weights on the card, keys and values of every prediction made anew at every call."""
    import comfy.patcher_extension

    modules = bench.pack.pack_module("lynx_core.formats.adapter_weights").load_modules(adapter)
    modules = modules.to(bench.device, bench.dtype).eval().requires_grad_(False)
    dim = bench.shape.dim
    tokens = torch.randn(PREDICTIONS, 16, dim, device=bench.device, dtype=bench.dtype)
    features = torch.randn(PREDICTIONS, 256, dim, device=bench.device, dtype=bench.dtype)

    def project(executor: Any, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        for block in range(bench.shape.num_blocks):
            for layer, given in (
                (modules.find_id_layer(block), tokens),
                (modules.find_ref_layer(block), features),
            ):
                layer(given[: len(x)])
        return executor(x, *args, **kwargs)

    model = applied.model.clone()
    model.add_wrapper_with_key(comfy.patcher_extension.WrappersMP.APPLY_MODEL, "published way", project)
    return model


def measure_compile(bench: Bench) -> None:
    """Four blocks of the full width: what is compiled is the same, and a warm-up fits the time."""
    bench.shape = bench.shape if bench.small else replace(bench.shape, num_blocks=4)
    applied, base, _ = _apply(bench, bench.dtype)
    from comfy_api.torch_helpers import set_torch_compile_wrapper

    backend = "eager" if bench.small else "inductor"
    blocks = [f"diffusion_model.blocks.{block}" for block in range(bench.shape.num_blocks)]
    eager = _time_step(bench, applied.model, _conds(applied, 2), warm=True)
    bench.report("4 blocks, eager, ours", f"{eager:.3f} s")
    for name, keys in (("each block", blocks), ("whole model", ["diffusion_model"])):
        torch._dynamo.reset()
        compiled = []
        for model, conds in ((base, [make_text(1), make_text(2)]), (applied.model, _conds(applied, 2))):
            clone = model.clone()
            set_torch_compile_wrapper(clone, backend=backend, keys=keys)
            begun = time.perf_counter()
            _time_step(bench, clone, conds, warm=False)
            print(f"  {name}: warm-up {time.perf_counter() - begun:.1f} s", flush=True)
            compiled.append(_time_step(bench, clone, conds, warm=False))
        ratio = compiled[1] / compiled[0]
        bench.report(f"compiled, {name}: ours", f"{compiled[1]:.3f} s")
        bench.report(f"compiled, {name}: ours over base", f"{ratio:.4f}", "<= 1.02", ratio <= 1.02)


def run_tests(bench: Bench) -> None:
    """The tests that need a GPU; without one, that they can be collected."""
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-c",
        "tests/pytest.ini",
        "-q",
        "-m",
        "cuda",
        "-p",
        "no:cacheprovider",
    ]
    command += ["tests/models"] if bench.device.type == "cuda" else ["--collect-only", "tests/models"]
    ended = subprocess.run(
        command, cwd=REPO, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    lines = [line for line in ended.stdout.splitlines() if line.strip()] or ["nothing was printed"]
    print("\n".join(lines[-20:]), flush=True)
    bench.report("tests marked cuda", lines[-1].strip("= ")[:70], "pass", ended.returncode == 0)


PARTS: dict[str, Callable[[Bench], None]] = {
    "card": measure_card,
    "attention": measure_attention,
    "mfu": measure_mfu,
    "bf16": measure_bf16,
    "fp8": measure_fp8,
    "compile": measure_compile,
    "tests": run_tests,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("parts", choices=PARTS, nargs="+")
    parser.add_argument("--device", type=torch.device, required=True)
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--comfyui", type=Path, required=True)
    arguments = parser.parse_args()
    if arguments.device.type == "cuda" and not torch.cuda.is_available():
        raise SystemExit("there is no CUDA device here; --device cpu --small tries the parts without one")
    bench = Bench(arguments.device, arguments.small, arguments.work, arguments.comfyui)
    for name in arguments.parts:
        # Training needs gradients.
        with torch.inference_mode(name not in ("mfu", "tests")):
            PARTS[name](bench)


if __name__ == "__main__":
    main()
