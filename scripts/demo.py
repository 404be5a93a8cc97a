"""Runs the pack's main job once in a real ComfyUI: a photo and a prompt in, a video out.

Called by ./scripts/demo, which does the set-up. The weights are small random stand-ins in the real
file layouts, made on the spot: every part of the pack and of the host does its real work, in half a
minute on a CPU, but the picture is noise.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path

from PIL import Image, ImageOps

REPO_DIR = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPO_DIR / "tests" / "host"))

import prompt_edits  # noqa: E402
from comfy_host import ComfyHost, HostError, Prompt, PromptError, list_files  # noqa: E402
from standin_installation import (  # noqa: E402
    point_detector_at_centre,
    write_photo,
    write_standin_installation,
)
from video import draw_contact_sheet, read_video  # noqa: E402
from workflow import workflow_to_prompt  # noqa: E402

DEMO_DIR = REPO_DIR / ".demo"
WORKFLOW = REPO_DIR / "workflows" / "lynx_full.json"
COMFYUI_VERSION = "0.30.0"


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="./scripts/demo", description=__doc__.partition("\n\n")[0])
    parser.add_argument(
        "--photo", type=Path, help="photo of a person (default: a real photo that insightface ships)"
    )
    parser.add_argument(
        "--prompt", default="a person smiles and turns to the camera", help="what the video shows"
    )
    parser.add_argument("--steps", type=int, default=4, help="sampling steps (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=42, help="seed of the noise (default: %(default)s)")
    parser.add_argument(
        "--width", type=int, default=160, help="in px, a multiple of 16 (default: %(default)s)"
    )
    parser.add_argument(
        "--height", type=int, default=96, help="in px, a multiple of 16 (default: %(default)s)"
    )
    parser.add_argument(
        "--frames", type=int, default=17, help="1 more than a multiple of 4 (default: %(default)s)"
    )
    parser.add_argument(
        "--workflow", type=Path, default=WORKFLOW, help="a workflow file (default: %(default)s)"
    )
    arguments = parser.parse_args()
    if arguments.width % 16 or arguments.height % 16:
        parser.error(
            f"--width and --height must be multiples of 16, got {arguments.width} x {arguments.height}"
        )
    if arguments.frames % 4 != 1:
        parser.error(f"--frames must be 1 more than a multiple of 4 (5, 9, 13, ...), got {arguments.frames}")
    for path in filter(None, (arguments.photo, arguments.workflow)):
        if not path.is_file():
            parser.error(f"there is no file {path}")
    return arguments


def prepare_photo(photo: Path | None, models_dir: Path) -> Path:
    """Put the photo into the demo's folder, and the stand-in detector on its face."""
    path = DEMO_DIR / "photo.png"
    if photo is None:
        print("photo: insightface's own example, six people; the largest face is taken")
        return write_photo(path)
    with Image.open(photo) as picture:
        picture = ImageOps.exif_transpose(picture).convert("RGB")
    picture.save(path)
    point_detector_at_centre(models_dir, (picture.height, picture.width))
    print(f"photo: {photo}; the stand-in detector takes its middle for the face")
    return path


def make_prompt(host: ComfyHost, arguments: argparse.Namespace, photo: Path) -> Prompt:
    """The shipped workflow as an API prompt, at the demo's size."""
    prompt = workflow_to_prompt(json.loads(arguments.workflow.read_text()), host.object_info())
    prompt_edits.set_photo(prompt, host.upload_image(photo))
    prompt_edits.set_text(prompt, arguments.prompt)
    prompt_edits.set_size(prompt, arguments.width, arguments.height, arguments.frames)
    prompt_edits.set_steps(prompt, arguments.steps)
    prompt_edits.set_seed(prompt, arguments.seed)
    return prompt


def run_demo(arguments: argparse.Namespace) -> tuple[Path, Path]:
    """Make the video.

    Returns:
        The video and its contact sheet.

    Raises:
        HostError: when ComfyUI does not start.
        PromptError: when a node fails.
    """
    base_dir = DEMO_DIR / "comfyui"
    write_standin_installation(base_dir / "models")
    photo = prepare_photo(arguments.photo, base_dir / "models")
    comfyui_dir = Path(os.environ.get("COMFYUI_DIR") or REPO_DIR / ".comfyui" / COMFYUI_VERSION)
    print(f"starting ComfyUI from {comfyui_dir}")
    with ComfyHost(comfyui_dir, base_dir) as host:
        prompt = make_prompt(host, arguments, photo)
        size = f"{arguments.width} x {arguments.height}, {arguments.frames} frames, {arguments.steps} steps"
        print(f"running {arguments.workflow.name} at {size}")
        started = time.monotonic()
        files = list_files(host.queue(prompt, timeout_s=3600), ".mp4")
        print(f"done in {time.monotonic() - started:.1f} s")
        if not files:
            raise PromptError(f"the workflow {arguments.workflow} has saved no mp4")
        video_path = host.fetch(files[0], DEMO_DIR).replace(DEMO_DIR / "lynx.mp4")
    sheet_path = DEMO_DIR / "lynx_contact_sheet.png"
    draw_contact_sheet(read_video(video_path), Image.open(photo)).save(sheet_path)
    return video_path, sheet_path


def main() -> int:
    arguments = parse_arguments()
    print("The weights of this demo are random stand-ins: the video it makes is noise, not the person.")
    try:
        video_path, sheet_path = run_demo(arguments)
    except (HostError, PromptError) as error:
        print(
            f"The demo failed: {error}\nThe server's log: {DEMO_DIR / 'comfyui' / 'server.log'}",
            file=sys.stderr,
        )
        return 1
    print(f"\nvideo:         {video_path}\ncontact sheet: {sheet_path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
