"""Runs the pack's main job once in a real ComfyUI: a photo and a prompt in, a video and a contact sheet out.

Called by ./scripts/demo, which does the set-up. By default it runs Mini Lynx, a small model of drawn people
that comes with this repository; with the published 14B files at hand (--models) the same command runs those.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import requests
from PIL import Image, ImageOps
from PIL.PngImagePlugin import PngInfo

REPO_DIR = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(REPO_DIR / "tests" / "host"), str(REPO_DIR)]

import prompt_edits  # noqa: E402
from comfy_host import ComfyHost, HostError, Prompt, PromptError, list_files  # noqa: E402
from demo_models import MINI_MODELS, DemoModel, MissingFiles, choose_model  # noqa: E402
from demo_sheet import Sheet, SheetRow, draw_sheet  # noqa: E402
from demo_workflow import PHOTO_NAME, edit_workflow  # noqa: E402
from video import Video, read_video  # noqa: E402
from workflow import workflow_to_prompt  # noqa: E402

from lynx_core.cli.models_folder import ModelsFolderError  # noqa: E402
from lynx_core.evaluation.face_scores import FaceSimilarity, measure_similarity  # noqa: E402
from lynx_core.faces.analyzer import FaceAnalyzer  # noqa: E402
from lynx_core.faces.combination import SAME_PERSON_COSINE  # noqa: E402
from lynx_core.faces.crops import FaceCrop, crop_aligned, crop_face  # noqa: E402
from lynx_core.faces.errors import FaceError  # noqa: E402
from lynx_core.faces.photo import load_photo  # noqa: E402
from miniature.world import caption  # noqa: E402
from miniature.world.draws import draw_shot  # noqa: E402
from miniature.world.identity import draw_identity  # noqa: E402

DEMO_DIR = REPO_DIR / ".demo"
COMFYUI_VERSION = "0.30.0"
PROMPT = "a person smiles on a beach in warm light"
FULL_PROMPT = "a person smiles and turns to the camera, on a beach, in the warm light of the evening"
HOST_FOLDER = "lynx_demo_host"
"""Below the output folder: ComfyUI's base directory, made anew by each run."""
TIMEOUT_S = 24 * 3600
MAX_SEED = 2**64 - 1
MAX_SIDE_PX, MAX_STEPS, MAX_FRAMES = 16_384, 10_000, 16_381
"""What the host's nodes take."""
DRAWN_PEOPLE, DRAWN_SHOTS, DRAWN_PX = range(1_050_020, 1_050_028), (7, 8), 256
"""Held-out people of the miniature world, for the lines in the plot."""
INTERRUPTED = 130
MINI_WORDS = (
    "Mini Lynx was trained on drawn people, 64 x 64 px: whoever is in the photo comes out as a drawing."
)


@dataclass(frozen=True)
class Face:
    """The person: the photo for the workflow, and what likeness is measured with."""

    photo: Path
    crop: FaceCrop
    is_aligned: bool
    """The photo is taken as a whole, because no face was found in it."""
    analyzer: FaceAnalyzer


def parse_arguments(words: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="./scripts/demo", description=__doc__.partition("\n\n")[0], epilog=MINI_WORDS
    )
    parser.add_argument("--photo", type=Path, help="picture of a person (default: assets/mini/example.png)")
    parser.add_argument("--prompt", help=f"what the video shows (default: '{PROMPT}')")
    parser.add_argument(
        "--models",
        type=Path,
        help="ComfyUI's models folder with the 14B files that workflows/Photo-to-video.json names; runs these "
        "(default: $COMFYUI_DIR/models if all are there, else the miniature)",
    )
    parser.add_argument("--out", type=Path, default=DEMO_DIR, help="folder for what is made (default: .demo)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the noise (default: %(default)s)")
    for name, text in (
        ("steps", "sampling steps"),
        ("width", "in px, a multiple of 16"),
        ("height", "in px, a multiple of 16"),
        ("frames", "1 more than a multiple of 4"),
    ):
        parser.add_argument(f"--{name}", type=int, help=f"{text} (default: the workflow's)")
    arguments = parser.parse_args(words)
    for name, least, most in (
        ("seed", 0, MAX_SEED),
        ("steps", 1, MAX_STEPS),
        ("width", 16, MAX_SIDE_PX),
        ("height", 16, MAX_SIDE_PX),
        ("frames", 1, MAX_FRAMES),
    ):
        value = getattr(arguments, name)
        if value is not None and not least <= value <= most:
            parser.error(f"--{name} is {least} to {most}, got {value}")
    for name in ("width", "height"):
        if (getattr(arguments, name) or 16) % 16:
            parser.error(f"--{name} must be a multiple of 16, got {getattr(arguments, name)}")
    if (arguments.frames or 1) % 4 != 1:
        parser.error(f"--frames must be 1 more than a multiple of 4 (5, 9, 13, ...), got {arguments.frames}")
    if arguments.prompt is not None and not arguments.prompt.strip():
        parser.error("--prompt is empty; say what the video shows, or leave it out")
    if arguments.photo and not arguments.photo.is_file():
        parser.error(f"there is no file {arguments.photo}")
    if arguments.models and not arguments.models.is_dir():
        parser.error(f"there is no folder {arguments.models}")
    return arguments


