"""Mini Lynx in ComfyUI, in this process: what benchmarks make videos of drawn people with."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from host_model import DEFAULT_HOST, REPO
from in_process import load_in_process
from torch import Tensor

from lynx_core.hashing import hash_file, hash_values
from miniature.experiment.readers import WEIGHTS_NAME, Readers, load_readers
from miniature.experiment.report import fill_in
from miniature.parts.resumable import write_beside
from miniature.world.clip import FRAME_PX, NUM_FRAMES

ASSETS = REPO / "assets" / "mini"
CFG, IDENTITY_CFG, STEPS, SHIFT = 3.0, 2.0, 12, 5.0

Conds = tuple[Any, Any, Any, Any]
"""MODEL, positive, negative and middle, as Lynx Apply gives them."""


class MiniHost:
    """The shipped files, opened by the real nodes.

    Args:
        host_dir: ComfyUI.
        folder: what the host keeps.
        base: in place of the one that ships.
    """

    def __init__(self, host_dir: Path, folder: Path, base: Path | None = None) -> None:
        self.comfy = load_in_process(host_dir, folder)
        import comfy.utils

        comfy.utils.set_progress_bar_enabled(False)
        self.readers: Readers = load_readers(ASSETS / WEIGHTS_NAME)
        model, self.clip, self.vae, self.adapter, self.analyzer, _ = self.run("LynxLoadMini")
        if base is not None:
            target = folder / "models" / "diffusion_models" / base.name
            write_beside(target, lambda beside: beside.write_bytes(base.read_bytes()))
            (model,) = self.run("UNETLoader", unet_name=base.name, weight_dtype="default")
        (self.model,) = self.run("ModelSamplingSD3", model=model, shift=SHIFT)
        files = [ASSETS / "lynx" / "lynx_mini.safetensors", ASSETS / WEIGHTS_NAME]
        files.append(base or ASSETS / "diffusion_models" / "lynx_mini_wan_t2v.safetensors")
        self.key = hash_values([CFG, IDENTITY_CFG, STEPS, SHIFT, *map(hash_file, files)])
        """Equal where videos are made alike."""

    def run(self, node: str, **inputs: Any) -> tuple[Any, ...]:
        """Run one node."""
        return tuple(self.comfy.run(node, **inputs))

    def crop(self, crops: Sequence[np.ndarray]) -> Any:
        """LYNX_FACE of photos that are aligned crops already."""
        images = torch.from_numpy(np.stack(crops)).float() / 255
        return self.run("LynxCropFace", image=images, already_aligned=True)[0]

    def encode_id(self, face: Any) -> Any:
        """LYNX_ID."""
        return self.run("LynxEncodeID", face_analyzer=self.analyzer, face=face)[0]

    def encode_reference(self, face: Any, **inputs: Any) -> Any:
        """LYNX_REFERENCE."""
        files = {"adapter": self.adapter, "model": self.model, "clip": self.clip, "vae": self.vae}
        return self.run("LynxEncodeReference", face=face, **files, **inputs)[0]

    def prompt(self, caption: str) -> Conds:
        """The base without anybody."""
        positive, negative = (self.run("CLIPTextEncode", clip=self.clip, text=t)[0] for t in (caption, ""))
        return self.model, positive, negative, negative

    def apply(self, conds: Conds, **identity: Any) -> Conds:
        """Put a person on, by inputs of Lynx Apply."""
        model, positive, negative, _ = conds
        inputs = {"model": model, "positive": positive, "negative": negative, "adapter": self.adapter}
        applied: Any = self.run("LynxApply", **inputs, **identity)
        return applied

    def make_clip(self, conds: Conds, seed: int, width: int = FRAME_PX) -> np.ndarray:
        """Make a video, [T, H, W, 3] uint8 RGB."""
        model, positive, negative, middle = conds
        (latent,) = self.run("EmptyHunyuanLatentVideo", width=width, height=FRAME_PX, length=NUM_FRAMES)
        (latent,) = self.run(
            "LynxSampler", model=model, positive=positive, negative=negative, middle=middle, latent_image=latent,
            seed=seed, sampler_name="euler", scheduler="simple", cfg=CFG, identity_cfg=IDENTITY_CFG, steps=STEPS,
        )  # fmt: skip
        (images,) = self.run("VAEDecode", samples=latent, vae=self.vae)
        pixels: Tensor = (images.clamp(0, 1) * 255).round().byte()
        return pixels.numpy()

    def name_reading(self, number: int, setting: str) -> str:
        """The file of what was read in one video."""
        return f"{hash_values([self.key, number, setting])[:24]}.npz"


Figures = dict[str, dict[str, dict[str, float]]]
"""Means with their intervals, by setting and measure."""


def show(estimate: Mapping[str, float]) -> str:
    """A mean with its interval."""
    return f"{estimate['mean']:.3f} ({estimate['lo']:.3f} to {estimate['hi']:.3f})"


def make_table(rows: Sequence[Sequence[str]]) -> str:
    """Rows, the first of them the head, in Markdown."""
    lines = [rows[0], ["---"] * len(rows[0]), *rows[1:]]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def write_figures(name: str, found: Figures, tables: Mapping[str, str]) -> Path:
    """Write docs/mini/NAME.json and the tables of NAME.md; gives the folder."""
    folder = REPO / "docs" / "mini"
    text, report = json.dumps(found, indent=1) + "\n", folder / f"{name}.md"
    whole = fill_in(report.read_text(encoding="utf-8"), tables)
    write_beside(folder / f"{name}.json", lambda path: path.write_text(text, encoding="utf-8"))
    write_beside(report, lambda path: path.write_text(whole, encoding="utf-8"))
    return folder


def parse_arguments(parser: argparse.ArgumentParser, work: str) -> argparse.Namespace:
    """Read the command line, with what all of these benchmarks take."""
    parser.add_argument("--work", type=Path, default=Path(work), help="folder of what is kept")
    parser.add_argument("--comfyui", type=Path, default=DEFAULT_HOST)
    parser.add_argument("--reverse", action="store_true", help="from the last one on, beside a first process")
    parser.add_argument("--report", action="store_true", help="write what was measured to docs/mini, and end")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    return arguments


def open_host(arguments: argparse.Namespace, base: Path | None = None) -> MiniHost:
    """Open Mini Lynx; two processes at a time have a folder each."""
    folder = arguments.work / ("host_reverse" if arguments.reverse else "host")
    return MiniHost(arguments.comfyui, folder, base)


def read_all(read: Callable[[int], None], count: int, *, reverse: bool) -> None:
    """Make and read the videos of each number."""
    begun = time.monotonic()
    for number in range(count)[:: -1 if reverse else 1]:
        read(number)
        print(f"{number}, {time.monotonic() - begun:.0f} s", flush=True)
