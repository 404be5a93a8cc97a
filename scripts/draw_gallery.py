"""Draws the pictures of `docs/gallery.md` with Mini Lynx: what each control does, one seed for all.

python scripts/draw_gallery.py
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

REPO_DIR = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(REPO_DIR / "tests" / "host"), str(REPO_DIR)]

from comfy_host import ComfyHost, list_files  # noqa: E402
from demo_models import MINI_MODELS, MINI_WORKFLOW, DemoModel  # noqa: E402
from demo_workflow import edit_workflow  # noqa: E402
from in_process import load_in_process  # noqa: E402
from prompt_edits import set_inputs  # noqa: E402
from video import read_video  # noqa: E402
from workflow import workflow_to_prompt  # noqa: E402

from miniature.world.clip import FRAME_PX, NUM_FRAMES  # noqa: E402
from miniature.world.draws import FIRST_HELD_OUT_IDENTITY, draw_shot  # noqa: E402
from miniature.world.identity import draw_identity  # noqa: E402

OUT_DIR = REPO_DIR / "docs" / "images" / "gallery"
EXAMPLE = REPO_DIR / "assets" / "mini" / "example.png"
OTHER_PERSON = FIRST_HELD_OUT_IDENTITY + 40_003
PROMPT, SEED, FRAME = "a person smiles on a beach in warm light", 0, 4
TILE_PX, LABEL_PX, GAP_PX = 150, 15, 6
INK, PAPER = (30, 32, 38), (255, 255, 255)

Inputs = Mapping[str, Any]


@dataclass(frozen=True)
class Strip:
    """One control: a picture for each of its values, by label."""

    name: str
    values: Mapping[str, Inputs]


STRIPS = (
    Strip(
        "parts",
        {
            "nobody": {"id_strength": 0.0, "ref_strength": 0.0},
            "ID alone": {"ref_strength": 0.0},
            "reference alone": {"id_strength": 0.0},
            "both": {},
        },
    ),
    Strip("id_strength", {f"{value:g}": {"id_strength": value} for value in (0.0, 0.5, 1.0, 1.5, 2.0)}),
    Strip("ref_strength", {f"{value:g}": {"ref_strength": value} for value in (0.0, 0.5, 1.0, 1.5, 2.0)}),
    Strip("identity_cfg", {f"{value:g}": {"identity_cfg": value} for value in (1.0, 2.0, 3.0, 5.0, 8.0)}),
    Strip("cfg", {f"{value:g}": {"cfg": value} for value in (1.0, 2.0, 3.0, 5.0, 8.0)}),
    Strip("ref_start", {f"{value:g}": {"ref_start": value} for value in (0.0, 0.2, 0.4, 0.6)}),
    Strip("ref_end", {f"{value:g}": {"ref_end": value} for value in (1.0, 0.6, 0.3, 0.1)}),
    Strip(
        "curve",
        {
            name: {"id_curve": name, "ref_curve": name}
            for name in ("constant", "ease in", "ease out", "weak middle", "weak ends")
        },
    ),
    Strip(
        "blocks",
        {
            name: {"id_blocks": name, "ref_blocks": name}
            for name in ("all", "first half", "second half", "middle half")
        },
    ),
)


def make_frame(host: ComfyHost, inputs: Inputs, folder: Path) -> np.ndarray:
    """The middle frame of the video with these inputs."""
    workflow = edit_workflow(
        DemoModel(MINI_WORKFLOW, MINI_MODELS).read_workflow(), {"prompt": PROMPT, "seed": SEED}, None
    )
    prompt = workflow_to_prompt(workflow, host.object_info())
    for name, value in inputs.items():
        if not set_inputs(prompt, name, value):
            raise ValueError(f"the workflow has no input {name}")
    (file,) = list_files(host.queue(prompt), ".mp4")
    return read_video(host.fetch(file, folder)).frames[FRAME]


def make_fade(folder: Path) -> dict[str, np.ndarray]:
    """Both photos, and between them frames of a video in which the first person becomes the second."""
    comfy = load_in_process(REPO_DIR / ".comfyui" / "0.30.0", folder)
    model, clip, vae, adapter, analyzer, _ = comfy.run("LynxLoadMini")
    (model,) = comfy.run("ModelSamplingSD3", model=model, shift=5.0)
    conds = [comfy.run("CLIPTextEncode", clip=clip, text=text)[0] for text in (PROMPT, "")]
    (latent,) = comfy.run("EmptyHunyuanLatentVideo", width=FRAME_PX, height=FRAME_PX, length=NUM_FRAMES)
    portraits = [
        Image.open(EXAMPLE).convert("RGB"),
        draw_shot(draw_identity(OTHER_PERSON), 1).draw_frame(0, 256),
    ]
    middle = None
    for portrait, mask in zip(
        portraits, comfy.run("LynxFade", latent=latent, start=0.0, end=1.0), strict=True
    ):
        image = torch.from_numpy(np.array(portrait))[None].float() / 255
        face = comfy.run("LynxCropFace", image=image, face_analyzer=analyzer)[0]
        made = {"adapter": adapter, "face": face, "model": model, "clip": clip, "vae": vae}
        identity = {
            "id": comfy.run("LynxEncodeID", face_analyzer=analyzer, face=face)[0],
            "reference": comfy.run("LynxEncodeReference", **made)[0],
        }
        model, *conds, middle = comfy.run(
            "LynxApply",
            model=model,
            positive=conds[0],
            negative=conds[1],
            adapter=adapter,
            mask=mask,
            **identity,
        )
    (latent,) = comfy.run(
        "LynxSampler", model=model, positive=conds[0], negative=conds[1], middle=middle, latent_image=latent,
        seed=SEED, sampler_name="euler", scheduler="simple", steps=20, cfg=3.0, identity_cfg=2.0,
    )  # fmt: skip
    (images,) = comfy.run("VAEDecode", samples=latent, vae=vae)
    frames = (images.clamp(0, 1) * 255).round().byte().numpy()
    first, second = map(np.array, portraits)
    seen = {f"frame {place + 1}": frames[place] for place in range(0, NUM_FRAMES, NUM_FRAMES // 4)}
    return {"first photo": first, **seen, "second photo": second}


def draw_strip(pictures: Mapping[str, np.ndarray]) -> Image.Image:
    """The pictures side by side, what each is below it."""
    strip = Image.new("RGB", (len(pictures) * (TILE_PX + GAP_PX), TILE_PX + LABEL_PX + 10), PAPER)
    draw = ImageDraw.Draw(strip)
    for number, (label, picture) in enumerate(pictures.items()):
        x = number * (TILE_PX + GAP_PX)
        strip.paste(Image.fromarray(picture).resize((TILE_PX, TILE_PX), Image.Resampling.LANCZOS), (x, 0))
        at = (x + TILE_PX / 2, TILE_PX + 4)
        draw.text(at, label, INK, ImageFont.load_default(LABEL_PX), anchor="mt")
    return strip


def main() -> None:
    OUT_DIR.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        base_dir = Path(folder)
        with ComfyHost(REPO_DIR / ".comfyui" / "0.30.0", base_dir) as host:
            for strip in STRIPS:
                pictures = {
                    label: make_frame(host, inputs, base_dir) for label, inputs in strip.values.items()
                }
                draw_strip(pictures).save(OUT_DIR / f"{strip.name}.jpg", quality=88)
                print(strip.name, flush=True)
        draw_strip(make_fade(base_dir / "fade")).save(OUT_DIR / "fade.jpg", quality=88)


if __name__ == "__main__":
    main()
