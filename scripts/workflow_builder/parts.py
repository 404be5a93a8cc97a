"""What the shipped workflows have in common: loaders, face, prompt, identity, video."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from presets import PRESETS

from . import notes
from .graph import Box, Graph, Group, Json, Node, Output, column, row
from .node_types import ADAPTERS, ENCODER, TEXT_ENCODER, VAE

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
BLUE, ORANGE, GREEN, PURPLE = "#3f789e", "#b06634", "#5f8f5f", "#8a4f9e"
VIOLET, RED, GREY = "#6a6aa8", "#a85f6a", "#777777"


@dataclass(frozen=True)
class Start:
    """What every workflow begins with."""

    models: list[Node]
    clip: Node
    vae: Node
    adapter: Node
    texts: tuple[Node, Node]
    """Prompt and negative prompt."""

    crop: Node
    face_id: Node
    face: Group
    files: Node | None = None
    """The note that says which file goes where."""

    @property
    def loaders(self) -> list[Node]:
        return [*self.models, self.clip, self.vae, self.adapter]


def build_start(
    g: Graph, adapter: str, *files: Json, with_reference: bool = True, model_names: tuple[str, ...] = ()
) -> Start:
    """Load models and photo, write the prompts.

    Args:
        files: what else than text encoder and VAE is needed; those for `diffusion_models` are loaded here.
        model_names: what to call each of several models.
    """
    models = [file for file in files if file["directory"] == "diffusion_models"]
    titles = [f"Load Diffusion Model ({name})" for name in model_names] or [None] * len(models)
    loaded = [
        g.add("UNETLoader", title=title, models=[file], unet_name=file["name"], weight_dtype="default")
        for file, title in zip(models, titles, strict=True)
    ]
    clip = g.add(
        "CLIPLoader", models=[TEXT_ENCODER], clip_name=TEXT_ENCODER["name"], type="wan", device="default"
    )
    vae = g.add("VAELoader", models=[VAE], vae_name=VAE["name"])
    files_of_parts = ADAPTERS[adapter]
    parts = dict.fromkeys(("adapter", "resampler", "id_layers", "ref_layers"), "none")
    parts |= {part: file["name"] for part, file in files_of_parts.items()}
    loaded_adapter = g.add("LynxLoadAdapter", models=list(files_of_parts.values()), **parts)
    crop, face_id, face = build_face(g, with_reference)
    return Start(
        models=loaded,
        clip=clip,
        vae=vae,
        adapter=loaded_adapter,
        files=g.note("Which file goes where", notes.list_files(*files, TEXT_ENCODER, VAE, adapter=adapter)),
        texts=build_prompt(g, clip),
        crop=crop,
        face_id=face_id,
        face=face,
    )


def build_face(g: Graph, with_reference: bool) -> tuple[Node, Node, Group]:
    """The crop, the ID, and their group."""
    photo = g.add("LoadImage", title="Photo of the person", image=PHOTO)
    analyzer = g.add(
        "LynxLoadFaceAnalyzer",
        models=[ENCODER],
        detector_pack="buffalo_l",
        encoder=ENCODER["name"],
        provider="CPU",
    )
    crop, face_id = crop_face(g, photo["IMAGE"], analyzer["face_analyzer"])
    seen = [g.add("PreviewImage", title="What the ID sees (112 px)", images=crop["id_crop"])]
    if with_reference:
        seen.append(
            g.add("PreviewImage", title="What the reference sees (256 px)", images=crop["reference_crop"])
        )
    note = g.note("About the photo", notes.PHOTO, width=360)
    inside = row(column(photo, analyzer), column(crop), column(face_id, row(*seen, gap=20)), note)
    return crop, face_id, Group("2 Face", ORANGE, inside)


def crop_face(g: Graph, photo: Output, analyzer: Output) -> tuple[Node, Node]:
    """A LynxCropFace on the photo, and a LynxEncodeID on its crop."""
    crop = g.add(
        "LynxCropFace",
        image=photo,
        face_analyzer=analyzer,
        order="largest",
        face_number=1,
        already_aligned=False,
    )
    return crop, g.add("LynxEncodeID", face_analyzer=analyzer, face=crop["face"])


def build_prompt(
    g: Graph, clip: Node, prompt: str = PROMPT, negative_prompt: str = NEGATIVE
) -> tuple[Node, Node]:
    positive = g.add("CLIPTextEncode", title="Prompt", clip=clip["CLIP"], text=prompt)
    negative = g.add("CLIPTextEncode", title="Negative prompt", clip=clip["CLIP"], text=negative_prompt)
    positive.colours, negative.colours = ("#232", "#353"), ("#322", "#533")
    return positive, negative


def apply_lynx(
    g: Graph,
    start: Start,
    model: Output,
    reference: Node | None,
    preset: str = "as published",
    through: Node | None = None,
    title: str | None = None,
) -> Node:
    """A LynxApply on the prompts, or on what WanVaceToVideo (`through`) made of them."""
    if through:
        positive, negative, frames = through["positive"], through["negative"], through["trim_latent"]
    else:
        positive, negative = (text["CONDITIONING"] for text in start.texts)
        frames = 0
    return g.add(
        "LynxApply",
        title=title,
        model=model,
        positive=positive,
        negative=negative,
        adapter=start.adapter["adapter"],
        id=start.face_id["id"],
        reference=reference["reference"] if reference else None,
        vace_reference_frames=frames,
        preset=preset,
        **PRESETS[preset].list_widgets(),
    )


def encode_reference(g: Graph, start: Start, model: Output, title: str | None = None) -> Node:
    return g.add(
        "LynxEncodeReference",
        title=title,
        adapter=start.adapter["adapter"],
        face=start.crop["face"],
        model=model,
        clip=start.clip["CLIP"],
        vae=start.vae["VAE"],
        photo_number=1,
    )


def guide(g: Graph, type: str, applied: Node, title: str | None = None, **values: Any) -> Node:
    """A LynxGuider or LynxSampler on everything that LynxApply gives out."""
    outputs = {name: applied[name] for name in ("positive", "negative", "middle")}
    return g.add(type, title=title, model=applied["MODEL"], **outputs, **values)


def empty_latent(g: Graph, length: int, width: int = 832, height: int = 480) -> Node:
    return g.add(
        "EmptyHunyuanLatentVideo",
        title="Size and length",
        width=width,
        height=height,
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
    return Group("6 Video", RED, row(*steps, save))


def write_help(g: Graph, **texts: str) -> Box:
    """Notes side by side, the common one last."""
    shown = [
        g.note(title.replace("__", ", ").replace("_", " "), text, width=400) for title, text in texts.items()
    ]
    return row(*shown, g.note("When it goes wrong", notes.TROUBLE, width=440))


def arrange(
    models: Box, prompt: Box, face: Group, identity: Box, sampling: Box, video: Group, help: Box
) -> Box:
    """The path from models to video above, the face and the notes below."""
    path = row(
        Group("1 Models", BLUE, models),
        Group("3 Prompt", GREEN, prompt),
        Group("4 Identity", PURPLE, identity),
        Group("5 Sampling", VIOLET, sampling),
        video,
    )
    return column(path, row(face, Group("Notes", GREY, help)), gap=40)
