"""The graphs that the wirings start from, as API prompts that end in a saved latent."""

from __future__ import annotations

from typing import Any

from prompts import make_lynx_prompt, make_wan_prompt

Prompt = dict[str, Any]

PHOTO = "six_faces.png"
DARK_PHOTO, BLANK = "six_faces_dark.png", "blank.png"
"""The same people at half the brightness, and an even picture of 300 x 400."""

SHALLOW_WAN, NARROW_CLIP = "wan_t2v_2_blocks.safetensors", "umt5_narrow.safetensors"
"""A Wan with fewer blocks than the adapter, a text encoder of another width than the base model's."""

CFG, IDENTITY_CFG = 5.0, 2.0
STEPS = 2
SEED = 1
SAMPLER = "euler"
"""Not uni_pc, for which KSampler makes other sigmas than BasicScheduler."""

HIGH_NOISE = "wan2.2_t2v_high_noise_14B_fp8_scaled.safetensors"
LOW_NOISE = "wan2.2_t2v_low_noise_14B_fp8_scaled.safetensors"
LORA = "Wan21_T2V_14B_lightx2v_cfg_step_distill_lora_rank32.safetensors"


def node(class_type: str, **inputs: Any) -> dict[str, Any]:
    """One node of an API prompt; links are [node, slot]."""
    return {"class_type": class_type, "inputs": inputs}


def make_plain(cfg: float = CFG) -> Prompt:
    """Core nodes only: text to video by KSampler."""
    return _end_in_a_latent(make_wan_prompt(SEED, STEPS), cfg)


def make_lynx(sampler: str = "LynxSampler", cfg: float = CFG, **settings: Any) -> Prompt:
    """A person from a photo on Wan, full adapter.

    Args:
        sampler: "LynxSampler", "LynxGuider", "KSampler" or "CFGGuider"; the guiders with SamplerCustomAdvanced.
        settings: widgets of Lynx Apply.
    """
    prompt = _end_in_a_latent(make_lynx_prompt(PHOTO, SEED, STEPS), cfg)
    prompt["apply"]["inputs"] |= settings
    return set_sampler(prompt, sampler, cfg)


def _end_in_a_latent(prompt: Prompt, cfg: float) -> Prompt:
    for name in ("decode", "video", "save"):
        del prompt[name]
    prompt["sample"]["inputs"] |= {"cfg": cfg, "sampler_name": SAMPLER}
    return prompt | {"save": node("SaveLatent", samples=["sample", 0], filename_prefix="latents/wiring")}


def set_sampler(prompt: Prompt, sampler: str, cfg: float = CFG) -> Prompt:
    """Sample what Lynx Apply gives out with another node; `sample` is the one that runs the steps."""
    wired = {"model": ["apply", 0], "positive": ["apply", 1], "negative": ["apply", 2]}
    triple = {"middle": ["apply", 3], "identity_cfg": IDENTITY_CFG} if sampler.startswith("Lynx") else {}
    if not sampler.endswith("Guider"):
        schedule = {"sampler_name": SAMPLER, "scheduler": "simple", "denoise": 1.0}
        prompt["sample"] = node(
            sampler,
            **wired,
            **triple,
            cfg=cfg,
            latent_image=["latent", 0],
            seed=SEED,
            steps=STEPS,
            **schedule,
        )
        return prompt
    return prompt | {
        "guider": node(sampler, **wired, **triple, cfg=cfg),
        "noise": node("RandomNoise", noise_seed=SEED),
        "method": node("KSamplerSelect", sampler_name=SAMPLER),
        "sigmas": node("BasicScheduler", model=["shift", 0], scheduler="simple", steps=STEPS, denoise=1.0),
        "sample": node(
            "SamplerCustomAdvanced",
            noise=["noise", 0],
            guider=["guider", 0],
            sampler=["method", 0],
            sigmas=["sigmas", 0],
            latent_image=["latent", 0],
        ),
    }


def take_guided(prompt: Prompt) -> str:
    """The node that takes MODEL and conditionings: the guider, or the sampler itself."""
    return "guider" if "guider" in prompt else "sample"


def add_person(prompt: Prompt, face_number: int, suffix: str = "_b") -> Prompt:
    """A second person of the photo on the same model and prompts, as nodes with this suffix."""
    copies = {
        f"{name}{suffix}": {**prompt[name], "inputs": dict(prompt[name]["inputs"])}
        for name in ("face", "id", "reference", "apply")
    }
    copies[f"face{suffix}"]["inputs"]["face_number"] = face_number
    for name in ("id", "reference"):
        copies[f"{name}{suffix}"]["inputs"]["face"] = [f"face{suffix}", 0]
        copies[f"apply{suffix}"]["inputs"][name] = [f"{name}{suffix}", 0]
    return prompt | copies


def make_two_experts() -> Prompt:
    """Wan 2.2: high noise, then low noise, each with its own Lynx Encode Reference and Lynx Apply."""
    prompt = make_lynx()
    prompt["model"]["inputs"]["unet_name"] = HIGH_NOISE
    low = {
        f"{name}_low": {**prompt[name], "inputs": dict(prompt[name]["inputs"])}
        for name in ("model", "shift", "reference", "apply")
    }
    low["model_low"]["inputs"]["unet_name"] = LOW_NOISE
    low["shift_low"]["inputs"]["model"] = ["model_low", 0]
    low["reference_low"]["inputs"]["model"] = ["shift_low", 0]
    low["apply_low"]["inputs"] |= {"model": ["shift_low", 0], "reference": ["reference_low", 0]}
    prompt |= low
    for name, apply, latent, start, end in (
        ("sample", "apply", "latent", 0, 1),
        ("sample_low", "apply_low", "sample", 1, STEPS),
    ):
        prompt[name] = node(
            "KSamplerAdvanced",
            model=[apply, 0],
            positive=[apply, 1],
            negative=[apply, 2],
            latent_image=[latent, 0],
            add_noise="enable" if start == 0 else "disable",
            noise_seed=SEED,
            steps=STEPS,
            cfg=CFG,
            sampler_name=SAMPLER,
            scheduler="simple",
            start_at_step=start,
            end_at_step=end,
            return_with_leftover_noise="enable" if start == 0 else "disable",
        )
    prompt["save"]["inputs"]["samples"] = ["sample_low", 0]
    return prompt
