"""The raters' page, filled in as a rater would in a real browser, and what becomes of the answers."""

from __future__ import annotations

import json
import os
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from evaluated import METHODS, Evaluated
from small_benchmark import make_matrix

from lynx_core.evaluation.cells import Matrix
from lynx_core.evaluation.errors import AnswersError, ConfigurationError
from lynx_core.evaluation.ledger import AnswerRow, open_answers
from lynx_core.evaluation.rater_answers import PeopleFigures, take_answers
from lynx_core.evaluation.rater_study import CRITERIA, KEY_NAME, Study, copy_without_metadata, make_study
from lynx_core.evaluation.report import Content
from lynx_core.evaluation.results import Results

LIKING = {"faithful": 5, "hiding": 3, "stranger": 1}


@pytest.fixture
def matrix(evaluated: Evaluated, tmp_path: Path) -> Matrix:
    """The evaluated benchmark in a folder of its own, so that answers stay apart."""
    shutil.copytree(evaluated.matrix.output, tmp_path / "out", ignore=shutil.ignore_patterns("people"))
    return Matrix(evaluated.matrix.benchmark.model_copy(update={"output": tmp_path / "out"}))


def load_study(matrix: Matrix) -> Study:
    make_study(matrix)
    return Study.load(matrix.output / "people" / KEY_NAME)


def test_methods_go_round_and_nobody_sees_a_pair_twice(matrix: Matrix) -> None:
    study = load_study(matrix)
    seen: Counter[tuple[str, str, str]] = Counter()
    for tasks in study.raters.values():
        ratings = [task for task in tasks if task.kind == "rating"]
        assert len({(task.subject, task.prompt) for task in ratings}) == len(ratings) == 6
        seen.update((task.method, task.subject, task.prompt) for task in ratings)
        repeats = [task for task in tasks if task.kind == "repeat"]
        assert len(repeats) == 2
        for repeat in repeats:
            first = next(task for task in ratings if f"{task.id}b" == repeat.id)
            assert (first.method, first.subject) == (repeat.method, repeat.subject)
            assert tasks.index(repeat) - tasks.index(first) >= 1
        assert all(task.method != task.other for task in tasks if task.kind == "pair")
    assert len(seen) == 18 and set(seen.values()) == {2}, "six raters, three methods: every video twice"
    orders = {tuple(task.id for task in tasks) for tasks in study.raters.values()}
    assert len(orders) == 6


def test_the_page_does_not_tell_the_methods(matrix: Matrix) -> None:
    page = make_study(matrix).parent
    text = (page / "index.html").read_text()
    study = Study.load(matrix.output / "people" / KEY_NAME)
    assert study.secret not in text
    for method in METHODS:
        assert str(method["name"]) not in text and str(method["label"]) not in text
    assert not [path for path in page.rglob("*") if any(str(m["name"]) in path.name for m in METHODS)]
    assert KEY_NAME not in [path.name for path in page.rglob("*")]


def test_videos_lose_what_comfyui_wrote_into_them(tmp_path: Path) -> None:
    import av
    import numpy as np

    path = tmp_path / "a.mp4"
    with av.open(str(path), "w", options={"movflags": "use_metadata_tags"}) as file:
        file.metadata["prompt"] = '{"class_type": "LynxApply"}'
        stream = file.add_stream("libx264", rate=8)
        stream.width = stream.height = 32
        for value in range(5):
            pixels = np.full((32, 32, 3), 40 * value, np.uint8)
            file.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        file.mux(stream.encode())
    assert b"LynxApply" in path.read_bytes()
    copy_without_metadata(path, tmp_path / "b.mp4")
    assert b"LynxApply" not in (tmp_path / "b.mp4").read_bytes()

    def frames(name: str) -> Any:
        with av.open(str(tmp_path / name)) as opened:
            return np.stack([frame.to_ndarray(format="rgb24") for frame in opened.decode(video=0)])

    assert (frames("a.mp4") == frames("b.mp4")).all()


@pytest.fixture
def browser() -> Iterator[Any]:
    playwright_api = pytest.importorskip("playwright.sync_api")
    chromium = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        pytest.fail("no Chromium: install it (apt-get install chromium), or set CHROMIUM to its path")
    with playwright_api.sync_playwright() as playwright:
        flags = ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
        running = playwright.chromium.launch(executable_path=chromium, args=flags)
        yield running
        running.close()


