"""Writes the workflows of the benchmark's methods, in ComfyUI's API format, to assets/benchmark/workflows.

    python scripts/build_benchmark_workflows.py [--check]

Every one has the nodes `photo`, `prompt`, `sample` and `save`, so all methods share their named inputs.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).resolve().parents[1] / "assets" / "benchmark" / "workflows"
NEGATIVE = (
    "static picture, overexposed, blurred details, grey and washed out, worst quality, low quality, jpeg artifacts, "
    "subtitles, watermark, deformed face, deformed hands, extra fingers, extra limbs, crowded background, walking backwards"
)
Nodes = dict[str, dict[str, Any]]


@dataclass(frozen=True)
class Files:
    """The models of a family of methods, and its defaults."""

    base: str
    text_encoder: str
    vae: str
    detector_pack: str
    recogniser: str
    size: tuple[int, int, int]
    """Width, height, frames."""
    fps: float
    steps: int
    sampler: str
    cfg: float
    identity_cfg: float
    negative: str


WAN = Files(
    "wan2.1_t2v_14B_fp8_e4m3fn.safetensors",
    "umt5_xxl_fp8_e4m3fn_scaled.safetensors",
    "wan_2.1_vae.safetensors",
    "buffalo_l",
    "recognition_arcface_ir_se50.pth",
    (832, 480, 81),
    16.0,
    50,
    "uni_pc",
    5.0,
    2.0,
    NEGATIVE,
)
MINI = Files("", "", "", "", "", (64, 64, 9), 8.0, 20, "euler", 3.0, 3.0, "")
"""LynxLoadMini has all of its models."""


@dataclass(frozen=True)
class Lynx:
    """An adapter by its files, and which parts act."""

    adapter: Mapping[str, str]
    uses_id: bool = True
    uses_reference: bool = True


FULL_FILES = {
    "adapter": "none",
    "resampler": "lynx_full/resampler.safetensors",
    "id_layers": "lynx_full/ip_layers.safetensors",
    "ref_layers": "lynx_full/ref_layers.safetensors",
}
LITE_FILES = {
    "adapter": "none",
    "resampler": "lynx_lite/resampler.safetensors",
    "id_layers": "lynx_lite/ip_layers.safetensors",
    "ref_layers": "none",
}


@dataclass
class Builder:
    """Puts a workflow together."""

    files: Files
    nodes: Nodes = field(default_factory=dict)
    clip: list[Any] = field(default_factory=list)
    vae: list[Any] = field(default_factory=list)

    def add(self, name: str, class_type: str, **inputs: Any) -> list[Any]:
        """Add a node; gives a link to its first output."""
        self.nodes[name] = {"class_type": class_type, "inputs": inputs, "_meta": {"title": name}}
        return [name, 0]

    def add_base(self) -> None:
        files = self.files
        if files is MINI:
            self.add("mini", "LynxLoadMini")
            model, self.clip, self.vae = (["mini", place] for place in range(3))
        else:
            model = self.add("model", "UNETLoader", unet_name=files.base, weight_dtype="default")
            self.clip = self.add("clip", "CLIPLoader", clip_name=files.text_encoder, type="wan")
            self.vae = self.add("vae", "VAELoader", vae_name=files.vae)
        self.add("prompt", "CLIPTextEncode", clip=self.clip, text="")
        self.add("negative", "CLIPTextEncode", clip=self.clip, text=files.negative)
        self.add("shift", "ModelSamplingSD3", model=model, shift=5.0)

    def add_adapter(self, adapter: Mapping[str, str]) -> tuple[list[Any], list[Any]]:
        """Links to the adapter and to the face analyzer."""
        files = self.files
        if files is MINI:
            return ["mini", 3], ["mini", 4]
        faces = {"detector_pack": files.detector_pack, "encoder": files.recogniser, "provider": "CPU"}
        return self.add("adapter", "LynxLoadAdapter", **adapter), self.add(
            "analyzer", "LynxLoadFaceAnalyzer", **faces
        )

    def add_latent(self) -> list[Any]:
        width, height, length = self.files.size
        return self.add(
            "latent", "EmptyHunyuanLatentVideo", width=width, height=height, length=length, batch_size=1
        )

    def add_video(self, samples: list[Any], prefix: str) -> None:
        self.add("decode", "VAEDecode", samples=samples, vae=self.vae)
        self.add("video", "CreateVideo", images=["decode", 0], fps=self.files.fps)
        prefix = f"benchmark/{prefix}"
        self.add("save", "SaveVideo", video=["video", 0], filename_prefix=prefix, format="auto", codec="auto")

    def settings(self) -> dict[str, Any]:
        """What all samplers share."""
        return {
            "seed": 0,
            "steps": self.files.steps,
            "sampler_name": self.files.sampler,
            "scheduler": "simple",
            "denoise": 1.0,
        }

    def add_sampler(
        self, model: list[Any], positive: list[Any], negative: list[Any], latent: list[Any]
    ) -> None:
        links = {"model": model, "positive": positive, "negative": negative, "latent_image": latent}
        self.add("sample", "KSampler", cfg=self.files.cfg, **links, **self.settings())


def build_base(files: Files, prefix: str) -> Nodes:
    """Text to video without anybody."""
    builder = Builder(files)
    builder.add_base()
    builder.add_sampler(["shift", 0], ["prompt", 0], ["negative", 0], builder.add_latent())
    builder.add_video(["sample", 0], prefix)
    return builder.nodes


def build_lynx(files: Files, lynx: Lynx, prefix: str, *, triple: bool = True) -> Nodes:
    """Lynx with the parts that act; `triple` guides by prompt and identity apart."""
    builder = Builder(files)
    add = builder.add
    builder.add_base()
    add("photo", "LoadImage", image="")
    adapter, analyzer = builder.add_adapter(lynx.adapter)
    crop = {"order": "largest", "face_number": 1, "already_aligned": False}
    add("face", "LynxCropFace", image=["photo", 0], face_analyzer=analyzer, **crop)
    apply: dict[str, Any] = {"model": ["shift", 0], "positive": ["prompt", 0], "negative": ["negative", 0]}
    apply |= {"adapter": adapter, "preset": "as published"}
    if lynx.uses_id:
        apply["id"] = add("id", "LynxEncodeID", face_analyzer=analyzer, face=["face", 0])
    if lynx.uses_reference:
        links = {"adapter": adapter, "face": ["face", 0], "model": ["shift", 0]}
        links |= {"clip": builder.clip, "vae": builder.vae}
        apply["reference"] = add("reference", "LynxEncodeReference", photo_number=1, **links)
    for part in ("id", "ref"):
        apply |= {f"{part}_strength": 1.0, f"{part}_start": 0.0, f"{part}_end": 1.0, f"{part}_blocks": "all"}
    add("apply", "LynxApply", **apply)
    latent = builder.add_latent()
    if triple:
        links = {
            "model": ["apply", 0],
            "positive": ["apply", 1],
            "negative": ["apply", 2],
            "middle": ["apply", 3],
        }
        guidance = {"cfg": files.cfg, "identity_cfg": files.identity_cfg}
        add("sample", "LynxSampler", latent_image=latent, **links, **guidance, **builder.settings())
    else:
        builder.add_sampler(["apply", 0], ["apply", 1], ["apply", 2], latent)
    builder.add_video(["sample", 0], prefix)
    return builder.nodes


def add_padded_photo(builder: Builder) -> list[Any]:
    """The photo on white in the video's shape: cropping to it would cut the face."""
    width, height, _ = builder.files.size
    builder.add("photo", "LoadImage", image="")
    shape = {
        "target_width": width,
        "target_height": height,
        "padding_color": "white",
        "interpolation": "lanczos",
    }
    return builder.add("padded", "ResizeAndPadImage", image=["photo", 0], **shape)


