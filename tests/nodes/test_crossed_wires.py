"""Wires that cross: a person or the prompt that is missing from one conditioning is said."""

from __future__ import annotations

from typing import Any

import pytest
from wan_bench import Applied, Conditioning, WanBench

SECOND_MISSING = "a person is missing from one of them"
PROMPT_MISSING = "the prompt is missing from the video"


@pytest.fixture(scope="module")
def on(
    bench: WanBench, base: Any, prompt: Conditioning, negative: Conditioning, identity: dict[str, Any]
) -> Applied:
    return bench.apply(base, prompt, negative, **identity)


@pytest.mark.parametrize("skipped", ["positive", "negative"])
def test_a_conditioning_that_misses_the_second_person_is_said(
    bench: WanBench,
    on: Applied,
    full: Any,
    skipped: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Two Lynx Apply in a row, and one wire from the first."""
    both = bench.apply(on.model, on.positive, on.negative, adapter=full, id=bench.make_id(4))
    bench.sample(both.model, both.positive, both.negative)
    assert "Lynx:" not in caplog.text
    conds = {"positive": both.positive, "negative": both.negative, skipped: getattr(on, skipped)}
    bench.sample(both.model, **conds)
    assert SECOND_MISSING in caplog.text


def test_middle_on_positive_is_said(bench: WanBench, on: Applied, caplog: pytest.LogCaptureFixture) -> None:
    bench.sample(on.model, on.middle, on.negative)
    assert PROMPT_MISSING in caplog.text
    choose = bench.comfy.pack_module("nodes.host.triple_guidance").choose_guidance
    schedule = bench.comfy.pack_module("nodes.host.guidance_schedule").GuidanceSchedule(5.0, 2.0)
    guidance = choose(on.model, on.middle, on.negative, on.middle, schedule)
    assert PROMPT_MISSING in guidance.lines[0]