def answer_by_keyboard(page: Any, study: Study, rater: str) -> None:
    """Rate every video by how much this rater likes its method, with the keyboard alone."""
    for number, task in enumerate(study.raters[rater]):
        page.get_by_text(f"{number + 1} / {len(study.raters[rater])}", exact=True).wait_for()
        page.wait_for_function(
            "() => [...document.querySelectorAll('video')].every(video => video.readyState >= 1)"
        )
        if task.kind == "pair":
            assert task.other is not None
            page.keyboard.press("ArrowLeft" if LIKING[task.method] > LIKING[task.other] else "ArrowRight")
            continue
        assert page.locator("#next").is_disabled(), "nothing goes on before all is marked"
        for _ in CRITERIA:
            page.keyboard.press(str(LIKING[task.method]))
        page.keyboard.press("Enter")


@pytest.mark.browser
def test_a_rater_fills_the_page_in(browser: Any, matrix: Matrix, tmp_path: Path) -> None:
    page_path = make_study(matrix)
    study = Study.load(matrix.output / "people" / KEY_NAME)
    page = browser.new_page(viewport={"width": 1200, "height": 850}, accept_downloads=True)
    complaints: list[str] = []
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.goto(page_path.as_uri())
    assert page.locator("#begin").is_disabled()
    page.select_option("#rater", "2")
    page.click("#begin")
    answer_by_keyboard(page, study, "2")
    with page.expect_download() as download:
        page.click("#save")
    download.value.save_as(tmp_path / "answers.json")
    assert complaints == []

    said: list[str] = []
    take_answers(matrix, [tmp_path / "answers.json"], said.append)
    rows = open_answers(matrix.output).read()
    assert len(rows) == 8 * 5 + 3 and "11 of 11 tasks" in said[0]
    assert all(row.value == LIKING[row.method] for row in rows if row.kind != "pair")
    assert all(LIKING[row.method] > LIKING[row.other_method or ""] for row in rows if row.kind == "pair")
    assert all(0 < row.seconds < 300 for row in rows)
    take_answers(matrix, [tmp_path / "answers.json"], said.append)
    assert "0 new marks" in said[1] and len(open_answers(matrix.output).read()) == len(rows)


@pytest.mark.browser
def test_a_phone_is_enough_and_a_reload_loses_nothing(browser: Any, matrix: Matrix) -> None:
    page_path = make_study(matrix)
    phone = browser.new_context(viewport={"width": 360, "height": 640}, has_touch=True, is_mobile=True)
    page = phone.new_page()
    page.goto(page_path.as_uri() + "?rater=3")
    page.get_by_text("1 / 11", exact=True).wait_for()
    assert page.evaluate("() => document.documentElement.scrollWidth") <= 360
    small = page.evaluate("() => [...document.querySelectorAll('.marks label, button')]"
                          ".filter(element => element.offsetHeight < 44).length")  # fmt: skip
    assert small == 0, "fingers need 44 px"
    for name in CRITERIA:
        page.locator(f'label:has(input[name="{name}"][value="4"])').tap()
    page.locator("#next").tap()
    page.get_by_text("2 / 11", exact=True).wait_for()
    page.reload()
    page.get_by_text("2 / 11", exact=True).wait_for()
    page.locator("#back").tap()
    assert page.locator("input:checked").count() == 5
    phone.close()


def write_answers(path: Path, study: Study, number: str, changes: dict[str, Any] | None = None) -> Path:
    """Answers of a rater who always marks by method; `changes` replace keys of the file."""
    answers = []
    for task in study.raters[number]:
        if task.kind == "pair":
            left = LIKING[task.method] > LIKING[task.other or ""]
            answers.append({"task": task.id, "seconds": 3, "choice": "left" if left else "right"})
        else:
            marks = dict.fromkeys(CRITERIA, LIKING[task.method])
            answers.append({"task": task.id, "seconds": 9, "marks": marks})
    content = {"format": "lynx-answers-1", "study": study.id, "rater": number, "answers": answers}
    path.write_text(json.dumps(content | (changes or {})))
    return path