def print_unknown_words(prompt: str) -> None:
    """Say which words of a prompt the miniature has never seen, and which it knows."""
    known = [caption.SUBJECTS]
    for table in (caption.ACTION_WORDS, caption.PLACE_WORDS, caption.LIGHT_WORDS):
        known.append(tuple(phrase for phrases in table.values() for phrase in phrases if phrase))
    words = {word for phrases in known for phrase in phrases for word in phrase.split()}
    unknown = [word for word in re.findall(r"[^\W\d_]+", prompt.lower()) if word not in words]
    if unknown:
        print(f"hint: Mini Lynx does not know: {', '.join(dict.fromkeys(unknown))}. Its prompts are made of")
        print("\n".join(f"  {', '.join(phrases)}" for phrases in known))


def find_face(model: DemoModel, photo: Path | None, host_dir: Path) -> Face:
    """Put the photo into the host's folder and find the face.

    Raises:
        FaceError: when the photo cannot be read, or has no face, except that the miniature then takes
            the middle of it.
    """
    root, pack, encoder = model.find_face_models()
    analyzer = FaceAnalyzer(root, pack, "CPU", encoder)
    pixels = read_photo(model, photo)
    is_aligned = model.is_mini and not analyzer.detector.detect(pixels)
    if is_aligned:
        print("no drawn face was found in the photo: the middle of it is taken for the face")
        pixels = np.asarray(ImageOps.fit(Image.fromarray(pixels), (min(pixels.shape[:2]),) * 2))
        crop = crop_aligned(pixels, "the photo")
    else:
        crop, _ = crop_face(pixels, analyzer.detector, "largest", 0)
    for warning in crop.warnings:
        print(f"note: {warning}")
    path = host_dir / PHOTO_NAME
    Image.fromarray(pixels).save(path, quality=95)
    return Face(path, crop, is_aligned, analyzer)


def read_photo(model: DemoModel, photo: Path | None) -> np.ndarray:
    """Read the photo, or the model's own example, as [H, W, 3] uint8 RGB.

    Raises:
        FaceError: when it cannot be read.
    """
    if photo is None and not model.is_mini:
        from insightface.data import get_image

        print("photo: insightface's own example, six people; the largest face is taken")
        return get_image("t1", to_rgb=True)
    photo = photo or MINI_MODELS / "example.png"
    print(f"photo: {photo}")
    return load_photo(photo)


