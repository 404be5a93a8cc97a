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
from layout import (
    box_of,
    box_of_group,
    find_hidden_links,
    is_inside,
    measure_zoom,
    name_of,
    overlaps,
)
from PIL import Image
from prompt_edits import set_inputs, set_photo, set_size, set_steps
from shipped import FPS, PICTURES, expect_shape, upload_pictures, upload_short_video
from standin_installation import write_photo
from video import read_video
from workflow import EDITOR_ONLY, SEED_NAMES, workflow_to_prompt

sys.path.insert(0, str(REPO_DIR / "scripts"))

import build_workflows

WORKFLOWS = {path.stem: path for path in sorted((REPO_DIR / "workflows").glob("*.json"))}
SUBGRAPHS = {path.stem: path for path in sorted((REPO_DIR / "subgraphs").glob("*.json"))}
MAX_NODES, MIN_ZOOM = 14, 0.7
WIDTH, HEIGHT, NUM_FRAMES, NUM_STEPS, FACE_PX = 96, 64, 9, 2, 64

each_workflow = pytest.mark.parametrize("name", WORKFLOWS)


def load_workflow(name: str) -> dict[str, Any]:
    return json.loads(WORKFLOWS[name].read_text(encoding="utf-8"))


def list_graphs(workflow: dict[str, Any]) -> list[dict[str, Any]]:
    """The workflow itself, and the inside of each subgraph with its links as the workflow's own."""
    inner = workflow.get("definitions", {}).get("subgraphs", [])
    order = ("id", "origin_id", "origin_slot", "target_id", "target_slot", "type")
    return [
        workflow,
        *({**graph, "links": [[row[key] for key in order] for row in graph["links"]]} for graph in inner),
    ]


def test_every_workflow_is_there_with_its_picture() -> None:
    built = {name.partition("/")[2] for name in build_workflows.FILES if name.startswith("workflows/")}
    assert set(WORKFLOWS) == built
    for path in WORKFLOWS.values():
        with Image.open(path.with_suffix(".jpg")) as picture:
            assert picture.width == picture.height, f"{path.stem}: the template browser shows squares"


