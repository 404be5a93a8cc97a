"""Several persons, and persons beside plain prompts: joined conditionings, Lynx Apply twice, Wan 2.2."""

from __future__ import annotations

import re

import numpy as np
import pytest
from editor import Editor, assert_other, assert_same
from graphs import Prompt, add_person, make_lynx, make_plain, node, take_guided

pytestmark = [pytest.mark.host, pytest.mark.browser]

OTHER_TEXT = "two people in the rain"
ONE_STEP_TOLERANCE = 2e-3
"""One Euler step from pure noise gives the prediction itself, so joined predictions are means of videos."""


def make_two_people(**joined: object) -> Prompt:
    """Two Lynx Apply nodes side by side, `apply` and `apply_b`, by KSampler."""
    return add_person(make_lynx("KSampler", 1.0), face_number=2) | joined


def take_one_step(prompt: Prompt) -> Prompt:
    prompt["sample"]["inputs"]["steps"] = 1
    return prompt


@pytest.mark.parametrize("other", ["apply_b", "prompt"])
def test_combined_conditionings_give_each_its_own_person(editor: Editor, other: str) -> None:
    """Two persons, or a person beside a plain prompt."""
    slot = 0 if other == "prompt" else 1
    combined = node("ConditioningCombine", conditioning_1=["apply", 1], conditioning_2=[other, slot])
    editor.build(take_one_step(make_two_people(joined=combined)))
    first = editor.run().latent
    editor.link("sample", positive=(other, slot))
    if other == "prompt":
        editor.link("sample", negative=("negative", 0))
    second = editor.run().latent
    assert_other(first, second)

    editor.link("sample", positive=("joined", 0))
    run = editor.run()
    error = np.abs(run.latent - (first + second) / 2).max()
    assert error < ONE_STEP_TOLERANCE, f"{error:.2g} off the mean of both videos: {run.said}"


@pytest.mark.parametrize("join", ["ConditioningConcat", "ConditioningAverage"])
@pytest.mark.parametrize("sampler", ["KSampler", "LynxSampler"])
def test_joins_that_keep_one_person_say_so(editor: Editor, join: str, sampler: str) -> None:
    """Core keeps what belongs to the first input; the second person is not in the video."""
    text = node("CLIPTextEncode", clip=["clip", 0], text=OTHER_TEXT)
    strength = {"conditioning_to_strength": 0.5} if join == "ConditioningAverage" else {}
    joined = node(join, conditioning_to=["apply", 1], conditioning_from=["apply_b", 1], **strength)
    prompt = add_person(make_lynx(sampler), face_number=2) | {"text_b": text, "joined": joined}
    prompt["apply_b"]["inputs"]["positive"] = ["text_b", 0]
    editor.build(prompt)
    editor.link("sample", positive=("joined", 0))
    run = editor.run()
    assert run.latents and run.red == frozenset(), run.said
    for told in (run.log, run.notes.get("sample", "")):
        assert join in told and "first" in told and "ConditioningCombine" in told, run.said


def test_the_average_of_two_people_in_one_prompt_says_so(editor: Editor) -> None:
    """The text comes out as it went in, so nothing but the message tells it from the first person alone."""
    sides = {"conditioning_to": ["apply", 1], "conditioning_from": ["apply_b", 1]}
    joined = node("ConditioningAverage", **sides, conditioning_to_strength=0.5)
    editor.build(add_person(make_lynx("KSampler"), face_number=2) | {"joined": joined})
    editor.link("sample", positive=("joined", 0))
    run = editor.run()
    assert_same(run, editor.render(make_lynx("KSampler")))
    for told in (run.log, run.notes.get("sample", "")):
        assert "ConditioningAverage" in told and "ConditioningCombine" in told, run.said


