"""`comfy-lynx prepare` and `train` of each set, by the miniature's configuration: only the pairs differ."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from ..adapters import ADAPTER_CONFIG, KEEP_FREED_MEMORY
from ..making import REPO_DIR
from .sets import ALL_KINDS, KIND_WEIGHTS


def find_adapter(work: Path, arm: str) -> Path:
    """Where the finished adapter of a set is."""
    return work / "adapters" / arm / "adapter.safetensors"


def train_adapter(work: Path, assets: Path, arm: str, num_images: int, num_videos: int) -> None:
    """Train on a set what is not trained yet: steps on images, then on videos, from random weights.

    Raises:
        SystemExit: when a command fails; it has said why.
    """
    if find_adapter(work, arm).is_file():
        return
    weights = ", ".join(f"{kind} = {weight}" for kind, weight in KIND_WEIGHTS.items())
    stages = f'{{ name = "images", kind = "images", steps = {num_images} }}'
    stages += f', {{ name = "videos", kind = "videos", steps = {num_videos} }}'
    total = num_images + num_videos
    changes = {
        "base.transformer": assets / "diffusion_models" / "lynx_mini_wan_t2v.safetensors",
        "adapter.resampler_init": "",
        "adapter.ref_keys_init": "random",
        "data.manifest": work / "sets" / arm / "train.jsonl",
        "data.validation_manifest": "",
        "data.cache": work / "cache",
        "data.vae": work / "vae",
        "data.text_encoder": work / "text_encoder",
        "data.tokenizer": work / "tokenizer",
        "data.face_recogniser": assets / "lynx" / "faces" / "lynx_mini_arcface.safetensors",
        "data.kind_weights": f"{{ {weights} }}" if arm == ALL_KINDS else "",
        "stages": f"[{stages}]",
        "optimizer.decay_steps": total // 3,
        "run.output": find_adapter(work, arm).parent,
        "run.checkpoint_every": 50,
        "run.keep_every": 0,
    }
    for verb in ("prepare", "train"):
        command = [sys.executable, "-m", "lynx_core.cli.main", verb, str(ADAPTER_CONFIG)]
        command += [f"{key}={value}" for key, value in changes.items()]
        environment = os.environ | KEEP_FREED_MEMORY | {"PYTHONPATH": str(REPO_DIR)}
        code = subprocess.run(command, check=False, cwd=work, env=environment).returncode
        if code:
            raise SystemExit(code)
