"""Strengths, windows and blocks of Lynx Apply, however they are set: typed, linked, promoted, posted."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
from comfy_host import ComfyHost, PromptError
from editor import Editor, Prompt, assert_other, assert_same
from graphs import make_lynx, make_plain, node

pytestmark = [pytest.mark.host, pytest.mark.browser]

PRESET = "more motion"


@pytest.fixture(scope="module")
def presets(wiring_host: ComfyHost) -> dict[str, dict[str, Any]]:
    """Every preset's values, as the editor knows them."""
    return wiring_host.object_info()["LynxApply"]["input"]["required"]["preset"][1]["lynx_presets"]


@pytest.mark.parametrize("part", ["id", "ref"])
def test_a_linked_float_counts_while_a_preset_is_set(
    editor: Editor, presets: dict[str, Any], part: str
) -> None:
    editor.build(make_lynx() | {"number": node("PrimitiveFloat", value=0.3)})
    editor.edit("apply", preset=PRESET)
    editor.link("apply", **{f"{part}_strength": ("number", 0)})
    expected = editor.render(make_lynx(**presets[PRESET] | {f"{part}_strength": 0.3}))
    assert_same(editor.run(), expected)
    assert_other(expected, editor.render(make_lynx(**presets[PRESET])))

    editor.edit("number", value=0.5)
    expected = editor.render(make_lynx(**presets[PRESET] | {f"{part}_strength": 0.5}))
    assert_same(editor.run(), expected)


def test_choosing_a_preset_leaves_a_linked_float_in_charge(editor: Editor, presets: dict[str, Any]) -> None:
    editor.build(make_lynx() | {"number": node("PrimitiveFloat", value=0.3)})
    editor.link("apply", ref_strength=("number", 0))
    editor.edit("apply", preset=PRESET)
    run = editor.run()
    assert_same(run, editor.render(make_lynx(**presets[PRESET] | {"ref_strength": 0.3})))
    assert "0.3" in run.notes["apply"], "the note shows what acts"


def test_widgets_promoted_to_a_subgraph_count_while_a_preset_is_set(
    editor: Editor, presets: dict[str, Any]
) -> None:
    editor.build(make_lynx())
    editor.edit("apply", preset=PRESET)
    editor.enclose(["apply"], {"apply": ["id_strength", "ref_strength", "ref_blocks"]}, name="person")
    assert_same(editor.run(), editor.render(make_lynx(**presets[PRESET])))

    edited = {"id_strength": 0.2, "ref_strength": 0.4, "ref_blocks": "0-1"}
    editor.edit("person", **edited)
    expected = editor.render(make_lynx(**presets[PRESET] | edited))
    assert_same(editor.run(), expected)

    editor.save_and_reopen()
    assert {name: editor.widgets("person")[name] for name in edited} == edited
    assert_same(editor.run(), expected)


def test_a_promoted_preset_fills_the_widgets(editor: Editor, presets: dict[str, Any]) -> None:
    """Those inside the subgraph, and those that are promoted beside it; an edit of one of them counts."""
    editor.build(make_lynx())
    editor.enclose(["apply"], {"apply": ["preset", "ref_strength"]}, name="person")
    editor.edit("person", preset=PRESET)
    assert editor.widgets("person")["ref_strength"] == presets[PRESET]["ref_strength"]
    assert_same(editor.run(), editor.render(make_lynx(**presets[PRESET])))

    editor.edit("person", ref_strength=0.3)
    assert editor.widgets("person")["preset"] == "custom"
    assert_same(editor.run(), editor.render(make_lynx(**presets[PRESET] | {"ref_strength": 0.3})))


def test_a_float_reaches_a_subgraph(editor: Editor, presets: dict[str, Any]) -> None:
    editor.build(make_lynx() | {"number": node("PrimitiveFloat", value=0.3)})
    editor.edit("apply", preset=PRESET)
    editor.enclose(["apply", "sample"], {"apply": ["ref_strength"]}, name="person")
    editor.link("person", ref_strength=("number", 0))
    expected = editor.render(make_lynx(**presets[PRESET] | {"ref_strength": 0.3}))
    assert_same(editor.run(), expected)


def test_a_subgraph_around_lynx_apply_is_bypassed_like_lynx_apply(editor: Editor) -> None:
    editor.build(make_lynx())
    editor.enclose(["apply"], {}, name="person")
    editor.bypass("person")
    assert_same(editor.run(), editor.render(make_plain()))
    editor.activate("person")
    assert_same(editor.run(), editor.render(make_lynx()))


def test_a_float_reaches_through_two_subgraphs(editor: Editor, presets: dict[str, Any]) -> None:
    editor.build(make_lynx() | {"number": node("PrimitiveFloat", value=0.3)})
    editor.edit("apply", preset=PRESET)
    editor.link("apply", ref_strength=("number", 0))
    editor.enclose(["face", "id", "apply"], {}, name="person")
    editor.enclose(["person", "reference"], {}, name="outer")
    expected = editor.render(make_lynx(**presets[PRESET] | {"ref_strength": 0.3}))
    assert_same(editor.run(), expected)
    editor.save_and_reopen()
    assert_same(editor.run(), expected)


