"""What the shipped workflows have in common: prompt and models, identity, video; each a subgraph, one click away."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from . import notes
from .boxes import Box, Group, Json, Node, Output, Row, Space, column, row
from .graph import Graph, Subgraph
from .node_types import ADAPTERS, ENCODER, NODE_TYPES, TEXT_ENCODER, VAE

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
PHOTO = "lynx_portrait.jpg"
BLUE, PURPLE, RED, GREY = "#3f789e", "#8a4f9e", "#a85f6a", "#777777"
LANE = 50
"""Room above the nodes in which the VAE's link passes them."""
PROMPT_HEIGHTS, LOW_PROMPT_HEIGHTS = (130, 80), (90, 60)
"""The low ones are for workflows with two pictures below the prompt."""
OTHER_WIDGETS = {
    "LoraLoaderModelOnly": {"lora_name": "lora"},
    "WanContextWindowsManual": {"context_length": "window", "context_overlap": "overlap"},
}
"""Node type -> widgets that are shown beside the models' names, and what they are called there."""
TEXT_COLOURS = ("#232", "#353"), ("#322", "#533")


# --- prompt and models ------------------------------------------------------------------------


@dataclass(frozen=True)
class Models:
    """The published files that a workflow loads."""

    adapter: str | dict[str, str]
    """Name in `ADAPTERS`, or the file of each part of a mix."""
    diffusion: Sequence[Json]
    lora: Json | None = None
    window: tuple[int, int] | None = None
    """Frames of a context window and of its overlap, for a long take."""
    names: Sequence[str] = ("MODEL",)
    """What the outputs of the diffusion models are called."""


def load_prompt_and_models(
    g: Graph,
    models: Models,
    with_lynx: bool = True,
    heights: tuple[int, int] = PROMPT_HEIGHTS,
    prompt: str = PROMPT,
) -> Node:
    """A node with the prompts and the names of the models on it, and their loaders inside.

    Args:
        with_lynx: load the adapter and the face models, too.
    """
    inside = Graph(NODE_TYPES)
    stages = load_diffusion(inside, models)
    clip = inside.add(
        "CLIPLoader", models=[TEXT_ENCODER], clip_name=TEXT_ENCODER["name"], type="wan", device="default"
    )
    vae = inside.add("VAELoader", models=[VAE], vae_name=VAE["name"])
    texts = write_prompts(inside, clip["CLIP"], prompt, heights=heights)
    lynx = load_lynx(inside, models.adapter) if with_lynx else []
    name = models.adapter if isinstance(models.adapter, str) else "lynx_full lynx_lite"
    files = [*models.diffusion, *([models.lora] if models.lora else ()), TEXT_ENCODER, VAE]
    note = inside.note("Which file goes where", notes.list_files(*files, adapter=name), width=400)
    inside.give("VAE", vae["VAE"])
    for output, node in zip(models.names, stages[-1], strict=True):
        inside.give(output, node["MODEL"])
    give_text_and_lynx(inside, clip["CLIP"], texts, lynx)
    if models.lora:
        # As it is loaded: at timestep 0 the shift has no effect, either.
        inside.give("reference_model", stages[0][0]["MODEL"])
    for loader, name in zip(stages[0], models.names, strict=True):
        inside.promote(loader, "unet_name", name.lower())
    for node in inside.nodes:
        for widget, shown in OTHER_WIDGETS.get(node.type, {}).items():
            inside.promote(node, widget, shown)
    layout = row(
        column(*stages[0], clip, vae, *lynx, gap=40),
        *(column(*stage, gap=40) for stage in stages[1:]),
        column(*texts, gap=40),
        column(note),
    )
    return g.add_subgraph(
        Subgraph("Prompt and models", inside, layout, width=400, description="Loads what the workflow needs.")
    )


def load_diffusion(inside: Graph, models: Models) -> list[list[Node]]:
    """The diffusion models, and what is put on each of them, stage by stage."""
    stages = [
        [
            inside.add(
                "UNETLoader",
                title=None if len(models.names) == 1 else f"Load Diffusion Model ({name})",
                models=[file],
                unet_name=file["name"],
                weight_dtype="default",
            )
            for file, name in zip(models.diffusion, models.names, strict=True)
        ]
    ]

    def put_on(type: str, **values: Any) -> None:
        stages.append([inside.add(type, model=node["MODEL"], **values) for node in stages[-1]])

    if models.lora:
        name = models.lora["name"]
        put_on("LoraLoaderModelOnly", models=[models.lora], lora_name=name, strength_model=1.0)
    put_on("ModelSamplingSD3", shift=5.0)
    if models.window:
        length, overlap = models.window
        put_on(
            "WanContextWindowsManual", context_length=length, context_overlap=overlap,
            context_schedule="standard_static", context_stride=1, closed_loop=False, fuse_method="pyramid",
            freenoise=True,
        )  # fmt: skip
    return stages


def write_prompts(
    inside: Graph,
    clip: Output,
    prompt: str = PROMPT,
    negative: str = NEGATIVE,
    heights: tuple[int, int] = PROMPT_HEIGHTS,
) -> list[Node]:
    """The two texts, shown on the subgraph's node."""
    texts = []
    for title, text, colours, height in zip(
        ("Prompt", "Negative prompt"), (prompt, negative), TEXT_COLOURS, heights, strict=True
    ):
        node = inside.add("CLIPTextEncode", title=title, clip=clip, text=text)
        node.colours = colours
        inside.promote(node, "text", title.lower().replace(" ", "_"), height)
        texts.append(node)
    return texts


