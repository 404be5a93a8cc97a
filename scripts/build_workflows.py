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
from workflow_builder.graph import Graph, Json, Node, Row, column, row  # noqa: E402
from workflow_builder.mini import build_mini  # noqa: E402
from workflow_builder.node_types import (  # noqa: E402
    DISTILLED_LORA,
    HIGH_NOISE,
    LOW_NOISE,
    NODE_TYPES,
    T2V,
    VACE,
)
from workflow_builder.parts import (  # noqa: E402
    PHOTO,
    apply_lynx,
    arrange,
    build_start,
    build_video,
    empty_latent,
    encode_reference,
    guide,
    write_help,
)


def build_full() -> Json:
    g = Graph(NODE_TYPES)
    start = build_start(g, "lynx_full", T2V)
    shift = g.add("ModelSamplingSD3", model=start.models[0]["MODEL"], shift=5.0)
    reference = encode_reference(g, start, shift["MODEL"])
    applied = apply_lynx(g, start, shift["MODEL"], reference)
    latent = empty_latent(g, length=81)
    sampled = sample_as_published(g, applied, latent)
    return g.to_json(
        "lynx_full",
        arrange(
            models=row(column(*start.loaders), column(shift, start.files)),
            prompt=column(*start.texts),
            face=start.face,
            identity=row(reference, applied),
            sampling=row(latent, sampled),
            video=build_video(g, sampled["LATENT"], start.vae, 16.0, "lynx_full"),
            help=write_help(g, Strengths_and_windows=notes.IDENTITY, Two_guidances=notes.GUIDANCE),
        ),
    )


def sample_as_published(g: Graph, applied: Node, latent: Node, output: str = "LATENT") -> Node:
    return guide(
        g,
        "LynxSampler",
        applied,
        latent_image=latent[output],
        cfg=5.0,
        identity_cfg=2.0,
        seed=0,
        steps=50,
        sampler_name="uni_pc",
        scheduler="simple",
        denoise=1.0,
    )


def build_lite() -> Json:
    g = Graph(NODE_TYPES)
    start = build_start(g, "lynx_lite", T2V, with_reference=False)
    shift = g.add("ModelSamplingSD3", model=start.models[0]["MODEL"], shift=5.0)
    applied = apply_lynx(g, start, shift["MODEL"], reference=None)
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
            models=row(column(*start.loaders), column(shift, start.files)),
            prompt=column(*start.texts),
            face=start.face,
            identity=applied,
            sampling=row(latent, sampled),
            video=build_video(g, sampled["LATENT"], start.vae, 24.0, "lynx_lite"),
            help=write_help(g, Lite=notes.LITE),
        ),
    )


def build_fast() -> Json:
    g = Graph(NODE_TYPES)
    start = build_start(g, "lynx_full", T2V, DISTILLED_LORA)
    lora = g.add(
        "LoraLoaderModelOnly",
        models=[DISTILLED_LORA],
        model=start.models[0]["MODEL"],
        lora_name=DISTILLED_LORA["name"],
        strength_model=1.0,
    )
    shift = g.add("ModelSamplingSD3", model=lora["MODEL"], shift=5.0)
    reference = encode_reference(g, start, lora["MODEL"])
    applied = apply_lynx(g, start, shift["MODEL"], reference, preset="distilled LoRA at cfg 1")
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
    return g.to_json(
        "lynx_fast",
        arrange(
            models=row(column(*start.loaders), column(lora, start.files)),
            prompt=column(*start.texts),
            face=start.face,
            identity=row(column(shift, reference), applied),
            sampling=row(column(noise, sampler, latent), column(guider, sigmas), sampled),
            video=build_video(g, sampled["output"], start.vae, 16.0, "lynx_fast"),
            help=write_help(g, LoRA_first__then_Lynx=notes.LORA, At_cfg_1=notes.FAST_GUIDANCE),
        ),
    )


EXPERTS = ("high noise", "low noise")