def test_values_edited_in_the_api_format_count_while_a_preset_is_set(
    editor: Editor, presets: dict[str, Any]
) -> None:
    editor.build(make_lynx())
    editor.edit("apply", preset=PRESET)
    exported = editor.export_api()
    assert exported["apply"]["inputs"]["preset"] == PRESET
    assert np.array_equal(editor.render(exported), editor.render(make_lynx(**presets[PRESET])))

    exported["apply"]["inputs"] |= {"ref_strength": 0.3, "id_end": 0.5}
    expected = editor.render(make_lynx(**presets[PRESET] | {"ref_strength": 0.3, "id_end": 0.5}))
    assert np.array_equal(editor.render(exported), expected), "the preset won"


def test_a_preset_of_the_editor_is_saved_and_run(editor: Editor, presets: dict[str, Any]) -> None:
    for preset, values in presets.items():
        editor.build(make_lynx())
        editor.edit("apply", preset=preset)
        assert {name: editor.widgets("apply")[name] for name in values} == values
        editor.save_and_reopen()
        shown = editor.widgets("apply")
        assert {name: shown[name] for name in values} == values and shown["preset"] == preset
    assert_same(editor.run(), editor.render(make_lynx(**values)))


def test_an_edited_preset_is_saved_as_edited(editor: Editor, presets: dict[str, Any]) -> None:
    editor.build(make_lynx())
    editor.edit("apply", preset=PRESET)
    editor.edit("apply", ref_strength=0.35)
    editor.save_and_reopen()
    assert editor.widgets("apply")["ref_strength"] == 0.35
    expected = editor.render(make_lynx(**presets[PRESET] | {"ref_strength": 0.35}))
    assert_same(editor.run(), expected)


def test_a_preset_clears_invalid_values(editor: Editor, presets: dict[str, Any]) -> None:
    editor.build(make_lynx())
    editor.edit("apply", id_blocks="first ten", ref_start=0.9, ref_end=0.1)
    assert editor.run().red == {"apply"}
    editor.edit("apply", preset=PRESET)
    assert_same(editor.run(), editor.render(make_lynx(**presets[PRESET])))


INVALID: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "nonsense": ({"id_blocks": "first ten"}, ("id", "first ten", "all")),
    "nonsense in the other part": ({"ref_blocks": "0-1; 3"}, ("ref", "0-1; 3", "all")),
    "turned round": ({"ref_blocks": "3-1"}, ("ref", "3-1")),
    "no such block": ({"ref_blocks": "40-50"}, ("ref", "40-50", "0 to 3")),
    "empty": ({"id_blocks": ""}, ("id", "all")),
    "blank": ({"ref_blocks": "  "}, ("ref", "all")),
    "trailing comma": ({"ref_blocks": "0-1,"}, ("ref", "0-1,")),
    "start after end": ({"id_start": 0.8, "id_end": 0.2}, ("id", "0.8", "0.2")),
    "start after end, reference": ({"ref_start": 0.8, "ref_end": 0.2}, ("ref", "0.8", "0.2")),
}


@pytest.mark.parametrize("case", INVALID)
def test_an_invalid_value_is_named_with_its_part(editor: Editor, case: str) -> None:
    widgets, words = INVALID[case]
    editor.build(make_lynx())
    editor.edit("apply", **widgets)
    run = editor.run()
    assert run.red == {"apply"}, run.said
    part, *values = words
    (told,) = re.findall("Exception Message:(.*)", run.message)
    for value in values:
        assert value in told
    names = {"id": r"\bID\b|\bid_", "ref": r"[Rr]eference|\bref_"}
    assert [name for name, word in names.items() if re.search(word, told)] == [part], told

    editor.edit("apply", **{name: make_lynx()["apply"]["inputs"][name] for name in widgets})
    cured = editor.run()
    assert_same(cured, editor.render(make_lynx()))
    assert cured.red == frozenset() and not editor.shows_an_error()


def test_both_strengths_at_0_are_plain_wan_and_said(editor: Editor) -> None:
    editor.build(make_lynx())
    editor.edit("apply", id_strength=0.0, ref_strength=0.0)
    run = editor.run()
    assert_same(run, editor.render(make_plain()))
    assert re.search("ID.* 0", run.notes["apply"]) and re.search("reference.* 0", run.notes["apply"])


@pytest.mark.parametrize("value", ["", "strong", None])
def test_no_number_in_the_api_format_is_refused_by_name(editor: Editor, value: Any) -> None:
    prompt: Prompt = make_lynx()
    prompt["apply"]["inputs"]["ref_strength"] = value
    error = editor.host.queue_error(prompt)
    assert isinstance(error, PromptError) and "ref_strength" in str(error)
    assert error.node_type == "LynxApply"