def load_lynx(inside: Graph, adapter: str | dict[str, str]) -> list[Node]:
    """The adapter, and the models that look at faces."""
    files = list_adapter_files(adapter)
    parts = dict.fromkeys(("adapter", "resampler", "id_layers", "ref_layers"), "none")
    parts |= {part: file["name"] for part, file in files.items()}
    loaded = inside.add("LynxLoadAdapter", models=list(files.values()), **parts)
    return [loaded, load_face_analyzer(inside)]


def load_face_analyzer(inside: Graph) -> Node:
    """The models that look at faces."""
    return inside.add(
        "LynxLoadFaceAnalyzer",
        models=[ENCODER],
        detector_pack="buffalo_l",
        encoder=ENCODER["name"],
        provider="CPU",
    )


def list_adapter_files(adapter: str | dict[str, str]) -> dict[str, Json]:
    """The file of each part, of one adapter or of a mix (part -> adapter)."""
    if isinstance(adapter, str):
        return dict(ADAPTERS[adapter])
    return {part: ADAPTERS[name][part] for part, name in adapter.items()}


def give_text_and_lynx(inside: Graph, clip: Output, texts: Sequence[Node], lynx: Sequence[Node]) -> None:
    inside.give("CLIP", clip)
    for name, text in zip(("positive", "negative"), texts, strict=True):
        inside.give(name, text["CONDITIONING"])
    for node in lynx:
        (output,) = node.outputs
        inside.give(output["name"], node[output["name"]])


def load_photo(g: Graph, title: str = "Photo of the person", image: str = PHOTO) -> Node:
    return g.add("LoadImage", title=title, image=image)


# --- the person ---------------------------------------------------------------------------------


def put_person(g: Graph, loaded: Node, photo: Output, adapter: str, preset: str, **options: Any) -> Node:
    """A Lynx Person on prompt and models."""
    values: Json = {"preset": preset, "id_strength": 1.0, "ref_strength": 1.0} | options
    return g.add(
        "LynxPerson",
        image=photo,
        adapter=adapter,
        loaded_adapter=loaded["adapter"],
        face_analyzer=loaded["face_analyzer"],
        **{name: loaded[name.upper()] for name in ("model", "clip", "vae")},
        **{name: loaded[name] for name in ("positive", "negative")},
        **values,
    )


# --- sampling and video -------------------------------------------------------------------------


def sample(g: Graph, applied: Node, latent: Output, title: str | None = None, **values: Any) -> Node:
    """A LynxSampler on everything that carries the person; the release's settings unless others are given."""
    settings: Json = {
        "cfg": 5.0,
        "identity_cfg": 2.0,
        "seed": 0,
        "steps": 50,
        "sampler_name": "uni_pc",
        "scheduler": "simple",
        "denoise": 1.0,
    }
    outputs = {name: applied[name] for name in ("positive", "negative", "middle")}
    return g.add(
        "LynxSampler",
        title=title,
        model=applied["MODEL"],
        latent_image=latent,
        **outputs,
        **settings | values,
    )


def empty_latent(g: Graph, length: int, width: int = 832, height: int = 480) -> Node:
    return g.add(
        "EmptyHunyuanLatentVideo",
        title="Size and length",
        width=width,
        height=height,
        length=length,
        batch_size=1,
    )


def make_video(fps: float, with_trim: bool = False) -> Subgraph:
    """From the latent to a video: decode, frame rate."""
    inside = Graph(NODE_TYPES)
    vae = inside.take("vae", "VAE")
    latent = inside.take("samples", "LATENT")
    steps = []
    if with_trim:
        steps.append(inside.add("TrimVideoLatent", samples=latent, trim_amount=0))
        latent = steps[0]["LATENT"]
    decoded = inside.add("VAEDecode", samples=latent, vae=vae)
    created = inside.add("CreateVideo", images=decoded["IMAGE"], fps=fps)
    inside.give("VIDEO", created["VIDEO"])
    inside.give("frames", decoded["IMAGE"])
    for trim in steps:
        inside.promote(trim, "trim_amount", "trim_latent")
    inside.promote(created, "fps")
    return Subgraph(
        "Frames to video", inside, row(*steps, decoded, created), width=220, description="Decodes the latent."
    )


def save_video(g: Graph, video: Output, prefix: str) -> Node:
    return g.add("SaveVideo", video=video, filename_prefix=f"video/{prefix}", format="auto", codec="auto")


def decode_and_save(
    g: Graph, latent: Output, vae: Output, fps: float, prefix: str, trim: Output | None = None
) -> tuple[Node, Node]:
    extra = {"trim_latent": trim} if trim else {}
    made = g.add_subgraph(make_video(fps, trim is not None), vae=vae, samples=latent, **extra)
    return made, save_video(g, made["VIDEO"], prefix)


# --- layout -------------------------------------------------------------------------------------


def write_notes(g: Graph, *texts: tuple[str, str], widths: Sequence[float] = (340, 340, 340)) -> Row:
    """Notes side by side."""
    return row(
        *(g.note(title, text, width) for (title, text), width in zip(texts, widths, strict=False)), gap=20
    )


def arrange(start: Sequence[Box], person: Sequence[Box], sampling: Sequence[Box], shown: Sequence[Box], help: Box,
            lane: float = LANE) -> Box:  # fmt: skip
    """Three steps from left to right, the notes below the third; the VAE's link passes above steps two and three."""
    return row(
        Group("1 Photo and prompt", BLUE, column(*start)),
        Group("2 Person", PURPLE, column(Space(height=LANE), *person)),
        column(
            Group("3 Video", RED, row(column(Space(height=lane), *sampling), row(*shown, gap=50))),
            Group("4 Notes", GREY, help),
            gap=30,
        ),
        gap=30,
    )
