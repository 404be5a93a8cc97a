"""The editor beyond the shipped workflows: Nodes 2.0, promoted widgets, and a host without any model."""

from __future__ import annotations

import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from comfy_host import PACK_NAME, ComfyHost
from test_browser import (
    HEIGHT,
    NUM_FRAMES,
    NUM_STEPS,
    SHRINK,
    WIDTH,
    browser,
    find_complaints_of_pack,
    host,
    open_parts,
    open_workflow,
    page,
    photo,
    press_run,
)

__all__ = ["browser", "host", "page", "photo"]  # fixtures

pytestmark = [pytest.mark.host, pytest.mark.browser]

PRESET = "softer reference"
VALUES = {"id_strength": 1.0, "ref_strength": 0.6, "ref_start": 0.1, "ref_end": 0.8}

LOOK_AT = """type => {
  const node = window.app.graph._nodes.find(node => node.type === type || node.title === type);
  const view = window.app.canvas.ds;
  view.scale = 1;
  view.offset[0] = 300 - node.pos[0];
  view.offset[1] = 150 - node.pos[1];
  window.app.canvas.setDirty(true, true);
  return String(node.id);
}"""

ENCLOSE = """names => {
  const graph = window.app.graph, apply = graph._nodes.find(node => node.type === "LynxApply");
  const {subgraph, node} = graph.convertToSubgraph(new Set([apply]));
  const inner = subgraph._nodes.find(node => node.type === "LynxApply");
  for (const name of names) {
    const slot = inner.inputs.findIndex(input => input.name === name);
    subgraph.addInput(name, inner.inputs[slot].type).connect(inner.inputs[slot], inner);
  }
  node.title = "Person";
}"""

SET_PROMOTED = """values => {
  const node = window.app.graph._nodes.find(node => node.title === "Person");
  for (const [name, value] of Object.entries(values))
    node.widgets.find(widget => widget.name === name).value = value;
}"""

READ_PROMPT = """async () => Object.values((await window.app.graphToPrompt()).output)
  .find(node => node.class_type === "LynxApply").inputs"""


def set_nodes_2(page: Any, host: ComfyHost, is_on: bool) -> None:
    page.goto(host.url)
    page.wait_for_function("() => window.app?.graph && window.app.extensionManager", timeout=90_000)
    page.evaluate("on => window.app.ui.settings.setSettingValueAsync('Comfy.VueNodes.Enabled', on)", is_on)


@pytest.fixture
def nodes_2(page: Any, host: ComfyHost) -> Iterator[Any]:
    """A page whose nodes are those of Nodes 2.0."""
    set_nodes_2(page, host, True)
    yield page
    set_nodes_2(page, host, False)


def find_node(page: Any, name: str) -> Any:
    """The node of this type or title in Nodes 2.0, moved into sight."""
    node_id = page.evaluate(LOOK_AT, name)
    node = page.locator(f'[data-node-id="{node_id}"]').first
    node.wait_for(timeout=20_000)
    page.wait_for_timeout(500)
    return node


def choose_preset(page: Any, node: Any) -> None:
    node.get_by_role("combobox", name="preset").click()
    page.get_by_role("option", name=PRESET).click()
    page.wait_for_timeout(300)


def test_nodes_2_keeps_the_lines_of_a_note(nodes_2: Any, host: ComfyHost, photo: Path) -> None:
    open_parts(nodes_2, host, photo)
    nodes_2.evaluate(SHRINK, [WIDTH, HEIGHT, NUM_FRAMES, NUM_STEPS])
    host.free_memory()  # every node runs and shows what it has to show
    nodes_2.wait_for_timeout(1000)
    host.wait(press_run(nodes_2))
    node = find_node(nodes_2, "LynxLoadAdapter")
    shown = node.get_by_text("resampler: 16 tokens").first
    shown.wait_for(timeout=20_000)
    lines = shown.inner_text().splitlines()
    assert [line.split(":")[0].strip() for line in lines[1:]] == [
        "resampler",
        "ID layers",
        "reference layers",
    ]


def test_a_preset_chosen_in_nodes_2_fills_the_widgets(nodes_2: Any, host: ComfyHost, photo: Path) -> None:
    open_parts(nodes_2, host, photo)
    choose_preset(nodes_2, find_node(nodes_2, "LynxApply"))
    inputs = nodes_2.evaluate(READ_PROMPT)
    assert inputs["preset"] == PRESET and {name: inputs[name] for name in VALUES} == VALUES
    nodes_2.keyboard.press("Escape")
    apply = find_node(nodes_2, "LynxApply")
    apply.get_by_test_id("advanced-inputs-button").click()
    apply.get_by_label("ref_blocks").fill("0-2")
    nodes_2.keyboard.press("Tab")
    nodes_2.wait_for_timeout(300)
    inputs = nodes_2.evaluate(READ_PROMPT)
    assert inputs["preset"] == "custom" and inputs["ref_blocks"] == "0-2" and inputs["ref_strength"] == 0.6


@pytest.mark.parametrize("is_nodes_2", [False, True])
def test_a_promoted_preset_that_fills_nothing_is_told_in_the_editor(
    page: Any, host: ComfyHost, photo: Path, is_nodes_2: bool
) -> None:
    set_nodes_2(page, host, is_nodes_2)
    strength = 0.4 if is_nodes_2 else 0.3  # a node whose result is in the host's cache says nothing again
    try:
        open_parts(page, host, photo)
        page.evaluate(SHRINK, [WIDTH, HEIGHT, NUM_FRAMES, NUM_STEPS])
        page.evaluate(ENCLOSE, ["preset", "ref_strength"])
        page.evaluate(SET_PROMOTED, {"preset": PRESET, "ref_strength": strength})
        inputs = page.evaluate(READ_PROMPT)
        assert inputs["preset"] == PRESET and inputs["ref_strength"] == strength
        host.wait(press_run(page))
        toast = page.get_by_text("the values here count", exact=False).first
        toast.wait_for(timeout=20_000)
        assert f"ref_strength is {strength} (preset: 0.6)" in toast.inner_text()
    finally:
        set_nodes_2(page, host, False)


