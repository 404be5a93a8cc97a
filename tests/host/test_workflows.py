"""Every shipped workflow, queued over HTTP at a small size, on both hosts."""

from __future__ import annotations

import json
from pathlib import Path

import prompt_edits
import pytest
from comfy_host import REPO_DIR, ComfyHost, list_files
from standin_installation import write_photo
from video import read_video
from workflow import workflow_to_prompt

WORKFLOWS = sorted((REPO_DIR / "workflows").glob("*.json"))

pytestmark = pytest.mark.host


def test_the_workflows_are_there() -> None:
    assert {"lynx_full", "lynx_lite", "lynx_fast", "lynx_vace"} <= {path.stem for path in WORKFLOWS}


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_a_shipped_workflow_gives_a_playable_video(
    path: Path, each_comfy_host: ComfyHost, tmp_path: Path
) -> None:
    prompt = workflow_to_prompt(json.loads(path.read_text()), each_comfy_host.object_info())
    photo = each_comfy_host.upload_image(write_photo(tmp_path / "six_faces.png"))
    prompt_edits.set_photo(prompt, photo)
    prompt_edits.set_size(prompt, width=96, height=64, num_frames=9)
    prompt_edits.set_steps(prompt, 2)
    (file,) = list_files(each_comfy_host.queue(prompt), ".mp4")
    video = read_video(each_comfy_host.fetch(file, tmp_path))
    assert video.frames.shape == (9, 64, 96, 3)
    assert video.frames.std() > 5
