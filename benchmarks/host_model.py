"""ComfyUI with the pack in this process, and a Wan model of random weights in it.

The weights are made where the model runs, by the host's own model classes: no file, and for
the 14B no 28 GB on the way through host memory.
"""

from __future__ import annotations

import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peak_memory import PeakMemory
from shapes import HEAD_DIM, TEXT_TOKENS, Shape
from torch import Tensor

REPO = Path(__file__).resolve().parent.parent
DEFAULT_HOST = Path(os.environ.get("COMFYUI_DIR", REPO / ".comfyui" / "0.30.0"))
TEXT_DIM = 4096
SIGMA = 0.5

sys.path.insert(0, str(REPO / "tests" / "host"))
sys.path.append(str(REPO))  # the miniature; last, for `import nodes` means ComfyUI's


def load_host(comfyui_dir: Path, base_dir: Path, device: torch.device) -> Any:
    """Import ComfyUI, for the CPU or a GPU, and the pack (`in_process.InProcessComfy`)."""
    from comfy_host import PACK_NAME, prepare_base_dir
    from in_process import InProcessComfy, load_pack

    prepare_base_dir(base_dir, {PACK_NAME: REPO})
    sys.path.insert(0, str(comfyui_dir.resolve()))
    import comfy.cli_args

    comfy.cli_args.args.cpu = device.type == "cpu"
    comfy.cli_args.args.base_directory = str(base_dir)
    # The host's own choice on a CPU is slower, and the adapter's share would look too small.
    comfy.cli_args.args.use_pytorch_cross_attention = True
    import nodes

    return InProcessComfy(base_dir, nodes, load_pack(nodes, base_dir / "custom_nodes" / PACK_NAME))


def build_base(shape: Shape, device: torch.device, dtype: torch.dtype) -> Any:
    """Build a Wan text-to-video MODEL of random weights on `device`."""
    import comfy.model_management
    import comfy.model_patcher
    import comfy.supported_models

    config = comfy.supported_models.WAN21_T2V(
        {
            "image_model": "wan2.1", "model_type": "t2v", "dim": shape.dim, "ffn_dim": shape.ffn_dim,
            "num_heads": shape.dim // HEAD_DIM, "num_layers": shape.num_blocks, "in_dim": 16, "out_dim": 16,
            "patch_size": (1, 2, 2), "freq_dim": 256, "text_dim": TEXT_DIM, "window_size": (-1, -1),
            "qk_norm": True, "cross_attn_norm": True, "eps": 1e-6,
        }
    )  # fmt: skip
    is_fp8 = dtype.itemsize == 1
    computed_in = torch.bfloat16 if device.type == "cuda" else torch.float32
    config.set_inference_dtype(dtype, computed_in if is_fp8 else None)
    model = config.get_model({}, device=device)
    with torch.no_grad():
        for name, weight in model.diffusion_model.named_parameters():
            if weight.ndim > 1 and is_fp8:
                weight.copy_(torch.randn(weight.shape, device=device) * weight[0].numel() ** -0.5)
            elif weight.ndim > 1:
                weight.normal_(0, weight[0].numel() ** -0.5)
            else:
                weight.fill_(1.0 if "norm" in name and name.endswith("weight") else 0.0)
    return comfy.model_patcher.ModelPatcher(
        model, load_device=device, offload_device=comfy.model_management.unet_offload_device()
    )


def make_text(seed: int) -> list[Any]:
    """A CONDITIONING of random text, [1, 512, 4096]."""
    generator = torch.Generator().manual_seed(seed)
    return [[torch.randn(1, TEXT_TOKENS, TEXT_DIM, generator=generator), {}]]


def synchronise(device: torch.device) -> None:
    """Wait until the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


@dataclass(frozen=True)
class Step:
    """One measured call of the model."""

    seconds: float
    cpu_seconds: float
    """Of all threads: what other work on the machine does not disturb."""
    peak_bytes: int
    predictions: list[Tensor]


def run_step(model: Any, conds: list[Any], latent: Tensor, device: torch.device) -> Step:
    """Run one step of the host's sampling (every conditioning in one batch), loading left out."""
    import comfy.samplers

    found: list[Step] = []

    class OneStep(comfy.samplers.Sampler):
        def sample(self, model_wrap: Any, sigmas: Tensor, extra_args: Any, *_: Any) -> Tensor:
            x = latent.to(device)
            sigma = torch.full((1,), SIGMA, device=device)
            inputs = [model_wrap.conds[str(i)] for i in range(len(conds))]
            synchronise(device)
            with PeakMemory(device) as peak:
                start, cpu_start = time.perf_counter(), time.process_time()
                out = comfy.samplers.calc_cond_batch(
                    model_wrap.inner_model, inputs, x, sigma, extra_args["model_options"]
                )
                synchronise(device)
                seconds, cpu_seconds = time.perf_counter() - start, time.process_time() - cpu_start
            predictions = [prediction.cpu() for prediction in out]
            found.append(Step(seconds, cpu_seconds, peak.anonymous, predictions))
            return x

    guider = comfy.samplers.CFGGuider(model)
    guider.inner_set_conds({str(i): cond for i, cond in enumerate(conds)})
    guider.sample(torch.zeros_like(latent), latent, OneStep(), torch.zeros(1), disable_pbar=True, seed=0)
    return found[0]
