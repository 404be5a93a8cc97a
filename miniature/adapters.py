"""The adapters of the experiment, all by `comfy-lynx train`."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

from lynx_core.durable_file import write_durably
from lynx_core.models.adapter_configs import AdapterConfigs
from lynx_core.training.assembly import configure_new_adapter
from lynx_core.training.configuration import TrainingConfig, read_configuration

from .edition import EDITION
from .making import REPO_DIR, Making
from .parts.base import DIM, NUM_BLOCKS

ADAPTER_CONFIG = REPO_DIR / "configs" / EDITION.adapter_config
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


def read_adapter_config(making: Making) -> TrainingConfig:
    """What an adapter of this making is trained by."""
    return read_configuration(ADAPTER_CONFIG, _fit_config(making))


def configure_adapter(making: Making) -> AdapterConfigs:
    """The shape of the adapters, for the base."""
    return configure_new_adapter(read_adapter_config(making).adapter, DIM, NUM_BLOCKS)


def run_lynx(verb: str, making: Making, *changes: str) -> bool:
    """Run `comfy-lynx` on the adapter's configuration; whether it came to its end.

    Raises:
        SystemExit: when it fails; it has said why.
    """
    command = [sys.executable, "-m", "lynx_core.cli.main", verb, str(ADAPTER_CONFIG)]
    command += [*_fit_config(making), *changes]
    # The configuration's paths are relative to the folder that it is run in.
    environment = os.environ | KEEP_FREED_MEMORY | {"PYTHONPATH": str(REPO_DIR)}
    process = subprocess.Popen(command, cwd=making.root, env=environment)
    try:
        code = process.wait(None if making.stop_at is None else max(making.stop_at - time.monotonic(), 1))
    except subprocess.TimeoutExpired:
        process.terminate()
        process.wait()
        return False
    if code:
        raise SystemExit(code)
    return True


def _fit_config(making: Making) -> list[str]:
    """What this making changes of the configuration: the device, and in a rehearsal the steps."""
    changes = ["run.device=auto"] if making.device.type == "cuda" else []
    if making.share == 1:
        return changes
    whole = read_configuration(ADAPTER_CONFIG)
    steps = {f"stages.{i}.steps": stage.steps for i, stage in enumerate(whole.stages)}
    steps["optimizer.decay_steps"] = whole.optimizer.decay_steps
    steps |= {f"run.{name}": getattr(whole.run, name) for name in ("checkpoint_every", "keep_every")}
    return changes + [f"{key}={making.count(number)}" for key, number in steps.items()]


def find_adapter(making: Making, name: str) -> Path:
    """Where the finished adapter of a run is."""
    return making.folder / "adapters" / name / "adapter.safetensors"


def train_full(making: Making, seed: int) -> bool:
    """Train in two stages, as the configuration says; whether it is done."""
    return _train(making, f"full_seed{seed}", seed)


def train_controls(making: Making) -> bool:
    """The shipped seed after fewer steps, and its first stage from random weights."""
    config = read_adapter_config(making)
    shipped = f"full_seed{SHIPPED_SEED}"
    first = config.stages[0]
    export_checkpoint(making, shipped, first.steps, STAGE_ONE)
    step = config.run.keep_every
    while step <= config.total_steps:
        export_checkpoint(making, shipped, step, f"{GROWTH}{step}")
        step *= 2
    random_weights = ("adapter.resampler_init=", "adapter.ref_keys_init=random")
    first_alone = f'stages=[{{ name = "{first.name}", kind = "{first.kind}", steps = {first.steps} }}]'
    return _train(making, SCRATCH, SHIPPED_SEED, *random_weights, first_alone, "optimizer.decay_steps=0")


def _train(making: Making, name: str, seed: int, *changes: str) -> bool:
    path = find_adapter(making, name)
    if path.is_file():
        return True
    return run_lynx("train", making, f"run.output={path.parent}", f"run.seed={seed}", *changes)


def export_checkpoint(making: Making, name: str, step: int, target: str) -> None:
    """Write the adapter that a finished run had after some step, under another name.

    Raises:
        FileNotFoundError: when the run is not finished, or did not keep that checkpoint.
    """
    from lynx_core.formats.adapter import open_adapter
    from lynx_core.formats.adapter_weights import load_modules, save_modules
    from lynx_core.training.checkpoint import CheckpointFolder
    from lynx_core.training.trained_state import EMA_WEIGHTS, read_weights

    finished, exported = find_adapter(making, name), find_adapter(making, target)
    adapter = load_modules(open_adapter(finished))
    checkpoint = CheckpointFolder(finished.parent, keep_last=1, keep_every=0).path_of(step)
    parameters = dict(adapter.named_parameters())
    for parameter_name, value in (read_weights(checkpoint, EMA_WEIGHTS) or read_weights(checkpoint)).items():
        parameters[parameter_name].data.copy_(value)
    exported.parent.mkdir(parents=True, exist_ok=True)
    save_modules(adapter, exported, overwrite=True)


def ship_adapter(making: Making) -> None:
    """Copy the adapter of one seed to the files that ship."""
    source = find_adapter(making, f"full_seed{SHIPPED_SEED}")
    target = making.assets / "lynx" / "lynx_mini.safetensors"
    write_durably(target, source.read_bytes())