@pytest.mark.parametrize("join", ["ConditioningConcat", "ConditioningAverage"])
def test_a_person_that_a_join_drops_is_missed_aloud(editor: Editor, join: str) -> None:
    strength = {"conditioning_to_strength": 0.5} if join == "ConditioningAverage" else {}
    joined = node(join, conditioning_to=["prompt", 0], conditioning_from=["apply", 1], **strength)
    editor.build(make_lynx("KSampler") | {"joined": joined})
    editor.link("sample", positive=("joined", 0))
    run = editor.run()
    for told in (run.log, run.notes.get("sample", "")):
        assert re.search("positive.*no identity", told) and "Lynx Apply" in told, run.said


@pytest.mark.parametrize("join", ["ConditioningConcat", "ConditioningAverage"])
def test_joins_before_lynx_apply_are_the_cure(editor: Editor, join: str) -> None:
    text = node("CLIPTextEncode", clip=["clip", 0], text=OTHER_TEXT)
    strength = {"conditioning_to_strength": 0.5} if join == "ConditioningAverage" else {}
    joined = node(join, conditioning_to=["prompt", 0], conditioning_from=["text_b", 0], **strength)
    editor.build(make_lynx() | {"text_b": text, "joined": joined})
    editor.link("apply", positive=("joined", 0))
    run = editor.run()
    assert_other(run.latent, editor.render(make_lynx()))
    assert "ConditioningConcat" not in run.log and "warning" not in run.log.lower(), run.log


def test_id_in_one_lynx_apply_and_reference_in_the_next(editor: Editor) -> None:
    """Two nodes in a row do what one does with both, by each sampler."""
    for sampler in ("KSampler", "LynxSampler"):
        prompt = make_lynx(sampler)
        second = node("LynxApply", **prompt["apply"]["inputs"])
        second["inputs"] |= {"model": ["apply", 0], "positive": ["apply", 1], "negative": ["apply", 2]}
        del second["inputs"]["id"], prompt["apply"]["inputs"]["reference"]
        editor.build(prompt | {"apply_2": second})
        guided = take_guided(prompt)
        editor.link(guided, model=("apply_2", 0), positive=("apply_2", 1), negative=("apply_2", 2))
        if sampler == "LynxSampler":
            editor.link(guided, middle=("apply_2", 3))
        run = editor.run()
        error = np.abs(run.latent - editor.render(make_lynx(sampler))).max()
        assert error < ONE_STEP_TOLERANCE, f"{sampler}: {error:.2g} off"


def test_two_persons_in_a_row_are_both_there(editor: Editor) -> None:
    prompt = add_person(make_lynx(), face_number=2)
    prompt["apply_b"]["inputs"] |= {
        "model": ["apply", 0],
        "positive": ["apply", 1],
        "negative": ["apply", 2],
    }
    editor.build(prompt)
    first = editor.run().latent
    wired = {"model": 0, "positive": 1, "negative": 2, "middle": 3}
    editor.link("sample", **{name: ("apply_b", slot) for name, slot in wired.items()})
    both = editor.run().latent
    assert_other(both, first)
    editor.bypass("apply")
    assert_other(both, editor.run().latent)

    editor.activate("apply")
    editor.bypass("apply_b")
    # The editor hands `positive` on as `middle`: identity_cfg must not fall on the prompt.
    bypassed = editor.run()
    editor.link("sample", middle=("apply", 3))
    assert_same(editor.run(), first)
    assert bypassed.latents


def test_model_of_one_lynx_apply_and_prompts_of_another_work(editor: Editor) -> None:
    """Both are on the same base model, so nothing is lost: the prompts carry the person."""
    prompt = make_two_people()
    editor.build(prompt)
    editor.link("sample", positive=("apply_b", 1), negative=("apply_b", 2))
    crossed = editor.run().latent
    editor.link("sample", model=("apply_b", 0))
    assert_same(editor.run(), crossed)


def test_a_plain_negative_is_said(editor: Editor) -> None:
    """Without the null identity positive and negative differ by more than the release meant."""
    editor.build(make_lynx("KSampler"))
    editor.link("sample", negative=("negative", 0))
    run = editor.run()
    assert_other(run.latent, editor.render(make_plain()))
    assert re.search("negative.*no identity", run.log) and "null identity" in run.log, run.said