def build_vace(files: Files, prefix: str) -> Nodes:
    """VACE with the photo as its reference image."""
    builder = Builder(files)
    builder.add_base()
    photo = add_padded_photo(builder)
    width, height, length = files.size
    size = {"width": width, "height": height, "length": length, "batch_size": 1}
    links = {"positive": ["prompt", 0], "negative": ["negative", 0], "vae": builder.vae}
    builder.add("vace", "WanVaceToVideo", **size, strength=1.0, reference_image=photo, **links)
    builder.add_sampler(["shift", 0], ["vace", 0], ["vace", 1], ["vace", 2])
    builder.add("trim", "TrimVideoLatent", samples=["sample", 0], trim_amount=["vace", 3])
    builder.add_video(["trim", 0], prefix)
    return builder.nodes


def build_phantom(files: Files, prefix: str) -> Nodes:
    """Phantom, guided by image (5) and text (7.5) apart as in its release."""
    builder = Builder(files)
    add = builder.add
    builder.add_base()
    photo = add_padded_photo(builder)
    width, height, length = files.size
    size = {"width": width, "height": height, "length": length, "batch_size": 1}
    links = {"positive": ["prompt", 0], "negative": ["negative", 0], "vae": builder.vae}
    add("phantom", "WanPhantomSubjectToVideo", **size, images=photo, **links)
    conditions = {"cond1": ["phantom", 0], "cond2": ["phantom", 1], "negative": ["phantom", 2]}
    guidance = {"cfg_conds": 7.5, "cfg_cond2_negative": 5.0, "style": "regular"}
    add("guider", "DualCFGGuider", model=["shift", 0], **conditions, **guidance)
    add("sample", "RandomNoise", noise_seed=0)
    add("sampler", "KSamplerSelect", sampler_name=files.sampler)
    add("sigmas", "BasicScheduler", model=["shift", 0], scheduler="simple", steps=files.steps, denoise=1.0)
    links = {
        "noise": ["sample", 0],
        "guider": ["guider", 0],
        "sampler": ["sampler", 0],
        "sigmas": ["sigmas", 0],
    }
    add("run", "SamplerCustomAdvanced", latent_image=["phantom", 3], **links)
    builder.add_video(["run", 0], prefix)
    return builder.nodes