def test_the_files_are_what_the_generator_writes() -> None:
    command = [sys.executable, str(REPO_DIR / "scripts" / "build_workflows.py"), "--check"]
    checked = subprocess.run(command, capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout + checked.stderr


@each_workflow
def test_the_graph_is_short_and_opens_legibly(name: str) -> None:
    workflow = load_workflow(name)
    assert len(workflow["nodes"]) <= MAX_NODES
    assert measure_zoom(workflow) >= MIN_ZOOM
    assert find_hidden_links(workflow) == []


def test_mini_lynx_has_the_shortest_graph() -> None:
    sizes = {name: len(load_workflow(name)["nodes"]) for name in WORKFLOWS}
    assert sizes["Try-Lynx"] == min(sizes.values()), sizes


@each_workflow
def test_nodes_lie_in_numbered_groups_and_do_not_overlap(name: str) -> None:
    workflow = load_workflow(name)
    groups = {group["title"]: box_of_group(group) for group in workflow["groups"]}
    assert [title.split()[0] for title in groups] == [str(number) for number in range(1, len(groups) + 1)]
    for title, group in groups.items():
        assert any(is_inside(box_of(node), group) for node in workflow["nodes"]), f"{title} is empty"
    for node in workflow["nodes"]:
        assert any(is_inside(box_of(node), box) for box in groups.values()), f"{name_of(node)} is in no group"
    for group, other in itertools.combinations(groups.values(), 2):
        assert not overlaps(group, other)
    for graph in list_graphs(workflow):
        for node, other in itertools.combinations(graph["nodes"], 2):
            assert not overlaps(box_of(node), box_of(other)), f"{name_of(node)} lies on {name_of(other)}"


@each_workflow
def test_photo_and_prompt_come_first(name: str) -> None:
    workflow = load_workflow(name)
    first = min(box_of(node)[0] for node in workflow["nodes"])
    for node in workflow["nodes"]:
        shows_prompt = any(socket["name"] == "prompt" for socket in node["inputs"])
        if shows_prompt or node["type"] in ("LoadImage", "LoadVideo"):
            assert box_of(node)[0] == first, name_of(node)
    assert any(socket["name"] == "prompt" for node in workflow["nodes"] for socket in node["inputs"])


@each_workflow
def test_links_go_from_left_to_right_and_are_noted_at_both_ends(name: str) -> None:
    for graph in list_graphs(load_workflow(name)):
        nodes = {node["id"]: node for node in graph["nodes"]}
        for link, origin, origin_slot, target, target_slot, of in graph["links"]:
            if origin in nodes:
                source = nodes[origin]["outputs"][origin_slot]
                assert link in source["links"] and source["type"] == of
            if target in nodes:
                sink = nodes[target]["inputs"][target_slot]
                assert sink["link"] == link and sink["type"] == of
            if origin in nodes and target in nodes:
                assert box_of(nodes[origin])[2] <= box_of(nodes[target])[0], (
                    f"the {of} of {name_of(nodes[origin])} goes back to {name_of(nodes[target])}"
                )


@each_workflow
def test_ids_are_unique_through_all_subgraphs(name: str) -> None:
    """The editor renames what is there twice, and the picture shown outside is then another node's."""
    graphs = list_graphs(load_workflow(name))
    ids = [node["id"] for graph in graphs for node in graph["nodes"]]
    assert len(ids) == len(set(ids))


@each_workflow
def test_seeds_change_after_each_run_and_pictures_come_with_the_pack(name: str) -> None:
    for graph in list_graphs(load_workflow(name)):
        for node in graph["nodes"]:
            if (
                any(socket["name"] in SEED_NAMES for socket in node["inputs"])
                and node["type"] in node["properties"].values()
            ):
                assert "randomize" in node["widgets_values"], node["type"]
            if node["type"] in ("LoadImage", "LoadVideo"):
                file = node["widgets_values"][0]
                assert file in PICTURES and (REPO_DIR / "web" / file).is_file()


@pytest.mark.host
@pytest.mark.parametrize("path", [*WORKFLOWS.values(), *SUBGRAPHS.values()], ids=lambda path: path.stem)
def test_nodes_are_as_the_host_defines_them(each_comfy_host: ComfyHost, path: Path) -> None:
    object_info = each_comfy_host.object_info()
    graphs = list_graphs(json.loads(path.read_text(encoding="utf-8")))
    own = {graph["id"] for graph in graphs[1:]}
    for node in (node for graph in graphs for node in graph["nodes"]):
        if node["type"] in EDITOR_ONLY or node["type"] in own:
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


def list_upstream(prompt: dict[str, Any], link: Any) -> list[str]:
    """The types of the nodes that something linked depends on through `model`."""
    types = []
    while isinstance(link, list):
        node = prompt[link[0]]
        types.append(node["class_type"])
        link = node["inputs"].get("model")
    return types


@pytest.mark.host
@pytest.mark.parametrize("name", ["Photo-to-video-fast", "Compare-strengths"])
def test_the_reference_is_encoded_without_the_distilled_lora(comfy_host: ComfyHost, name: str) -> None:
    prompt = workflow_to_prompt(load_workflow(name), comfy_host.object_info())
    (person,) = (node["inputs"] for node in prompt.values() if node["class_type"] == "LynxPerson")
    assert "LoraLoaderModelOnly" in list_upstream(prompt, person["model"])
    assert list_upstream(prompt, person.get("reference_model")) == ["UNETLoader"]


@pytest.fixture(scope="module")
def photo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_photo(tmp_path_factory.mktemp("photo") / "six_faces.png")


def make_small_prompt(host: ComfyHost, name: str, image: str) -> dict[str, Any]:
    """The workflow's prompt at a size and number of steps that take seconds on a CPU."""
    upload_pictures(host)
    prompt = workflow_to_prompt(load_workflow(name), host.object_info())
    if name != "Try-Lynx":  # its detector knows drawn people only
        set_photo(prompt, image)
    set_size(prompt, WIDTH, HEIGHT, NUM_FRAMES)
    set_steps(prompt, NUM_STEPS)
    set_inputs(prompt, "step", NUM_STEPS // 2, class_type="SplitSigmas")
    set_inputs(prompt, "size", FACE_PX, class_type="LynxTrackFace")
    return prompt


@pytest.mark.host
@pytest.mark.parametrize("each_comfy_host", ["0.16.3"], indirect=True)
@each_workflow
def test_workflow_gives_a_playable_video_on_the_oldest_host(
    each_comfy_host: ComfyHost, name: str, photo: Path, tmp_path: Path
) -> None:
    """test_browser.py runs all of them on the newest."""
    image = each_comfy_host.upload_image(photo)
    upload_short_video(each_comfy_host, tmp_path, NUM_FRAMES)
    outputs = each_comfy_host.queue(make_small_prompt(each_comfy_host, name, image))
    (file,) = list_files(outputs, ".mp4")
    video = read_video(each_comfy_host.fetch(file, tmp_path))
    assert video.frames.shape == expect_shape(name, NUM_FRAMES, HEIGHT, WIDTH)
    assert video.fps == FPS.get(name, 16)
    assert video.frames.std() > 5, "the stand-in models should give noise, not a flat picture"


@pytest.mark.host
@pytest.mark.parametrize(
    "name", ["Photo-to-video-lite", "Photo-to-video-fast", "Wan-2.2-animate-a-picture"]
)  # test_server.py has the parts
def test_the_identity_changes_the_video(
    comfy_host: ComfyHost, name: str, photo: Path, tmp_path: Path
) -> None:
    image = comfy_host.upload_image(photo)
    frames = []
    for strength in (1.0, 0.0):
        prompt = make_small_prompt(comfy_host, name, image)
        for part in ("id", "ref"):
            set_inputs(prompt, f"{part}_strength", strength)
        (file,) = list_files(comfy_host.queue(prompt), ".mp4")
        frames.append(read_video(comfy_host.fetch(file, tmp_path)).frames.astype(int))
    assert abs(frames[0] - frames[1]).mean() > 1
