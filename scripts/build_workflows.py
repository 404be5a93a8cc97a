"""Writes `workflows/*.json`: one function a workflow.

    python scripts/build_workflows.py            writes the files
    python scripts/build_workflows.py --check    ends 1 when a file differs from what would be written

The order of the nodes is the order in which they are added; ids and links follow from it.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

REPO_DIR = Path(__file__).resolve().parents[1]
WORKFLOWS_DIR = REPO_DIR / "workflows"
sys.path.insert(0, str(REPO_DIR / "nodes"))  # for `presets`, which imports nothing of the host

from workflow_builder import notes  # noqa: E402
from workflow_builder.graph import Graph, Group, Json, column, row  # noqa: E402
from workflow_builder.node_types import (  # noqa: E402
    DISTILLED_LORA,
    HIGH_NOISE,
    LOW_NOISE,
    NODE_TYPES,
    T2V,
    TEXT_ENCODER,
    VACE,
    VAE,
)
from workflow_builder.parts import (  # noqa: E402
    PHOTO,
    PURPLE,
    VIOLET,
    apply_lynx,
    arrange,
    build_face,
    build_prompt,
    build_video,
    empty_latent,
    encode_reference,
    guide,
    load_adapter,
    load_model,
    load_text_and_vae,
)


def build_full() -> Json:
    g = Graph(NODE_TYPES)
    model = load_model(g, T2V)
    clip, vae = load_text_and_vae(g)
    adapter = load_adapter(g, "lynx_full")
    shift = g.add("ModelSamplingSD3", model=model["MODEL"], shift=5.0)
    files = g.note("Which file goes where", notes.list_files(T2V, TEXT_ENCODER, VAE, adapter="lynx_full"))
    crop, face_id, face = build_face(g)
    positive, negative = build_prompt(g, clip)
    reference = encode_reference(g, adapter, crop, shift["MODEL"], clip, vae)
    applied = apply_lynx(
        g,
        shift["MODEL"],
        positive["CONDITIONING"],
        negative["CONDITIONING"],
        adapter,
        face_id,
        reference,
    )
    about_identity = g.note("Strengths and windows", notes.IDENTITY, width=340)
    latent = empty_latent(g, length=81)
    sampled = guide(
        g,
        "LynxSampler",
        applied,
        latent_image=latent["LATENT"],
        cfg=5.0,
        identity_cfg=2.0,
        seed=0,
        steps=50,
        sampler_name="uni_pc",
        scheduler="simple",
        denoise=1.0,
    )
    about_guidance = g.note("Two guidances", notes.GUIDANCE, width=320)
    return g.to_json(
        "lynx_full",
        arrange(
            row(column(model, clip, vae, adapter), column(shift, files)),
            column(positive, negative),
            face,
            Group("4 Identity", PURPLE, row(column(reference, about_identity), applied)),
            Group("5 Sampling", VIOLET, row(column(latent, about_guidance), sampled)),
            build_video(g, sampled["LATENT"], vae, 16.0, "lynx_full"),
        ),
    )


def build_lite() -> Json:
    g = Graph(NODE_TYPES)
    model = load_model(g, T2V)
    clip, vae = load_text_and_vae(g)
    adapter = load_adapter(g, "lynx_lite")
    shift = g.add("ModelSamplingSD3", model=model["MODEL"], shift=5.0)
    files = g.note("Which file goes where", notes.list_files(T2V, TEXT_ENCODER, VAE, adapter="lynx_lite"))
    _, face_id, face = build_face(g, with_reference=False)
    positive, negative = build_prompt(g, clip)
    applied = apply_lynx(
        g, shift["MODEL"], positive["CONDITIONING"], negative["CONDITIONING"], adapter, face_id, None
    )
    about_identity = g.note("Lite", notes.LITE, width=340)
    latent = empty_latent(g, length=121)
    sampled = g.add(
        "KSampler",
        model=applied["MODEL"],
        positive=applied["positive"],
        negative=applied["negative"],
        latent_image=latent["LATENT"],
        seed=0,
        steps=50,
        cfg=5.0,
        sampler_name="uni_pc",
        scheduler="simple",
        denoise=1.0,
    )
    return g.to_json(
        "lynx_lite",
        arrange(
            row(column(model, clip, vae, adapter), column(shift, files)),
            column(positive, negative),
            face,
            Group("4 Identity", PURPLE, column(applied, about_identity)),
            Group("5 Sampling", VIOLET, row(latent, sampled)),
            build_video(g, sampled["LATENT"], vae, 24.0, "lynx_lite"),
        ),
    )


def build_fast() -> Json:
    g = Graph(NODE_TYPES)
    model = load_model(g, T2V)
    clip, vae = load_text_and_vae(g)
    adapter = load_adapter(g, "lynx_full")
    lora = g.add(
        "LoraLoaderModelOnly",
        models=[DISTILLED_LORA],
        model=model["MODEL"],
        lora_name=DISTILLED_LORA["name"],
        strength_model=1.0,
    )
    files = g.note(
        "Which file goes where",
        notes.list_files(T2V, DISTILLED_LORA, TEXT_ENCODER, VAE, adapter="lynx_full"),
    )
    crop, face_id, face = build_face(g)
    positive, negative = build_prompt(g, clip)
    shift = g.add("ModelSamplingSD3", model=lora["MODEL"], shift=5.0)
    reference = encode_reference(g, adapter, crop, lora["MODEL"], clip, vae)
    about_lora = g.note("LoRA first, then Lynx", notes.LORA, width=340)
    applied = apply_lynx(
        g,
        shift["MODEL"],
        positive["CONDITIONING"],
        negative["CONDITIONING"],
        adapter,
        face_id,
        reference,
        preset="distilled LoRA at cfg 1",
    )
    noise = g.add("RandomNoise", noise_seed=0)
    guider = guide(g, "LynxGuider", applied, cfg=1.0, identity_cfg=1.0)
    sampler = g.add("KSamplerSelect", sampler_name="lcm")
    sigmas = g.add("BasicScheduler", model=applied["MODEL"], scheduler="simple", steps=6, denoise=1.0)
    latent = empty_latent(g, length=81)
    sampled = g.add(
        "SamplerCustomAdvanced",
        noise=noise["NOISE"],
        guider=guider["GUIDER"],
        sampler=sampler["SAMPLER"],
        sigmas=sigmas["SIGMAS"],
        latent_image=latent["LATENT"],
    )
    about_guidance = g.note("At cfg 1", notes.FAST_GUIDANCE, width=320)
    return g.to_json(
        "lynx_fast",
        arrange(
            row(column(model, clip, vae, adapter), column(lora, files)),
            column(positive, negative),
            face,
            Group("4 Identity", PURPLE, row(column(shift, reference, about_lora), applied)),
            Group(
                "5 Sampling",
                VIOLET,
                row(column(noise, guider, sampler, sigmas, latent), column(sampled, about_guidance)),
            ),
            build_video(g, sampled["output"], vae, 16.0, "lynx_fast"),
        ),
    )


def build_two_experts() -> Json:
    g = Graph(NODE_TYPES)
    names = ("high noise", "low noise")
    models = [
        load_model(g, file, f"Load Diffusion Model ({name})")
        for file, name in zip((HIGH_NOISE, LOW_NOISE), names, strict=True)
    ]
    clip, vae = load_text_and_vae(g)
    adapter = load_adapter(g, "lynx_full")
    shifts = [
        g.add("ModelSamplingSD3", title=f"Shift ({name})", model=model["MODEL"], shift=5.0)
        for model, name in zip(models, names, strict=True)
    ]
    files = g.note(
        "Which file goes where",
        notes.list_files(HIGH_NOISE, LOW_NOISE, TEXT_ENCODER, VAE, adapter="lynx_full"),
    )
    crop, face_id, face = build_face(g)
    positive, negative = build_prompt(g, clip)
    references, applied = [], []
    for shift, name in zip(shifts, names, strict=True):
        reference = encode_reference(
            g, adapter, crop, shift["MODEL"], clip, vae, f"Lynx Encode Reference ({name})"
        )
        references.append(reference)
        applied.append(
            apply_lynx(
                g,
                shift["MODEL"],
                positive["CONDITIONING"],
                negative["CONDITIONING"],
                adapter,
                face_id,
                reference,
                title=f"Lynx Apply ({name})",
            )
        )
    about_experts = g.note("Experimental", notes.TWO_EXPERTS, width=340)
    noise = g.add("RandomNoise", noise_seed=0)
    no_noise = g.add("DisableNoise", title="No new noise for the second half")
    sampler = g.add("KSamplerSelect", sampler_name="euler")
    sigmas = g.add("BasicScheduler", model=applied[0]["MODEL"], scheduler="simple", steps=20, denoise=1.0)
    guiders = [
        guide(g, "LynxGuider", one, f"Lynx Guider ({name})", cfg=3.5, identity_cfg=2.0)
        for one, name in zip(applied, names, strict=True)
    ]
    latent = empty_latent(g, length=81)
    split = g.add("SplitSigmas", sigmas=sigmas["SIGMAS"], step=10)
    high = g.add(
        "SamplerCustomAdvanced",
        title="First half (high noise)",
        noise=noise["NOISE"],
        guider=guiders[0]["GUIDER"],
        sampler=sampler["SAMPLER"],
        sigmas=split["high_sigmas"],
        latent_image=latent["LATENT"],
    )
    low = g.add(
        "SamplerCustomAdvanced",
        title="Second half (low noise)",
        noise=no_noise["NOISE"],
        guider=guiders[1]["GUIDER"],
        sampler=sampler["SAMPLER"],
        sigmas=split["low_sigmas"],
        latent_image=high["output"],
    )
    return g.to_json(
        "lynx_wan22_two_experts",
        arrange(
            row(column(*models, clip, vae, adapter), column(*shifts, files)),
            column(positive, negative),
            face,
            Group(
                "4 Identity, once per expert",
                PURPLE,
                row(column(*references, about_experts), column(*applied)),
            ),
            Group(
                "5 Sampling",
                VIOLET,
                row(
                    column(noise, no_noise, sampler, sigmas, *guiders, latent),
                    column(split, high),
                    column(low),
                ),
            ),
            build_video(g, low["output"], vae, 16.0, "lynx_wan22"),
        ),
    )


def build_vace() -> Json:
    g = Graph(NODE_TYPES)
    model = load_model(g, VACE)
    clip, vae = load_text_and_vae(g)
    adapter = load_adapter(g, "lynx_full")
    shift = g.add("ModelSamplingSD3", model=model["MODEL"], shift=5.0)
    files = g.note("Which file goes where", notes.list_files(VACE, TEXT_ENCODER, VAE, adapter="lynx_full"))
    crop, face_id, face = build_face(g)
    positive, negative = build_prompt(g, clip)
    scene = g.add("LoadImage", title="Scene, object or outfit for VACE", image=PHOTO)
    about_vace = g.note("What VACE adds", notes.VACE, width=320)
    control = g.add(
        "WanVaceToVideo",
        positive=positive["CONDITIONING"],
        negative=negative["CONDITIONING"],
        vae=vae["VAE"],
        reference_image=scene["IMAGE"],
        width=832,
        height=480,
        length=81,
        batch_size=1,
        strength=1.0,
    )
    reference = encode_reference(g, adapter, crop, shift["MODEL"], clip, vae)
    applied = apply_lynx(
        g,
        shift["MODEL"],
        control["positive"],
        control["negative"],
        adapter,
        face_id,
        reference,
        vace_reference_frames=control["trim_latent"],
    )
    about_identity = g.note("Strengths and windows", notes.IDENTITY, width=340)
    sampled = guide(
        g,
        "LynxSampler",
        applied,
        latent_image=control["latent"],
        cfg=5.0,
        identity_cfg=2.0,
        seed=0,
        steps=50,
        sampler_name="uni_pc",
        scheduler="simple",
        denoise=1.0,
    )
    about_guidance = g.note("Two guidances", notes.GUIDANCE, width=320)
    return g.to_json(
        "lynx_vace",
        arrange(
            row(column(model, clip, vae, adapter), column(shift, files)),
            row(column(positive, negative), column(scene, about_vace), control),
            face,
            Group("4 Identity", PURPLE, row(column(reference, about_identity), applied)),
            Group("5 Sampling", VIOLET, column(sampled, about_guidance)),
            build_video(g, sampled["LATENT"], vae, 16.0, "lynx_vace", trim=control["trim_latent"]),
        ),
    )


WORKFLOWS: dict[str, Callable[[], Json]] = {
    "lynx_full": build_full,
    "lynx_lite": build_lite,
    "lynx_fast": build_fast,
    "lynx_wan22_two_experts": build_two_experts,
    "lynx_vace": build_vace,
}


def main(arguments: list[str]) -> int:
    differing = []
    for name, build in WORKFLOWS.items():
        path = WORKFLOWS_DIR / f"{name}.json"
        text = json.dumps(build(), indent=1, ensure_ascii=False) + "\n"
        if "--check" in arguments:
            if not path.is_file() or path.read_text(encoding="utf-8") != text:
                differing.append(path.name)
        else:
            path.write_text(text, encoding="utf-8")
    if differing:
        print(
            f"{', '.join(differing)}: not what scripts/build_workflows.py writes; run it and commit the files"
        )
    return 1 if differing else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
