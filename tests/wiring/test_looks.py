"""What the nodes look like: few widgets, sliders, colours of their own; and what graphs of earlier versions hold."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from comfy_host import ComfyHost, PromptError
from editor import Editor, assert_same
from graphs import make_lynx

pytestmark = [pytest.mark.host, pytest.mark.browser]

FORMER_PRESET, PRESET = "reference overpowers", "softer reference"
LOOK_AT = """type => {
  const node = window.app.graph._nodes.find((node) => node.type === type), view = window.app.canvas.ds;
  Object.assign(view, { scale: 1, offset: [300 - node.pos[0], 150 - node.pos[1]] });
  window.app.canvas.setDirty(true, true);
  return String(node.id);
}"""
COLOURS = """() => {
  const { canvas } = window.app;
  const style = getComputedStyle(document.documentElement);
  return ["LYNX_ADAPTER", "LYNX_FACE_ANALYZER", "LYNX_FACE", "LYNX_ID", "LYNX_REFERENCE"].map((type) => [
    canvas.colourGetter?.getConnectedColor?.(type) ?? canvas.default_connection_color_byType[type],
    canvas.constructor.link_type_colors[type],
    style.getPropertyValue(`--color-datatype-${type}`).trim(),
  ]);
}"""
SET = "([name, value]) => window.app.ui.settings.setSettingValueAsync(name, value)"


@pytest.fixture(params=["classic", "Nodes 2.0"])
def each_editor(request: pytest.FixtureRequest, editor: Editor) -> Iterator[Editor]:
    editor.page.evaluate(SET, ["Comfy.VueNodes.Enabled", request.param != "classic"])
    editor.page.wait_for_timeout(500)
    yield editor
    editor.page.evaluate(SET, ["Comfy.VueNodes.Enabled", False])


@pytest.fixture
def nodes_2(editor: Editor) -> Iterator[Editor]:
    editor.page.evaluate(SET, ["Comfy.VueNodes.Enabled", True])
    editor.page.wait_for_timeout(500)
    yield editor
    editor.page.evaluate(SET, ["Comfy.VueNodes.Enabled", False])


ADVANCED = {
    "LynxApply": ["start", "end", "blocks", "curve", "vace_reference_frames"],
    "LynxLoadAdapter": ["resampler", "id_layers", "ref_layers"],
    "LynxLoadFaceAnalyzer": ["provider"],
    "LynxCropFace": ["order"],
    "LynxEncodeReference": ["photos"],
}


def test_advanced_widgets_are_out_of_sight_until_they_are_asked_for(nodes_2: Editor) -> None:
    """The classic canvas shows all: it has no place where it would hide them."""
    nodes_2.build(make_lynx())
    for kind, advanced in ADVANCED.items():
        node = nodes_2.page.locator(f'[data-node-id="{nodes_2.page.evaluate(LOOK_AT, kind)}"]').first
        node.wait_for()
        nodes_2.page.wait_for_timeout(300)
        closed = node.inner_text().split("\n")
        assert [line for line in closed if line.removeprefix("id_").removeprefix("ref_") in advanced] == []
        if kind == "LynxApply":
            assert {"preset", "id_strength", "ref_strength"} <= set(closed)
        node.get_by_test_id("advanced-inputs-button").click()
        nodes_2.page.wait_for_timeout(300)
        opened = node.inner_text()
        assert all(name in opened for name in advanced), opened


def open_edited(editor: Editor, values: dict[str, Any]) -> None:
    """Save the graph, change widgets of Lynx Apply in the file, and open the file."""
    saved = json.loads(editor.page.evaluate("window.wiring.save()"))
    apply = next(node for node in saved["nodes"] if node["type"] == "LynxApply")
    names = list(editor.widgets("apply"))
    for name, value in values.items():
        apply["widgets_values"][names.index(name)] = value
    editor.page.evaluate("text => window.wiring.open(text)", json.dumps(saved))
    editor.page.wait_for_timeout(500)


@pytest.mark.parametrize("strength", [-1.0, 3.5])
def test_a_graph_of_an_earlier_version_runs_as_it_is(each_editor: Editor, strength: float) -> None:
    """Its preset has another name now, and its strength is beyond what the slider shows."""
    editor = each_editor
    editor.build(make_lynx())
    values = {
        "preset": FORMER_PRESET,
        "id_strength": strength,
        "ref_strength": 0.6,
        "ref_start": 0.1,
        "ref_end": 0.8,
    }
    open_edited(editor, values)
    assert editor.widgets("apply")["preset"] == PRESET
    exported = editor.export_api()["apply"]["inputs"]
    assert exported["id_strength"] == strength and exported["preset"] == PRESET
    run = editor.run()
    assert_same(run, editor.render(make_lynx(**values | {"preset": "custom"})))


def test_a_former_preset_is_taken_from_an_api_file(wiring_host: ComfyHost) -> None:
    values = {"id_strength": 1.0, "ref_strength": 0.6, "ref_start": 0.1, "ref_end": 0.8}
    log_before = len(wiring_host.read_log())
    wiring_host.queue(make_lynx(preset=FORMER_PRESET, **values))
    assert "Not as in the preset" not in wiring_host.read_log()[log_before:]
    for name, value, message in (
        ("preset", "no such preset", "is none of: custom, as published, softer reference"),
        ("id_strength", 10.5, "must be a number from -10 to 10, got 10.5"),
    ):
        with pytest.raises(PromptError, match=message):
            wiring_host.queue(make_lynx(**{name: value}))


def test_sockets_have_colours_of_their_own_in_every_palette(editor: Editor) -> None:
    editor.build(make_lynx())
    for palette in ("dark", "light", "dark"):
        editor.page.evaluate(SET, ["Comfy.ColorPalette", palette])
        editor.page.wait_for_timeout(700)
        colours = editor.page.evaluate(COLOURS)
        assert all(len(set(each)) == 1 and each[0].startswith("#") for each in colours), (palette, colours)
        assert len({each[0] for each in colours}) == len(colours), "no two sockets alike"


def test_two_nodes_make_the_shortest_graph_in_the_editor(each_editor: Editor) -> None:
    editor = each_editor
    prompt = make_lynx()
    whole = editor.render(prompt)
    for name in ("adapter", "analyzer", "face", "id", "reference"):
        del prompt[name]
    wired = {name: prompt["apply"]["inputs"][name] for name in ("model", "positive", "negative")}
    more = {"image": ["photo", 0], "clip": ["clip", 0], "vae": ["vae", 0], "adapter": "lynx_full"}
    prompt["apply"] = {"class_type": "LynxPerson", "inputs": {**wired, **more, "preset": "as published"}}
    editor.build(prompt)
    run = editor.run()
    assert_same(run, whole)
    assert "lynx_full, preset as published" in run.notes["apply"]
