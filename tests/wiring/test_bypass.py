"""Nodes that are bypassed or muted, each alone and two at once."""

from __future__ import annotations

import pytest
from editor import Editor, assert_same
from graphs import make_lynx, make_plain, set_sampler

pytestmark = [pytest.mark.host, pytest.mark.browser]

NEEDS = {"face": "face", "adapter": "adapter", "analyzer": "face_analyzer"}


@pytest.mark.parametrize("sampler", ["LynxSampler", "LynxGuider", "KSampler", "CFGGuider"])
@pytest.mark.parametrize("cfg", [5.0, 1.0])
def test_bypassing_lynx_apply_is_plain_wan(editor: Editor, sampler: str, cfg: float) -> None:
    editor.build(make_lynx(sampler, cfg))
    editor.bypass("apply")
    run = editor.run()
    assert_same(run, editor.render(make_plain(cfg)))

    if cfg != 1.0:
        editor.activate("apply")
        assert_same(editor.run(), editor.render(make_lynx(sampler, cfg)))


def test_muting_lynx_apply_names_the_inputs_that_are_missing(editor: Editor) -> None:
    editor.build(make_lynx())
    editor.mute("apply")
    run = editor.run()
    for name in ("model", "positive", "negative"):
        assert name in run.message, run.said
    assert "Lynx Sampler" in run.message and run.red == {"sample"}
    assert "middle" not in run.message, "it is optional"

    editor.activate("apply")
    assert_same(editor.run(), editor.render(make_lynx()))


@pytest.mark.parametrize("part", ["id", "reference"])
def test_without_one_part_the_other_acts_alone(editor: Editor, part: str) -> None:
    alone = make_lynx()
    del alone["apply"]["inputs"][part]
    editor.host.forget_results()
    editor.build(make_lynx())
    editor.bypass(part)
    bypassed = editor.run()
    editor.mute(part)
    assert_same(editor.run(), bypassed.latent)
    assert_same(bypassed, editor.render(alone))
    (acting,) = [line for line in bypassed.notes["apply"].splitlines() if "to 100%" in line]
    assert acting.startswith({"id": "reference", "reference": "ID"}[part])


def test_without_both_parts_lynx_apply_asks_for_one(editor: Editor) -> None:
    editor.build(make_lynx())
    editor.bypass("id", "reference")
    run = editor.run()
    assert "Lynx Encode ID" in run.message and "Encode Reference" in run.message and "bypass" in run.message
    assert run.red == {"apply"}

    editor.bypass("apply")
    assert_same(editor.run(), editor.render(make_plain()))


@pytest.mark.parametrize("name", NEEDS)
def test_bypassing_what_all_others_need_names_what_is_missing(editor: Editor, name: str) -> None:
    editor.build(make_lynx())
    editor.bypass(name)
    run = editor.run()
    assert NEEDS[name] in run.message, run.said
    assert run.red and run.red <= {"apply", "reference", "id", "face"}
    assert not run.latents, "a video without the person would come as a surprise"

    editor.activate(name)
    cured = editor.run()
    assert_same(cured, editor.render(make_lynx()))
    assert cured.red == frozenset() and not editor.shows_an_error()


def test_a_bypassed_lynx_sampler_hands_the_empty_latent_on(editor: Editor) -> None:
    editor.build(make_lynx())
    editor.bypass("sample")
    assert editor.run().latent.std() == 0


def test_exchanging_the_sampler_of_a_bypassed_apply(editor: Editor) -> None:
    editor.build(set_sampler(make_lynx(), "KSampler"))
    editor.bypass("apply", "id", "reference", "face")
    assert_same(editor.run(), editor.render(make_plain()))


def test_bypassing_a_subgraph_that_holds_the_whole_person_is_said(editor: Editor) -> None:
    """The editor hands the subgraph's first conditioning on as positive and as negative."""
    editor.build(make_lynx())
    editor.enclose(["face", "id", "reference", "apply"], {}, name="person")
    editor.bypass("person")
    run = editor.run()
    assert "positive and negative" in run.notes["sample"] and "subgraph" in run.notes["sample"], run.said


@pytest.mark.parametrize("sampler", ["KSampler", "CFGGuider"])
def test_a_core_sampler_behind_such_a_subgraph_is_warned_of_in_the_corner(
    editor: Editor, sampler: str
) -> None:
    """No node of the pack runs then, so the editor's own script says it."""
    editor.build(make_lynx(sampler))
    editor.enclose(["face", "id", "reference", "apply"], {}, name="person")
    warning = editor.page.get_by_text("This bypassed subgraph holds Lynx Apply")
    editor.page.evaluate("window.app.extensionManager.toast.removeAll()")
    warning.first.wait_for(state="hidden")
    editor.run()
    assert warning.count() == 0
    editor.bypass("person")
    editor.run()
    assert warning.first.is_visible()


def test_a_cancelled_run_leaves_the_next_one_clean(editor: Editor) -> None:
    editor.build(make_lynx())
    editor.edit("sample", steps=500)
    run = editor.run(cancel=True)
    assert not run.latents and run.red == frozenset() and not editor.shows_an_error()
    editor.edit("sample", steps=2)
    assert_same(editor.run(), editor.render(make_lynx()))