def build_all() -> dict[str, Nodes]:
    """File stem to workflow."""
    lite = Files(**{**WAN.__dict__, "size": (832, 480, 121), "fps": 24.0})
    vace = Files(**{**WAN.__dict__, "base": "wan2.1_vace_14B_fp16.safetensors"})
    phantom = Files(**{**WAN.__dict__, "base": "Phantom-Wan-14B_fp8_e4m3fn.safetensors"})
    found = {
        "wan_base": build_base(WAN, "wan_base"),
        "lynx_lite": build_lynx(lite, Lynx(LITE_FILES, uses_reference=False), "lynx_lite", triple=False),
        "vace": build_vace(vace, "vace"),
        "phantom": build_phantom(phantom, "phantom"),
        "mini_base": build_base(MINI, "mini_base"),
    }
    for family, files, adapter in (("lynx", WAN, FULL_FILES), ("mini", MINI, {})):
        found[f"{family}_full"] = build_lynx(files, Lynx(adapter), f"{family}_full")
        id_only, ref_only = Lynx(adapter, uses_reference=False), Lynx(adapter, uses_id=False)
        found[f"{family}_id_only"] = build_lynx(files, id_only, f"{family}_id_only")
        found[f"{family}_ref_only"] = build_lynx(files, ref_only, f"{family}_ref_only")
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description="Write the workflows of the benchmark's methods.")
    parser.add_argument(
        "--check", action="store_true", help="only tell whether the files are as they would be written"
    )
    check = parser.parse_args().check
    wrong = []
    for name, nodes in build_all().items():
        path, text = FOLDER / f"{name}.json", json.dumps(nodes, indent=1) + "\n"
        if check:
            if not path.is_file() or path.read_text(encoding="utf-8") != text:
                wrong.append(path.name)
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
    if wrong:
        print(f"not as scripts/build_benchmark_workflows.py writes them: {', '.join(wrong)}", file=sys.stderr)
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
