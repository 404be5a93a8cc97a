"""API prompts that run in a second on stand-in models: plain Wan, and Wan with Lynx."""

from __future__ import annotations

from typing import Any

Prompt = dict[str, Any]

BASE_MODEL = "wan2.1_t2v_14B_fp8_e4m3fn.safetensors"
TEXT_ENCODER = "umt5_xxl_fp8_e4m3fn_scaled.safetensors"
VAE = "wan_2.1_vae.safetensors"


def _node(class_type: str, **inputs: Any) -> dict[str, Any]:
    return {"class_type": class_type, "inputs": inputs}


def make_wan_prompt(seed: int = 1, steps: int = 2, num_frames: int = 5) -> Prompt:
    """Text to video with core nodes only, 64 x 64."""
    return {
        "model": _node("UNETLoader", unet_name=BASE_MODEL, weight_dtype="default"),
        "clip": _node("CLIPLoader", clip_name=TEXT_ENCODER, type="wan"),
        "vae": _node("VAELoader", vae_name=VAE),
        "prompt": _node("CLIPTextEncode", clip=["clip", 0], text="a person is smiling"),
        "negative": _node("CLIPTextEncode", clip=["clip", 0], text="blurry"),
        "shift": _node("ModelSamplingSD3", model=["model", 0], shift=5.0),
        "latent": _node("EmptyHunyuanLatentVideo", width=64, height=64, length=num_frames, batch_size=1),
        "sample": _node(
            "KSampler",
            model=["shift", 0],
            positive=["prompt", 0],
            negative=["negative", 0],
            latent_image=["latent", 0],
            seed=seed,
            steps=steps,
            cfg=5.0,
            sampler_name="uni_pc",
            scheduler="simple",
            denoise=1.0,
        ),
        "decode": _node("VAEDecode", samples=["sample", 0], vae=["vae", 0]),
        "video": _node("CreateVideo", images=["decode", 0], fps=16.0),
        "save": _node("SaveVideo", video=["video", 0], filename_prefix="test", format="auto", codec="auto"),
    }


def make_lynx_prompt(photo: str, seed: int = 1, steps: int = 2, num_frames: int = 5) -> Prompt:
    """The same with a person from an uploaded photo: full adapter, triple guidance."""
    prompt = make_wan_prompt(seed, steps, num_frames)
    apply_inputs = {
        "model": ["shift", 0],
        "positive": ["prompt", 0],
        "negative": ["negative", 0],
        "adapter": ["adapter", 0],
        "id": ["id", 0],
        "reference": ["reference", 0],
        "preset": "custom",
    }
    for part in ("id", "ref"):
        whole = {"strength": 1.0, "start": 0.0, "end": 1.0, "blocks": "all"}
        apply_inputs |= {f"{part}_{name}": value for name, value in whole.items()}
    sampling = {"seed": seed, "steps": steps, "sampler_name": "uni_pc", "scheduler": "simple", "denoise": 1.0}
    return prompt | {
        "photo": _node("LoadImage", image=photo),
        "adapter": _node(
            "LynxLoadAdapter", adapter="lynx_full", resampler="none", id_layers="none", ref_layers="none"
        ),
        "analyzer": _node(
            "LynxLoadFaceAnalyzer",
            detector_pack="buffalo_l",
            encoder="recognition_arcface_ir_se50.pth",
            provider="CPU",
        ),
        "face": _node(
            "LynxCropFace",
            image=["photo", 0],
            face_analyzer=["analyzer", 0],
            order="largest",
            face_number=1,
            already_aligned=False,
        ),
        "id": _node("LynxEncodeID", face_analyzer=["analyzer", 0], face=["face", 0]),
        "reference": _node(
            "LynxEncodeReference",
            adapter=["adapter", 0],
            face=["face", 0],
            model=["shift", 0],
            clip=["clip", 0],
            vae=["vae", 0],
            photo_number=1,
        ),
        "apply": _node("LynxApply", **apply_inputs),
        "sample": _node(
            "LynxSampler",
            model=["apply", 0],
            positive=["apply", 1],
            negative=["apply", 2],
            middle=["apply", 3],
            cfg=5.0,
            identity_cfg=2.0,
            latent_image=["latent", 0],
            **sampling,
        ),
    }


def make_person_prompt(photo: str, seed: int = 1) -> Prompt:
    """The shortest graph with Lynx: Lynx Person and Lynx Sampler."""
    prompt = make_lynx_prompt(photo, seed)
    for name in ("adapter", "analyzer", "face", "id", "reference"):
        del prompt[name]
    prompt["apply"] = _put_person(image=["photo", 0], model=["shift", 0], clip=["clip", 0], vae=["vae", 0])
    return prompt


def _put_person(**links: Any) -> dict[str, Any]:
    return _node(
        "LynxPerson",
        **links,
        positive=["prompt", 0],
        negative=["negative", 0],
        adapter="lynx_full",
        preset="as published",
        id_strength=1.0,
        ref_strength=1.0,
    )


def make_gated_prompt(threshold: float, seeds: tuple[int, ...], keep: str = "all that pass") -> Prompt:
    """Videos of Mini Lynx from several seeds at once, measured, and those that pass saved as pictures."""
    return {
        "mini": _node("LynxLoadMini"),
        "prompt": _node("CLIPTextEncode", clip=["mini", 1], text="a person smiles"),
        "negative": _node("CLIPTextEncode", clip=["mini", 1], text=""),
        "person": _put_person(
            image=["mini", 5],
            model=["mini", 0],
            clip=["mini", 1],
            vae=["mini", 2],
            loaded_adapter=["mini", 3],
        ),
        "latent": _node("EmptyHunyuanLatentVideo", width=64, height=64, length=5, batch_size=len(seeds)),
        "list": _node("RebatchLatents", latents=["latent", 0], batch_size=1),
        "sample": _node(
            "LynxSampler",
            model=["person", 0],
            positive=["person", 1],
            negative=["person", 2],
            middle=["person", 3],
            cfg=2.0,
            identity_cfg=2.0,
            latent_image=["list", 0],
            seed=seeds[0],
            steps=6,
            sampler_name="euler",
            scheduler="simple",
            denoise=1.0,
        ),
        "decode": _node("VAEDecode", samples=["sample", 0], vae=["mini", 2]),
        "likeness": _node(
            "LynxFaceSimilarity", images=["decode", 0], face_analyzer=["mini", 4], reference=["mini", 5]
        ),
        "gate": _node(
            "LynxLikenessGate", images=["decode", 0], score=["likeness", 2], threshold=threshold, keep=keep
        ),
        "save": _node("SaveImage", images=["gate", 0], filename_prefix="kept"),
        "plot": _node("SaveImage", images=["likeness", 3], filename_prefix="plot"),
        "sheet": _node("SaveImage", images=["likeness", 4], filename_prefix="sheet"),
    }
