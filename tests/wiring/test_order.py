"""MODEL and conditionings of Lynx Apply that do not come together at the sampler."""

from __future__ import annotations

import pytest
from editor import Editor, assert_other, assert_same
from graphs import LORA, make_lynx, make_plain, make_two_experts, node, take_guided

pytestmark = [pytest.mark.host, pytest.mark.browser]

SAMPLERS = ("KSampler", "LynxSampler", "CFGGuider", "LynxGuider")


def test_the_editor_runs_plain_wan_and_lynx(editor: Editor) -> None:
    editor.build(make_plain())
    plain = editor.run()
    assert plain.was_run and plain.latent.std() > 0.1
    assert_same(plain, editor.render(make_plain()))

    editor.build(make_lynx())
    run = editor.run()
    assert_other(run.latent, plain.latent)
    assert_same(run, editor.render(make_lynx()))
    assert run.red == frozenset() and not editor.shows_an_error()


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_model_from_before_lynx_apply_stops_at_the_sampler(editor: Editor, sampler: str) -> None:
    prompt = make_lynx(sampler)
    editor.build(prompt)
    editor.link(take_guided(prompt), model=("shift", 0))
    run = editor.run()
    assert "Lynx Apply" in run.message and "MODEL" in run.message, run.said
    assert run.red == {"sample"}

    editor.link(take_guided(prompt), model=("apply", 0))
    cured = editor.run()
    assert_same(cured, editor.render(prompt))
    assert cured.red == frozenset() and not editor.shows_an_error()


def test_merging_into_a_model_without_lynx_stops_at_the_sampler(editor: Editor) -> None:
    """ModelMergeSimple keeps what hangs on model1; Lynx on model2 is lost."""
    prompt = make_lynx() | {
        "merge": node("ModelMergeSimple", model1=["shift", 0], model2=["apply", 0], ratio=0.5)
    }
    editor.build(prompt)
    editor.link("sample", model=("merge", 0))
    run = editor.run()
    assert "Lynx Apply" in run.message and "MODEL" in run.message, run.said
    assert run.red == {"sample"}

    editor.link("merge", model1=("apply", 0), model2=("shift", 0))
    assert_same(editor.run(), editor.render(make_lynx()))


@pytest.mark.parametrize(("forgotten", "sampler"), [("", "sample"), ("_low", "sample_low")])
def test_one_forgotten_expert_of_wan_22_stops_at_its_sampler(
    editor: Editor, forgotten: str, sampler: str
) -> None:
    editor.build(make_two_experts())
    editor.link(sampler, model=(f"shift{forgotten}", 0))
    run = editor.run()
    assert "Lynx Apply" in run.message and "MODEL" in run.message, run.said
    assert run.red == {sampler}

    editor.link(sampler, model=(f"apply{forgotten}", 0))
    cured = editor.run()
    assert_same(cured, editor.render(make_two_experts()))


def test_conditionings_of_the_other_expert_are_refused(editor: Editor) -> None:
    editor.build(make_two_experts())
    editor.link("sample_low", positive=("apply", 1), negative=("apply", 2))
    run = editor.run()
    assert "same Lynx Apply" in run.message and "low_noise" in run.message and "high_noise" in run.message
    assert run.red == {"sample_low"}

    editor.link("sample_low", positive=("apply_low", 1), negative=("apply_low", 2))
    assert_same(editor.run(), editor.render(make_two_experts()))


def test_reference_of_the_other_expert_is_refused(editor: Editor) -> None:
    editor.build(make_two_experts())
    editor.link("apply_low", reference=("reference", 0))
    run = editor.run()
    assert "its own Lynx Encode Reference" in run.message.replace("\n", " ")
    assert run.red == {"apply_low"}

    editor.link("apply_low", reference=("reference_low", 0))
    assert_same(editor.run(), editor.render(make_two_experts()))


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_model_of_lynx_apply_with_plain_prompts_says_that_nobody_is_in_it(
    editor: Editor, sampler: str
) -> None:
    prompt = make_lynx(sampler)
    editor.build(prompt)
    guided = take_guided(prompt)
    editor.link(guided, positive=("prompt", 0), negative=("negative", 0))
    if sampler.startswith("Lynx"):
        editor.link(guided, middle=("negative", 0))
    run = editor.run()
    assert_same(run, editor.render(make_plain()))
    for where in (run.notes.get("sample", "") + run.notes.get(guided, ""), run.log.split("got prompt")[-1]):
        assert "identity" in where and "Lynx Apply" in where, run.said


@pytest.mark.parametrize("sampler", ["LynxSampler", "LynxGuider"])
def test_middle_left_out_loses_nobody(editor: Editor, sampler: str) -> None:
    """It follows from the other two, and the note says so."""
    prompt = make_lynx(sampler)
    editor.build(prompt)
    editor.unlink(take_guided(prompt), "middle")
    run = editor.run()
    assert_same(run, editor.render(prompt))
    assert "middle" in run.notes[take_guided(prompt)]
    assert "Concat" not in run.log, "a false alarm"


def test_a_lora_may_hang_before_or_after_lynx_apply(editor: Editor) -> None:
    """The reference is encoded with the model without the LoRA in both wirings."""
    lora = node("LoraLoaderModelOnly", model=["shift", 0], lora_name=LORA, strength_model=1.0)
    editor.build(make_lynx() | {"lora": lora})
    editor.link("apply", model=("lora", 0))
    before = editor.run().latent

    editor.link("lora", model=("apply", 0))
    editor.link("apply", model=("shift", 0))
    editor.link("sample", model=("lora", 0))
    after = editor.run()
    assert_same(after, before)
    assert_other(after.latent, editor.render(make_lynx()))


def test_the_shift_may_be_set_before_or_after_lynx_apply(editor: Editor) -> None:
    windows = {"id_start": 0.2, "ref_end": 0.9}
    editor.build(make_lynx(**windows))
    editor.link("apply", model=("model", 0))
    editor.link("reference", model=("model", 0))
    editor.link("shift", model=("apply", 0))
    editor.link("sample", model=("shift", 0))
    assert_same(editor.run(), editor.render(make_lynx(**windows)))


@pytest.mark.parametrize("sampler", ["LynxSampler", "LynxGuider"])
def test_rescale_cfg_acts_before_lynx_samplers(editor: Editor, sampler: str) -> None:
    prompt = make_lynx(sampler) | {"rescale": node("RescaleCFG", model=["apply", 0], multiplier=0.7)}
    editor.build(prompt)
    editor.link(take_guided(prompt), model=("rescale", 0))
    rescaled = editor.run().latent
    assert_other(rescaled, editor.render(make_lynx()))

    editor.bypass("apply")
    core = make_plain() | {"rescale": node("RescaleCFG", model=["shift", 0], multiplier=0.7)}
    core["sample"]["inputs"]["model"] = ["rescale", 0]
    assert_same(editor.run(), editor.render(core))
