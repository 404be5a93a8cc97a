"""The adapters of the experiment, all by `comfy-lynx train`."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

from .parts.resumable import write_beside

REPO_DIR = Path(__file__).resolve().parents[1]
WORK_DIR, ASSETS_DIR = REPO_DIR / ".miniature", REPO_DIR / "assets" / "mini"
ADAPTER_CONFIG = REPO_DIR / "configs" / "mini_lynx.toml"
SEEDS = (0, 1, 2)
SHIPPED_SEED = 0
STAGE_ONE, SCRATCH = "full_stage1", "full_stage1_scratch"
KEEP_FREED_MEMORY = {
    "MALLOC_MMAP_THRESHOLD_": str(2 * 10**9),
    "MALLOC_TRIM_THRESHOLD_": str(8 * 10**9),
    "MALLOC_TOP_PAD_": str(64 * 2**20),
}
"""For glibc, which otherwise gives every large block back, and has its pages cleared again at the next use."""
GROWTH = "full_step"
"""Begins the names of the shipped adapter after fewer steps."""


def run_lynx(verb: str, stop_at: float | None, *changes: str) -> bool:
    """Run `comfy-lynx` on the adapter's configuration; whether it came to its end.

    Raises:
        SystemExit: when it fails; it has said why.
    """
    command = [sys.executable, "-m", "lynx_core.cli.main", verb, str(ADAPTER_CONFIG), *changes]
    process = subprocess.Popen(command, cwd=REPO_DIR, env=os.environ | KEEP_FREED_MEMORY)
    try:
        code = process.wait(None if stop_at is None else max(stop_at - time.monotonic(), 1))
    except subprocess.TimeoutExpired:
        process.terminate()
        process.wait()
        return False
    if code:
        raise SystemExit(code)
    return True


def find_adapter(name: str) -> Path:
    """Where the finished adapter of a run is."""
    return WORK_DIR / "adapters" / name / "adapter.safetensors"


def train_full(seed: int, stop_at: float | None = None) -> bool:
    """Train in two stages, as the configuration says; whether it is done."""
    return _train(f"full_seed{seed}", seed, stop_at)


def train_controls(stop_at: float | None = None) -> bool:
    """The shipped seed after fewer steps, and its first stage from random weights."""
    from lynx_core.training.configuration_file import read_configuration

    config = read_configuration(ADAPTER_CONFIG)
    shipped = f"full_seed{SHIPPED_SEED}"
    first = config.stages[0]
    export_checkpoint(shipped, first.steps, find_adapter(STAGE_ONE))
    step = config.run.keep_every
    while step <= config.total_steps:
        export_checkpoint(shipped, step, find_adapter(f"{GROWTH}{step}"))
        step *= 2
    random_weights = ("adapter.resampler_init=", "adapter.ref_keys_init=random")
    first_alone = f'stages=[{{ name = "{first.name}", kind = "{first.kind}", steps = {first.steps} }}]'
    return _train(SCRATCH, SHIPPED_SEED, stop_at, *random_weights, first_alone, "optimizer.decay_steps=0")


def _train(name: str, seed: int, stop_at: float | None, *changes: str) -> bool:
    path = find_adapter(name)
    if path.is_file():
        return True
    return run_lynx("train", stop_at, f"run.output={path.parent}", f"run.seed={seed}", *changes)


def export_checkpoint(name: str, step: int, target: Path) -> None:
    """Write the adapter that a finished run had after some step.

    Raises:
        FileNotFoundError: when the run is not finished, or did not keep that checkpoint.
    """
    from lynx_core.formats.adapter import open_adapter
    from lynx_core.models.adapter_modules import AdapterModules
    from lynx_core.training.checkpoint import CheckpointFolder, read_checkpoint

    finished = find_adapter(name)
    adapter = AdapterModules.from_adapter(open_adapter(finished))
    contents = read_checkpoint(CheckpointFolder(finished.parent, keep_last=1, keep_every=0).path_of(step))
    parameters = dict(adapter.named_parameters())
    for parameter_name, value in (contents.mean or contents.weights).items():
        parameters[parameter_name].data.copy_(value)
    target.parent.mkdir(parents=True, exist_ok=True)
    adapter.save(target, overwrite=True)


def ship_adapter() -> None:
    """Copy the adapter of one seed to the files that ship."""
    source = find_adapter(f"full_seed{SHIPPED_SEED}")
    target = ASSETS_DIR / "lynx" / "lynx_mini.safetensors"
    write_beside(target, lambda beside: beside.write_bytes(source.read_bytes()))