def test_answers_become_means_alpha_consistency_and_agreement(matrix: Matrix, tmp_path: Path) -> None:
    study = load_study(matrix)
    files = [write_answers(tmp_path / f"{rater}.json", study, rater) for rater in study.raters]
    take_answers(matrix, files, lambda _: None)
    results = Results(matrix)
    people = PeopleFigures(results.answers, results.methods, 2000)
    for method, liking in LIKING.items():
        interval = people.estimate("face_resemblance", method)
        assert interval is not None and interval.mean == liking and interval.num_cells == 12
    assert people.alpha("aesthetics") == pytest.approx(1)
    assert people.self_consistency is not None and people.self_consistency.equal == 1
    assert people.preferences is not None
    chances = [people.preferences[method].mean for method in LIKING]
    assert chances == sorted(chances, reverse=True) and chances[0] > 0.8
    content = Content(results)
    notes = "\n".join(content.list_people_notes())
    assert (
        "Ordinal alpha of face resemblance: 1.00" in notes
        and "rank correlation of people with mini 0.9" in notes
    )
    table = content.maker.make_judged()
    assert table is not None and ("people: 6 raters, 1 to 5", 5) in table.groups
    first = table.lines[0].figures[4]
    assert first.text == "5.00" and first.bounds == "[5.00, 5.00]"


def test_raters_who_disagree_have_a_low_alpha() -> None:
    rows = [
        AnswerRow(
            "s",
            str(rater),
            f"r{cell}",
            "rating",
            f"p{cell}",
            "x",
            "a",
            None,
            "aesthetics",
            1 + (rater + cell) % 5,
            1.0,
        )
        for rater in range(5)
        for cell in range(5)
    ]
    alpha = PeopleFigures(rows, ["a"], 2000).alpha("aesthetics")
    assert alpha is not None and alpha < 0.1


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"study": "another"}, "is of the study another"),
        ({"rater": "99"}, "there is no rater '99'"),
        ({"format": "something"}, "no answer file of the raters' page"),
        ({"answers": [{"task": "r0", "seconds": 1, "marks": {"aesthetics": 3}}]}, "needs a mark for each of"),
        (
            {"answers": [{"task": "r0", "seconds": 1, "marks": dict.fromkeys(CRITERIA, 6)}]},
            "is 1 to 5, got 6",
        ),
        ({"answers": [{"task": "nope", "seconds": 1, "marks": dict.fromkeys(CRITERIA, 3)}]}, "was not asked"),
        (
            {"answers": [{"task": "p0", "seconds": 1, "marks": dict.fromkeys(CRITERIA, 3)}]},
            "a choice of left or right",
        ),
        (
            {"answers": [{"task": "r0", "seconds": 1, "marks": dict.fromkeys(CRITERIA, 3)}] * 2},
            "answered twice",
        ),
    ],
)
def test_wrong_answer_files_are_refused_whole(
    matrix: Matrix, tmp_path: Path, changes: dict[str, Any], reason: str
) -> None:
    study = load_study(matrix)
    path = write_answers(tmp_path / "a.json", study, "1", changes)
    with pytest.raises(AnswersError, match=reason):
        take_answers(matrix, [path], lambda _: None)
    assert open_answers(matrix.output).read() == []


def test_two_people_under_one_number_are_noticed(matrix: Matrix, tmp_path: Path) -> None:
    study = load_study(matrix)
    take_answers(matrix, [write_answers(tmp_path / "a.json", study, "1")], lambda _: None)
    other = [{"task": "r0", "seconds": 1, "marks": dict.fromkeys(CRITERIA, 2)}]
    path = write_answers(tmp_path / "b.json", study, "1", {"answers": other})
    with pytest.raises(AnswersError, match="two people may have used one number"):
        take_answers(matrix, [path], lambda _: None)


def test_without_videos_there_is_no_page(data: Path, tmp_path: Path) -> None:
    matrix = make_matrix(data, tmp_path, [{"name": "x", "videos": "v", "conditioned_by": []}])
    with pytest.raises(ConfigurationError, match="comfy-lynx evaluate generate"):
        make_study(matrix)