def test_opening_a_workflow_keeps_values_that_are_not_the_presets(
    page: Any, host: ComfyHost, photo: Path
) -> None:
    open_parts(page, host, photo)
    reload = """async change => {
      const saved = window.app.graph.serialize();
      const apply = saved.nodes.find(node => node.type === "LynxApply");
      apply.widgets_values[5] = change;  // ref_strength; the preset stays "as published"
      await window.app.loadGraphData(saved);
    }"""
    page.evaluate(reload, 0.25)
    inputs = page.evaluate(READ_PROMPT)
    assert inputs["ref_strength"] == 0.25, "opening a workflow changes no value"


@pytest.fixture(scope="module")
def bare_host(comfyui_dirs: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[ComfyHost]:
    """A host without any model but those that come with this pack."""
    with ComfyHost(comfyui_dirs["0.30.0"], tmp_path_factory.mktemp("bare")) as bare:
        yield bare


def test_the_editor_lists_every_missing_file_with_a_download(page: Any, bare_host: ComfyHost) -> None:
    workflow = open_workflow(page, bare_host, "Photo-to-video")
    page.get_by_text("View details").first.click(timeout=20_000)
    page.get_by_text("Missing Models").first.wait_for(timeout=20_000)
    inside = workflow["definitions"]["subgraphs"]
    nodes = [node for graph in (workflow, *inside) for node in graph["nodes"]]
    wanted = [file["name"] for node in nodes for file in node["properties"].get("models", ())]
    assert len(wanted) == 7 and "lynx_full/ref_layers.safetensors" in wanted
    for name in wanted:
        assert page.get_by_role("button", name=f"Download {name}", exact=True).count() == 1


def test_a_run_without_the_files_names_them_all_with_a_command_that_works(
    page: Any, bare_host: ComfyHost
) -> None:
    open_workflow(page, bare_host, "Photo-to-video")
    with page.expect_response(lambda answer: answer.url.endswith("/prompt")) as queued:
        page.get_by_test_id("queue-button").click()
    refusals = {
        refusal["class_type"]: refusal["errors"][0]["details"]
        for refusal in queued.value.json()["node_errors"].values()
    }
    assert set(refusals) == {
        "UNETLoader",
        "CLIPLoader",
        "VAELoader",
        "LynxLoadAdapter",
        "LynxLoadFaceAnalyzer",
    }
    page.get_by_text("View details").first.click(timeout=20_000)
    page.get_by_label("Info for Lynx Load Adapter - adapter").click()
    page.get_by_text("paste this into a terminal", exact=False).first.wait_for(timeout=20_000)
    expected = {
        "LynxLoadAdapter": (
            ["lynx_full", "ref_layers.safetensors, about 4.2 GB", "models/lynx/lynx_full"],
            3,
        ),
        "LynxLoadFaceAnalyzer": (
            ["buffalo_l", "det_10g.onnx, 17 MB", "recognition_arcface_ir_se50.pth, 175 MB"],
            6,
        ),
    }
    for node, (words, num_files) in expected.items():
        for word in words:
            assert word in refusals[node], refusals[node]
        command = refusals[node].rsplit("terminal: ", 1)[1]
        # As pasted: in any folder, and without this repository in the path.
        shown = subprocess.run(
            ["bash", "-c", f"{command} --dry-run"],
            cwd="/",
            env={},
            capture_output=True,
            text=True,
            check=False,
        )
        assert shown.returncode == 0, shown.stderr
        assert (
            sys.executable in shlex.split(command)
            and shown.stdout.count(str(bare_host.base_dir)) == num_files
        )


def test_published_names_that_are_not_there_are_marked_and_the_bare_ones_stay_valid(
    bare_host: ComfyHost, comfy_host: ComfyHost
) -> None:
    def list_options(server: ComfyHost, node: str, name: str) -> list[str]:
        kind, *rest = server.object_info()[node]["input"]["required"][name]
        return kind if isinstance(kind, list) else rest[0]["options"]

    marked = "lynx_full (not downloaded)"
    assert marked in list_options(bare_host, "LynxLoadAdapter", "adapter")
    assert "buffalo_l (not downloaded)" in list_options(bare_host, "LynxLoadFaceAnalyzer", "detector_pack")
    there = list_options(comfy_host, "LynxLoadAdapter", "adapter")
    assert "lynx_full" in there and marked not in there
    # A workflow saved with either name runs once the files are there.
    for name in ("lynx_full", marked):
        loaded = {
            "class_type": "LynxLoadAdapter",
            "inputs": dict.fromkeys(("resampler", "id_layers", "ref_layers"), "none"),
        }
        loaded["inputs"]["adapter"] = name
        shown = {"class_type": "PreviewAny", "inputs": {"source": ["adapter", 0]}}
        comfy_host.queue({"adapter": loaded, "shown": shown})


def test_no_script_of_the_pack_complains(page: Any, bare_host: ComfyHost) -> None:
    open_workflow(page, bare_host, "Photo-to-video-lite")
    assert [text for text in find_complaints_of_pack(page) if f"/extensions/{PACK_NAME}/" in text] == []
