"""What the trainer makes opens in the real host as it is, and changes the video.

The base is the very file that the host loads. The way is that of a user: media in folders, `comfy-lynx prepare`,
then training of two stages, by one process, by two, by one again, each killed as it comes.
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from in_process import InProcessComfy

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "nodes"))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "training"))

from small_run import DATA_PATHS, MINI_CONFIG, Run, plain_configuration, save_small_world
from wan_bench import RECOGNISER, T2V, WanBench

from lynx_core.cli.main import main as run_command

TEXT_DIM = 4096
PREPARE_OPTIONS = ["--workers", "2", "--runner", "ray"] if "LYNX_RAY" in os.environ else []
"""Without, in this process; Ray takes a minute to start."""
pytestmark = [pytest.mark.timeout(1200)] if PREPARE_OPTIONS else []


def save_text_encoder(folder: Path) -> None:
    """A UMT5 as wide as Wan wants it, and next to empty."""
    from transformers import UMT5Config, UMT5EncoderModel

    torch.manual_seed(0)
    config = UMT5Config(vocab_size=64, d_model=TEXT_DIM, d_kv=2, d_ff=2, num_layers=1, num_heads=1)
    shutil.rmtree(folder)
    UMT5EncoderModel(config).save_pretrained(folder)


def train_adapter(comfy: InProcessComfy, root: Path) -> Path:
    """Prepare with the command, and train on the host's own base file; killed twice, on another number of processes."""
    save_small_world(root)
    save_text_encoder(root / "models" / "text_encoder")
    values: dict[str, Any] = plain_configuration(root, root / "run")
    values["base"]["transformer"] = str(comfy.base_dir / "models" / "diffusion_models" / T2V)
    values["packing"] |= {"max_tokens": 40}
    values["optimizer"] |= {"learning_rate": 1e-2, "ema_decay": 0.0, "global_batch_size": 2}
    for stage in values["stages"]:
        stage["steps"] = 2
    paths = [f"data.{key}={values['data'][key]}" for key in DATA_PATHS] + [
        f"run.output={values['run']['output']}"
    ]
    assert run_command(["prepare", str(MINI_CONFIG), *paths, *PREPARE_OPTIONS]) == 0
    for num_processes, step in ((1, 1), (2, 3)):
        run = Run(values, num_processes, "slow_down", 0.3)
        run.wait_for_step(root / "run", step)
        run.kill()
    assert Run(values).join() == [0]
    return root / "run" / "adapter.safetensors"


@pytest.fixture(scope="module")
def trained(comfy: InProcessComfy, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The adapter as Lynx Load Adapter gives it."""
    path = train_adapter(comfy, tmp_path_factory.mktemp("trained"))
    name = "trained.safetensors"
    shutil.copy(path, comfy.base_dir / "models" / "lynx" / name)
    return comfy.run("LynxLoadAdapter", adapter=name)[0]


def test_trained_adapter_changes_the_video(comfy: InProcessComfy, trained: Any) -> None:
    torch.set_num_threads(1)
    bench = WanBench(comfy)
    model = bench.load_base()
    prompt, negative = bench.make_text(1), bench.make_text(2)
    assert trained.recogniser == RECOGNISER and set(trained.parts) == {"resampler", "id", "ref"}
    identity = {
        "adapter": trained,
        "id": bench.make_id(),
        "reference": bench.make_reference(model, trained),
    }
    videos = {}
    for name, strengths in {
        "off": {"id_strength": 0.0, "ref_strength": 0.0},
        "id": {"ref_strength": 0.0},
        "ref": {"id_strength": 0.0},
        "both": {},
    }.items():
        applied = bench.apply(model, prompt, negative, **identity, **strengths)
        videos[name] = bench.sample(applied.model, applied.positive, applied.negative)
    base = bench.sample(model, prompt, negative)
    assert torch.equal(videos["off"], base)
    for name in ("id", "ref", "both"):
        assert (videos[name] - base).abs().max() > 1e-4 * base.abs().max(), name
    assert not torch.equal(videos["id"], videos["ref"])
