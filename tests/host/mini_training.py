"""A short training by the project's own trainer: on a few drawn people, from another seed than the shipped adapter."""

from __future__ import annotations

from pathlib import Path

import torch

from lynx_core.cli.main import main as run_command
from miniature.adapters import ADAPTER_CONFIG, SHIPPED_SEED
from miniature.dataset import write_dataset
from miniature.encoders import unpack_encoders
from miniature.making import Making

NUM_PEOPLE, NUM_STEPS = 16, 120
ASSETS = Making().assets


def train_briefly(folder: Path) -> Path:
    """Train in `folder`, with encoders from the shipped files; gives the adapter."""
    torch.set_num_threads(1)
    unpack_encoders(ASSETS, folder)
    write_dataset(folder / "data", NUM_PEOPLE, 2)
    paths = {
        "data.manifest": folder / "data" / "train.jsonl",
        "data.validation_manifest": folder / "data" / "heldout.jsonl",
        "data.cache": folder / "cache",
        "data.vae": folder / "vae",
        "data.text_encoder": folder / "text_encoder",
        "data.tokenizer": folder / "tokenizer",
        "run.output": folder / "run",
        "adapter.resampler_init": ASSETS / "lynx" / "lynx_mini.safetensors",
    }
    changes = [f"{key}={path}" for key, path in paths.items()]
    changes.append(f'stages=[{{ name = "mixed", kind = "mixed", steps = {NUM_STEPS} }}]')
    changes += ["optimizer.decay_steps=20", "run.checkpoint_every=1000", f"run.seed={SHIPPED_SEED + 1}"]
    assert run_command(["train", str(ADAPTER_CONFIG), *changes]) == 0
    return folder / "run" / "adapter.safetensors"