def make_workflow(model: DemoModel, face: Face, text: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """The shipped workflow with what was asked for in it."""
    values = {
        "prompt": text,
        "seed": arguments.seed,
        "steps": arguments.steps,
        "width": arguments.width,
        "height": arguments.height,
        "length": arguments.frames,
    }
    is_own = model.is_mini and arguments.photo is None
    return edit_workflow(model.read_workflow(), values, None if is_own else face.photo, face.is_aligned)


def make_videos(
    model: DemoModel, face: Face, workflow: dict[str, Any], arguments: argparse.Namespace
) -> tuple[Path, Path]:
    """Run the workflow in ComfyUI, with the person and without.

    Raises:
        HostError: when ComfyUI does not start.
        PromptError: when a node fails.
    """
    base_dir = arguments.out / HOST_FOLDER
    comfyui_dir = Path(os.environ.get("COMFYUI_DIR") or REPO_DIR / ".comfyui" / COMFYUI_VERSION)
    extra_args = model.write_paths(base_dir / "model_paths.yaml")
    if model.is_mini or not has_gpu():
        extra_args.append("--cpu")
    print(f"starting ComfyUI from {comfyui_dir}")
    with ComfyHost(
        comfyui_dir, base_dir, extra_args=extra_args, num_threads=1 if model.is_mini else 8
    ) as host:
        host.upload_image(face.photo)
        prompt = workflow_to_prompt(workflow, host.object_info())
        size = next(node["inputs"] for node in prompt.values() if "length" in node["inputs"])
        print(f"running {model.workflow.name} at {size['width']} x {size['height']}, {size['length']} frames")
        with_lynx = run_prompt(host, prompt, workflow).replace(arguments.out / "lynx.mp4")
        for part in ("id_strength", "ref_strength"):
            prompt_edits.set_inputs(prompt, part, 0.0)
        print("the same seed without Lynx, to compare with")
        without = run_prompt(host, prompt).replace(arguments.out / "lynx_without.mp4")
    return with_lynx, without


def run_prompt(host: ComfyHost, prompt: Prompt, workflow: dict[str, Any] | None = None) -> Path:
    started = time.monotonic()
    files = list_files(host.wait(host.submit(prompt, workflow), timeout_s=TIMEOUT_S), ".mp4")
    print(f"done in {time.monotonic() - started:.1f} s")
    if not files:
        raise PromptError("the workflow has saved no mp4")
    return host.fetch(files[0], host.base_dir)


def has_gpu() -> bool:
    import torch

    if torch.cuda.is_available() or torch.backends.mps.is_available():
        return True
    print("no GPU was found: the 14B model takes many hours a video on a CPU")
    return False


def draw_contact_sheet(
    model: DemoModel, face: Face, videos: Sequence[Video], text: str, workflow: dict[str, Any], path: Path
) -> FaceSimilarity:
    """Measure the likeness of every frame, with the person and without, and draw all of it as one picture.

    The workflow lies in the picture where ComfyUI looks for it.
    """
    person = face.analyzer.recogniser.embed([face.crop.id_crop])[0]
    likeness = [measure_similarity(video.frames, person, face.analyzer) for video in videos]
    note = MINI_WORDS if model.is_mini else "Likeness by the recogniser that also conditions the video."
    lines = (
        measure_drawn_people(face.analyzer)
        if model.is_mini
        else {"two people mostly below": SAME_PERSON_COSINE}
    )
    rows = [
        SheetRow(name, video.frames, measured.scores)
        for name, video, measured in zip(("with Lynx", "without Lynx"), videos, likeness, strict=True)
    ]
    carried = PngInfo()
    carried.add_text("workflow", json.dumps(workflow))
    with Image.open(face.photo) as photo:
        draw_sheet(Sheet(f"“{text}”", photo, rows, lines, note)).save(path, pnginfo=carried)
    return likeness[0]


def measure_drawn_people(analyzer: FaceAnalyzer) -> dict[str, float]:
    """Mean likeness of two pictures of one drawn person, and of two people, by this recogniser."""
    crops = []
    for person in DRAWN_PEOPLE:
        identity = draw_identity(person)
        for shot in DRAWN_SHOTS:
            picture = draw_shot(identity, shot).draw_frame(0, DRAWN_PX)
            faces = analyzer.detector.detect(picture)
            if faces:
                crops.append((person, crop_face(picture, analyzer.detector, "largest", 0)[0].id_crop))
    vectors = analyzer.recogniser.embed([crop for _, crop in crops])
    cosines: dict[bool, list[float]] = {True: [], False: []}
    for (first, a), (second, b) in combinations(
        zip([person for person, _ in crops], vectors, strict=True), 2
    ):
        cosines[first == second].append(float(a @ b))
    names = {True: "another picture of one person", False: "a stranger"}
    return {names[same]: sum(values) / len(values) for same, values in cosines.items() if values}


def run_demo(arguments: argparse.Namespace) -> None:
    """Choose the model, make the video, draw the sheet, say where they are.

    Raises:
        MissingFiles, ModelsFolderError, FaceError, HostError, PromptError, OSError: each says what is wrong.
    """
    model, note = choose_model(arguments.models, os.environ)
    if note:
        print(note)
    text = arguments.prompt or (PROMPT if model.is_mini else FULL_PROMPT)
    if model.is_mini:
        print(MINI_WORDS)
        print_unknown_words(text)
    host_dir = arguments.out / HOST_FOLDER
    if host_dir.exists():
        shutil.rmtree(host_dir)
    host_dir.mkdir(parents=True)
    face = find_face(model, arguments.photo, host_dir)
    workflow = make_workflow(model, face, text, arguments)
    try:
        paths = make_videos(model, face, workflow, arguments)
    finally:
        # The host's folder may lie inside the pack: what follows links would walk round in it for ever.
        for link in (host_dir / "custom_nodes").glob("*"):
            if link.is_symlink():
                link.unlink()
    sheet_path = arguments.out / "lynx_contact_sheet.png"
    likeness = draw_contact_sheet(
        model, face, [read_video(path) for path in paths], text, workflow, sheet_path
    )
    print(f"likeness: {likeness.mean_all:.2f} (cosine, mean over all frames)")
    print(f"\nvideo:         {paths[0]}\nwithout Lynx:  {paths[1]}\ncontact sheet: {sheet_path}")
    print("Dropped into ComfyUI, the video and the sheet bring their workflow back.")


def main(words: Sequence[str] | None = None) -> int:
    """Run the demo; gives the exit code: 0, 1 after an error, 2 for wrong arguments, 130 when interrupted."""
    arguments = parse_arguments(words)
    try:
        run_demo(arguments)
    except (MissingFiles, ModelsFolderError, FaceError) as error:
        print(f"The demo cannot run: {error}", file=sys.stderr)
        return 1
    except (HostError, PromptError, requests.RequestException, TimeoutError) as error:
        log = arguments.out / HOST_FOLDER / "server.log"
        print(f"The demo failed: {error}\nThe server's log: {log}", file=sys.stderr)
        return 1
    except OSError as error:
        print(
            f"The demo failed: {error.filename or arguments.out}: {error.strerror or error}", file=sys.stderr
        )
        return 1
    except KeyboardInterrupt:
        print("The demo was interrupted.", file=sys.stderr)
        return INTERRUPTED
    return 0


if __name__ == "__main__":
    sys.exit(main())
