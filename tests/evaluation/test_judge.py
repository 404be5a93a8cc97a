"""The vision judge against a server that behaves in every way but well."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_benchmark import draw_scene, judge_drawings, list_cells, make_matrix, write_finished
from stub_judge import CRITERIA, StubJudge, give_marks, serve

from lynx_core.evaluation.cells import Matrix
from lynx_core.evaluation.configuration import JudgeSettings
from lynx_core.evaluation.errors import JudgeError
from lynx_core.evaluation.generation import generate
from lynx_core.evaluation.judge import Judge, choose_frames
from lynx_core.evaluation.judging import WRONG_PROMPT
from lynx_core.evaluation.ledger import ScoreRow, open_scores
from lynx_core.evaluation.report import Content
from lynx_core.evaluation.results import Results
from lynx_core.evaluation.rubric import AnswerError, parse_answer
from lynx_core.evaluation.scoring import score
from lynx_core.evaluation.video import Video

VIDEO = Video(np.full((10, 48, 80, 3), 90, np.uint8), 8)
GOOD = give_marks("", [])


@pytest.fixture
def stub() -> Iterator[StubJudge]:
    with serve(StubJudge()) as running:
        yield running


def make_judge(stub: StubJudge, **settings: Any) -> Judge:
    values = {"base_url": stub.url, "model": "stub-1", "attempts": 2, "frames": 4, **settings}
    return Judge(JudgeSettings(**values), first_wait_s=0.01)


@pytest.mark.parametrize(
    "text",
    [
        "The video is very good, I give it 9 out of 10.",
        GOOD[:-6],
        "```json\n" + GOOD + "\n```",
        "Here you are: " + GOOD,
        "",
        "[7, 7, 7, 7]",
        json.dumps(dict.fromkeys(CRITERIA[:3], 7)),
        json.dumps({**dict.fromkeys(CRITERIA, 7), "comment": "nice"}),
        json.dumps({**dict.fromkeys(CRITERIA, 7), "aesthetics": 11}),
        json.dumps({**dict.fromkeys(CRITERIA, 7), "aesthetics": -1}),
        json.dumps({**dict.fromkeys(CRITERIA, 7), "aesthetics": 7.5}),
        json.dumps({**dict.fromkeys(CRITERIA, 7), "aesthetics": "7"}),
        json.dumps({**dict.fromkeys(CRITERIA, 7), "aesthetics": True}),
        json.dumps({**dict.fromkeys(CRITERIA, 7), "aesthetics": None}),
    ],
)
def test_what_breaks_the_schema_is_no_mark(stub: StubJudge, text: str) -> None:
    with pytest.raises(AnswerError):
        parse_answer(text)
    stub.answer = lambda prompt, frames: text
    answer = make_judge(stub).ask(VIDEO, "a person nods")
    assert answer.marks is None and answer.error and answer.raw == (text, text)
    assert len(stub.requests) == 2


def test_a_broken_answer_is_asked_for_again(stub: StubJudge) -> None:
    stub.answer = lambda prompt, frames: GOOD if len(stub.requests) > 1 else "half of it {"
    answer = make_judge(stub).ask(VIDEO, "a person nods")
    assert answer.marks == dict.fromkeys(CRITERIA, 7)
    assert answer.raw == ("half of it {", GOOD) and answer.input_tokens == 200


def test_another_models_answer_is_refused(stub: StubJudge) -> None:
    stub.model = "stub-2-preview"
    with pytest.raises(JudgeError, match="asked for 'stub-1', and 'stub-2-preview' answered"):
        make_judge(stub).ask(VIDEO, "a person nods")
    answer = make_judge(stub, answers_as="stub-2-preview").ask(VIDEO, "a person nods")
    assert answer.model == "stub-2-preview" and answer.marks


def test_a_busy_server_is_waited_for(stub: StubJudge) -> None:
    stub.failures = [429, 500, 503, 429, 502]
    assert make_judge(stub).ask(VIDEO, "a person nods").marks
    assert len(stub.requests) == 6


def test_patience_ends_and_a_wrong_key_is_not_waited_for(stub: StubJudge) -> None:
    stub.failures = [429] * 100
    with pytest.raises(JudgeError, match=r"did not answer for 0 s \(the last: 429\)"):
        make_judge(stub, patience_s=0.05).ask(VIDEO, "a person nods")
    stub.failures = [401]
    with pytest.raises(JudgeError, match="refuses: 401"):
        make_judge(stub).ask(VIDEO, "a person nods")
    with pytest.raises(JudgeError, match="no judge answers at"):
        Judge(JudgeSettings(base_url="http://127.0.0.1:9/v1", model="m")).ask(VIDEO, "x")


def test_it_is_shown_frames_and_prompt_and_asked_for_the_schema(stub: StubJudge) -> None:
    shapes: list[tuple[int, ...]] = []
    stub.answer = lambda prompt, frames: shapes.extend(frame.shape for frame in frames) or GOOD
    make_judge(stub, frame_px=40).ask(VIDEO, "a person nods")
    assert shapes == [(24, 40, 3)] * 4
    (request,) = stub.requests
    assert request["model"] == "stub-1" and request["response_format"]["json_schema"]["strict"] is True
    assert list(choose_frames(np.arange(10), 4)) == [0, 3, 6, 9]
    assert len(choose_frames(np.arange(3), 8)) == 3


def make_benchmark(stub: StubJudge, data: Path, folder: Path, **judge: Any) -> Matrix:
    """Six videos of one method whose name must stay hidden from the judge."""
    videos = write_finished(folder / "v", list_cells(data), draw_scene)
    method = {"name": "method_under_test", "conditioned_by": [], "videos": videos}
    settings = {
        "base_url": stub.url,
        "model": "stub-1",
        "repeats": 2,
        "control_every": 2,
        "frames": 2,
        "attempts": 1,
    }
    matrix = make_matrix(data, folder / "out", [method], judge={**settings, **judge})
    generate(matrix, lambda _: None)
    stub.answer = judge_drawings(
        {prompt.text: number for number, prompt in enumerate(matrix.prompts.values())}
    )
    return matrix


def read_judged(matrix: Matrix) -> list[ScoreRow]:
    return [row for row in open_scores(matrix.output).read() if row.model]


def test_marks_are_stored_with_all_that_they_rest_on(stub: StubJudge, data: Path, tmp_path: Path) -> None:
    matrix, said = make_benchmark(stub, data, tmp_path, usd_per_million_input=2.0), []
    score(matrix, said.append)
    plan = next(line for line in said if line.startswith("judge stub-1"))
    assert "15 requests" in plan and "input and" in plan and "$" in plan
    assert said.index(plan) < said.index(next(line for line in said if line.startswith("judged 1 of 15")))
    rows = read_judged(matrix)
    assert len(rows) == 6 * 2 * 4 + 3
    right = [row.value for row in rows if row.metric == "prompt_following"]
    wrong = [row.value for row in rows if row.metric == WRONG_PROMPT]
    assert right == [0.9] * 12 and wrong == [0.2] * 3
    row = rows[0]
    assert (
        row.model == "stub-1" and row.details["answered_by"] == "stub-1" and json.loads(row.details["raw"][0])
    )
    assert "method_under_test" not in json.dumps(stub.requests), "the judge is blind"
    notes = Content(Results(matrix)).list_judge_notes()
    assert any("it reads the prompt" in note for note in notes)

    seen = len(stub.requests)
    score(matrix, said.append)
    assert len(stub.requests) == seen, "nothing is asked twice"


def test_a_judge_that_does_not_read_the_prompt_is_found_out(
    stub: StubJudge, data: Path, tmp_path: Path
) -> None:
    matrix = make_benchmark(stub, data, tmp_path)
    stub.answer = give_marks
    score(matrix, lambda _: None)
    assert any(
        "DOES NOT SEEM TO READ THE PROMPT" in note for note in Content(Results(matrix)).list_judge_notes()
    )


def test_a_run_that_breaks_off_is_taken_up_where_it_was(stub: StubJudge, data: Path, tmp_path: Path) -> None:
    matrix = make_benchmark(stub, data, tmp_path, concurrency=1, patience_s=0)
    honest = stub.answer

    def tire(prompt: str, frames: list[np.ndarray]) -> str:
        if len(stub.requests) == 7:
            stub.failures = [500] * 1000
        return honest(prompt, frames)

    stub.answer = tire
    with pytest.raises(JudgeError, match="run the same command later"):
        score(matrix, lambda _: None)
    before = len(read_judged(matrix))
    assert 0 < before < 51
    stub.failures, stub.answer = [], honest
    asked = len(stub.requests)
    score(matrix, lambda _: None)
    assert len(read_judged(matrix)) == 51 and len(stub.requests) - asked == 15 - 7


def test_another_model_stops_the_run_and_leaves_no_score(stub: StubJudge, data: Path, tmp_path: Path) -> None:
    matrix = make_benchmark(stub, data, tmp_path)
    stub.model = "cheaper"
    with pytest.raises(JudgeError, match="'cheaper' answered"):
        score(matrix, lambda _: None)
    assert read_judged(matrix) == []


def test_broken_answers_are_errors_that_can_be_tried_again(
    stub: StubJudge, data: Path, tmp_path: Path
) -> None:
    matrix = make_benchmark(stub, data, tmp_path)
    honest, stub.answer = stub.answer, lambda prompt, frames: "I would say it is quite nice."
    score(matrix, lambda _: None)
    rows = read_judged(matrix)
    assert len(rows) == 51 and all(
        row.value is None and "broke the schema" in (row.error or "") for row in rows
    )
    assert rows[0].details["raw"] == ["I would say it is quite nice."]
    stub.answer = honest
    score(matrix, lambda _: None)
    assert all(row.error for row in read_judged(matrix))
    score(matrix, lambda _: None, retry_errors=True)
    assert not any(row.error for row in read_judged(matrix))


def test_an_estimate_above_the_limit_asks_nothing(stub: StubJudge, data: Path, tmp_path: Path) -> None:
    matrix = make_benchmark(stub, data, tmp_path, usd_per_million_input=1e6, max_usd=1.0)
    with pytest.raises(JudgeError, match=r"above judge\.max_usd"):
        score(matrix, lambda _: None)
    assert stub.requests == []
