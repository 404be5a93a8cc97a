"""What the shipped workflows have in common: loaders, face, prompt, identity, video."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from presets import PRESETS, PartSettings

from . import notes
from .graph import Box, Graph, Group, Json, Node, Output, column, row
from .node_types import TEXT_ENCODER, VAE

PROMPT = (
    "A person in a dark green raincoat walks along a harbour at dusk, stops, turns to the camera and smiles. "
    "Lamps are mirrored in the wet cobblestones, boats sway in the background. Medium shot, slow tracking camera, "
    "soft natural light."
)
NEGATIVE = (
    "static picture, overexposed, blurred details, grey and washed out, worst quality, low quality, jpeg artifacts, "
    "subtitles, watermark, deformed face, deformed hands, extra fingers, extra limbs, crowded background, walking "
    "backwards"
)
PHOTO = "example.png"
BLUE, ORANGE, GREEN, PURPLE, VIOLET, RED = "#3f789e", "#b06634", "#5f8f5f", "#8a4f9e", "#6a6aa8", "#a85f6a"


def load_model(g: Graph, file: Json, title: str | None = None) -> Node:
    return g.add("UNETLoader", title=title, models=[file], unet_name=file["name"], weight_dtype="default")


def load_text_and_vae(g: Graph) -> tuple[Node, Node]:
    clip = g.add(
        "CLIPLoader", models=[TEXT_ENCODER], clip_name=TEXT_ENCODER["name"], type="wan", device="default"
    )
    return clip, g.add("VAELoader", models=[VAE], vae_name=VAE["name"])


def load_adapter(g: Graph, name: str) -> Node:
    return g.add("LynxLoadAdapter", adapter=name, resampler="none", id_layers="none", ref_layers="none")


def build_face(g: Graph, with_reference: bool = True) -> tuple[Node, Node, Group]:
    """The crop, the ID, and their group."""
    photo = g.add("LoadImage", title="Photo of the person", image=PHOTO)
    analyzer = g.add(
        "LynxLoadFaceAnalyzer",
        detector_pack="buffalo_l",
        encoder="recognition_arcface_ir_se50.pth",
        provider="CPU",
    )
    crop = g.add(
        "LynxCropFace",
        image=photo["IMAGE"],
        face_analyzer=analyzer["face_analyzer"],
        order="largest",
        face_number=1,
        already_aligned=False,
    )
    face_id = g.add("LynxEncodeID", face_analyzer=analyzer["face_analyzer"], face=crop["face"])
    seen = [g.add("PreviewImage", title="What the ID sees (112 px)", images=crop["id_crop"])]
    if with_reference:
        seen.append(
            g.add("PreviewImage", title="What the reference sees (256 px)", images=crop["reference_crop"])
        )
    note = g.note("About the photo", notes.PHOTO, width=340)
    inside = row(column(photo, analyzer), column(crop), column(face_id, *seen), note)
    return crop, face_id, Group("2 Face", ORANGE, inside)


def build_prompt(g: Graph, clip: Node) -> tuple[Node, Node]:
    positive = g.add("CLIPTextEncode", title="Prompt", clip=clip["CLIP"], text=PROMPT)
    negative = g.add("CLIPTextEncode", title="Negative prompt", clip=clip["CLIP"], text=NEGATIVE)
    positive.colours, negative.colours = ("#232", "#353"), ("#322", "#533")
    return positive, negative


def name_settings(preset: str) -> dict[str, Any]:
    """The widget values of LynxApply that show a preset."""

    def name_part(part: str, settings: PartSettings) -> dict[str, Any]:
        strength, start, end, blocks = asdict(settings).values()
        return {
            f"{part}_strength": strength,
            f"{part}_start": start,
            f"{part}_end": end,
            f"{part}_blocks": blocks,
        }

    chosen = PRESETS[preset]
    return {"preset": preset, **name_part("id", chosen.id), **name_part("ref", chosen.ref)}


def apply_lynx(
    g: Graph,
    model: Output,
    positive: Output,
    negative: Output,
    adapter: Node,
    face_id: Node,
    reference: Node | None,
    preset: str = "as published",
    vace_reference_frames: Output | int = 0,
    title: str | None = None,
) -> Node:
    return g.add(
        "LynxApply",
        title=title,
        model=model,
        positive=positive,
        negative=negative,
        adapter=adapter["adapter"],
        id=face_id["id"],
        reference=reference["reference"] if reference else None,
        vace_reference_frames=vace_reference_frames,
        **name_settings(preset),
    )


def encode_reference(
    g: Graph, adapter: Node, crop: Node, model: Output, clip: Node, vae: Node, title: str | None = None
) -> Node:
    return g.add(
        "LynxEncodeReference",
        title=title,
        adapter=adapter["adapter"],
        face=crop["face"],
        model=model,
        clip=clip["CLIP"],
        vae=vae["VAE"],
        photo_number=1,
    )


def guide(g: Graph, type: str, applied: Node, title: str | None = None, **values: Any) -> Node:
    """A LynxGuider or LynxSampler on everything that LynxApply gives out."""
    outputs = {name: applied[name] for name in ("positive", "negative", "middle")}
    return g.add(type, title=title, model=applied["MODEL"], **outputs, **values)


def empty_latent(g: Graph, length: int) -> Node:
    return g.add(
        "EmptyHunyuanLatentVideo",
        title="Size and length",
        width=832,
        height=480,
        length=length,
        batch_size=1,
    )


def build_video(
    g: Graph, latent: Output, vae: Node, fps: float, prefix: str, trim: Output | None = None
) -> Group:
    steps: list[Node] = []
    if trim:
        steps.append(g.add("TrimVideoLatent", samples=latent, trim_amount=trim))
        latent = steps[0]["LATENT"]
    steps.append(g.add("VAEDecode", samples=latent, vae=vae["VAE"]))
    steps.append(g.add("CreateVideo", images=steps[-1]["IMAGE"], fps=fps))
    save = g.add(
        "SaveVideo", video=steps[-1]["VIDEO"], filename_prefix=f"video/{prefix}", format="auto", codec="auto"
    )
    note = g.note("When it goes wrong", notes.TROUBLE, width=510)
    return Group("6 Video", RED, row(column(row(*steps), note), save))


def arrange(models: Box, prompt: Box, face: Group, *rest: Group) -> Box:
    """Models and prompt above the face, everything else to the right."""
    left = column(row(Group("1 Models", BLUE, models), Group("3 Prompt", GREEN, prompt)), face, gap=40)
    return row(left, *rest)