def build_two_experts() -> Json:
    g = Graph(NODE_TYPES)
    start = build_start(g, "lynx_full", HIGH_NOISE, LOW_NOISE, model_names=EXPERTS)
    shifts = [
        g.add("ModelSamplingSD3", title=f"Shift ({name})", model=model["MODEL"], shift=5.0)
        for model, name in zip(start.models, EXPERTS, strict=True)
    ]
    references = [
        encode_reference(g, start, shift["MODEL"], f"Lynx Encode Reference ({name})")
        for shift, name in zip(shifts, EXPERTS, strict=True)
    ]
    applied = [
        apply_lynx(g, start, shift["MODEL"], reference, title=f"Lynx Apply ({name})")
        for shift, reference, name in zip(shifts, references, EXPERTS, strict=True)
    ]
    sampling, last = sample_in_two_halves(g, applied)
    return g.to_json(
        "lynx_wan22_two_experts",
        arrange(
            models=row(column(*start.loaders), column(*shifts, start.files)),
            prompt=column(*start.texts),
            face=start.face,
            identity=row(column(*references), *applied),
            sampling=sampling,
            video=build_video(g, last["output"], start.vae, 16.0, "lynx_wan22"),
            help=write_help(g, Experimental=notes.TWO_EXPERTS, Strengths_and_windows=notes.IDENTITY),
        ),
    )


def sample_in_two_halves(g: Graph, applied: list[Node]) -> tuple[Row, Node]:
    """The high-noise expert samples the first half, the low-noise expert the second."""
    noise = g.add("RandomNoise", noise_seed=0)
    no_noise = g.add("DisableNoise", title="No new noise for the second half")
    sampler = g.add("KSamplerSelect", sampler_name="euler")
    guiders = [
        guide(g, "LynxGuider", one, f"Lynx Guider ({name})", cfg=3.5, identity_cfg=2.0)
        for one, name in zip(applied, EXPERTS, strict=True)
    ]
    sigmas = g.add("BasicScheduler", model=applied[0]["MODEL"], scheduler="simple", steps=20, denoise=1.0)
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
    return row(column(sigmas, latent, noise), column(split, sampler, no_noise, *guiders), high, low), low


def build_vace() -> Json:
    g = Graph(NODE_TYPES)
    start = build_start(g, "lynx_full", VACE)
    positive, negative = start.texts
    shift = g.add("ModelSamplingSD3", model=start.models[0]["MODEL"], shift=5.0)
    scene = g.add("LoadImage", title="Scene, object or outfit for VACE", image=PHOTO)
    control = g.add(
        "WanVaceToVideo",
        positive=positive["CONDITIONING"],
        negative=negative["CONDITIONING"],
        vae=start.vae["VAE"],
        reference_image=scene["IMAGE"],
        width=832,
        height=480,
        length=81,
        batch_size=1,
        strength=1.0,
    )
    reference = encode_reference(g, start, shift["MODEL"])
    applied = apply_lynx(g, start, shift["MODEL"], reference, through=control)
    sampled = sample_as_published(g, applied, control, "latent")
    trim = control["trim_latent"]
    return g.to_json(
        "lynx_vace",
        arrange(
            models=row(column(*start.loaders), column(shift, start.files)),
            prompt=row(column(*start.texts), scene, control),
            face=start.face,
            identity=row(reference, applied),
            sampling=sampled,
            video=build_video(g, sampled["LATENT"], start.vae, 16.0, "lynx_vace", trim),
            help=write_help(g, What_VACE_adds=notes.VACE, Strengths_and_windows=notes.IDENTITY),
        ),
    )


WORKFLOWS: dict[str, Callable[[], Json]] = {
    "lynx_full": build_full,
    "lynx_lite": build_lite,
    "lynx_fast": build_fast,
    "lynx_wan22_two_experts": build_two_experts,
    "lynx_vace": build_vace,
    "lynx_mini": build_mini,
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
