"""The shipped workflows: laid out well, true to both hosts' schemas, and run through the HTTP API."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from comfy_host import REPO_DIR, ComfyHost, list_files
from prompt_edits import set_inputs, set_photo, set_size, set_steps
from standin_installation import write_photo
from video import read_video
from workflow import EDITOR_ONLY, workflow_to_prompt

TITLE_HEIGHT = 30
WORKFLOWS = {path.stem: path for path in sorted((REPO_DIR / "workflows").glob("*.json"))}
FPS = {"lynx_lite": 24, "lynx_mini": 8}
OWN_PHOTOS = {"lynx_mini": REPO_DIR / "assets" / "mini" / "example.png"}
"""Its detector knows drawn people only."""
WIDTH, HEIGHT, NUM_FRAMES, NUM_STEPS = 96, 64, 9, 2

each_workflow = pytest.mark.parametrize("name", WORKFLOWS)


def load_workflow(name: str) -> dict[str, Any]:
    return json.loads(WORKFLOWS[name].read_text(encoding="utf-8"))


def box_of(node: dict[str, Any]) -> tuple[float, float, float, float]:
    """Left, top, right and bottom of a node with its title bar."""
    (x, y), (width, height) = node["pos"], node["size"]
    return x, y - TITLE_HEIGHT, x + width, y + height


def box_of_group(group: dict[str, Any]) -> tuple[float, float, float, float]:
    x, y, width, height = group["bounding"]
    return x, y, x + width, y + height


def is_inside(inner: tuple[float, ...], outer: tuple[float, ...]) -> bool:
    left, top, right, bottom = inner
    return left >= outer[0] and top >= outer[1] and right <= outer[2] and bottom <= outer[3]


def overlaps(a: tuple[float, ...], b: tuple[float, ...]) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def test_the_six_workflows_are_there_with_their_thumbnails() -> None:
    assert set(WORKFLOWS) == {
        "lynx_full",
        "lynx_lite",
        "lynx_fast",
        "lynx_wan22_two_experts",
        "lynx_vace",
        "lynx_mini",
    }
    for path in WORKFLOWS.values():
        assert path.with_suffix(".jpg").is_file(), f"{path.name} has no thumbnail"


def test_the_files_are_what_the_generator_writes() -> None:
    command = [sys.executable, str(REPO_DIR / "scripts" / "build_workflows.py"), "--check"]
    checked = subprocess.run(command, capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout + checked.stderr


@each_workflow
def test_nodes_lie_in_groups_and_do_not_overlap(name: str) -> None:
    workflow = load_workflow(name)
    groups = [box_of_group(group) for group in workflow["groups"]]
    boxes = {f"{node['type']} {node['id']}": box_of(node) for node in workflow["nodes"]}
    assert len(boxes) > 10
    for label, box in boxes.items():
        assert any(is_inside(box, group) for group in groups), f"{label} is outside every group"
    for (label, box), (other, other_box) in itertools.combinations(boxes.items(), 2):
        assert not overlaps(box, other_box), f"{label} lies on {other}"
    for group, other in itertools.combinations(groups, 2):
        assert not overlaps(group, other)


@each_workflow
def test_links_go_from_left_to_right_and_are_noted_at_both_ends(name: str) -> None:
    workflow = load_workflow(name)
    nodes = {node["id"]: node for node in workflow["nodes"]}
    for link, origin, origin_slot, target, target_slot, of in workflow["links"]:
        source, sink = nodes[origin]["outputs"][origin_slot], nodes[target]["inputs"][target_slot]
        assert link in source["links"] and sink["link"] == link
        assert source["type"] == sink["type"] == of
        assert box_of(nodes[origin])[2] <= box_of(nodes[target])[0], (
            f"the {of} of {nodes[origin]['type']} goes back to {nodes[target]['type']}"
        )


@pytest.mark.host
@each_workflow
def test_nodes_are_as_the_host_defines_them(each_comfy_host: ComfyHost, name: str) -> None:
    object_info = each_comfy_host.object_info()
    for node in load_workflow(name)["nodes"]:
        if node["type"] in EDITOR_ONLY:
            continue
        schema = object_info[node["type"]]
        named = {**schema["input"].get("required", {}), **schema["input"].get("optional", {})}
        stored = {slot["name"]: slot for slot in node["inputs"]}
        newer = {key for key in named if key not in stored and "default" in (named[key] + [{}])[1]}
        assert set(stored) == set(named) - newer, node["type"]
        for key, slot in stored.items():
            kind = named[key][0]
            is_choice = isinstance(kind, list) or kind == "COMFY_DYNAMICCOMBO_V3"
            assert slot["type"] == ("COMBO" if is_choice else kind), f"{node['type']}.{key}"
        # A newer host gives some output nodes an output; an older one has none.
        outputs = [(output["name"], output["type"]) for output in node["outputs"]]
        offered = list(zip(schema["output_name"], schema["output"], strict=True))
        assert outputs == offered[: len(outputs)], node["type"]


@pytest.fixture(scope="module")
def photo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_photo(tmp_path_factory.mktemp("photo") / "six_faces.png")


def make_small_prompt(host: ComfyHost, name: str, image: str) -> dict[str, Any]:
    """The workflow's prompt at a size and number of steps that take seconds on a CPU."""
    prompt = workflow_to_prompt(load_workflow(name), host.object_info())
    set_photo(prompt, image)
    set_size(prompt, WIDTH, HEIGHT, NUM_FRAMES)
    set_steps(prompt, NUM_STEPS)
    set_inputs(prompt, "step", NUM_STEPS // 2, class_type="SplitSigmas")
    return prompt


@pytest.mark.host
@each_workflow
def test_workflow_gives_a_playable_video(
    each_comfy_host: ComfyHost, name: str, photo: Path, tmp_path: Path
) -> None:
    image = each_comfy_host.upload_image(OWN_PHOTOS.get(name, photo))
    outputs = each_comfy_host.queue(make_small_prompt(each_comfy_host, name, image))
    (file,) = list_files(outputs, ".mp4")
    video = read_video(each_comfy_host.fetch(file, tmp_path))
    assert video.frames.shape == (NUM_FRAMES, HEIGHT, WIDTH, 3)
    assert video.fps == FPS.get(name, 16)
    assert video.frames.std() > 5, "the stand-in models should give noise, not a flat picture"


@pytest.mark.host
@pytest.mark.parametrize("name", ["lynx_lite", "lynx_fast"])  # test_server.py has it for the full one
def test_the_identity_changes_the_video(
    comfy_host: ComfyHost, name: str, photo: Path, tmp_path: Path
) -> None:
    image = comfy_host.upload_image(photo)
    frames = []
    for strength in (1.0, 0.0):
        prompt = make_small_prompt(comfy_host, name, image)
        set_inputs(prompt, "preset", "custom")
        for part in ("id", "ref"):
            set_inputs(prompt, f"{part}_strength", strength)
        (file,) = list_files(comfy_host.queue(prompt), ".mp4")
        frames.append(read_video(comfy_host.fetch(file, tmp_path)).frames.astype(int))
    assert abs(frames[0] - frames[1]).mean() > 1
