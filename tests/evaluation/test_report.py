"""The report: numbers that are in the ledger, published ones marked, one page that a browser opens offline."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from evaluated import Evaluated
from small_benchmark import make_matrix

from lynx_core.evaluation.cells import Matrix
from lynx_core.evaluation.charts import Point, draw_likeness_editability
from lynx_core.evaluation.errors import ConfigurationError
from lynx_core.evaluation.report import write_report
from lynx_core.evaluation.results import Metric, Results
from lynx_core.evaluation.statistics import Interval


@pytest.fixture(scope="module")
def report(evaluated: Evaluated, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    write_report(evaluated.matrix, folder)
    return folder


@pytest.fixture(scope="module")
def page(report: Path) -> Iterator[Any]:
    """The report in a real Chromium without a network."""
    playwright_api = pytest.importorskip("playwright.sync_api")
    chromium = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        pytest.fail("no Chromium: install it (apt-get install chromium), or set CHROMIUM to its path")
    with playwright_api.sync_playwright() as playwright:
        flags = ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
        browser = playwright.chromium.launch(executable_path=chromium, args=flags)
        opened = browser.new_context(offline=True).new_page()
        opened.complaints = []
        opened.on("pageerror", lambda error: opened.complaints.append(str(error)))
        opened.on(
            "console",
            lambda message: opened.complaints.append(message.text) if message.type == "error" else None,
        )
        opened.on("request", lambda request: opened.complaints.append(request.url)
                  if request.url.startswith("http") else None)  # fmt: skip
        opened.goto((report / "report.html").as_uri())
        yield opened
        browser.close()


@pytest.mark.browser
def test_the_page_opens_offline_with_its_tables_plot_and_videos(page: Any, evaluated: Evaluated) -> None:
    assert page.complaints == []
    headings = [heading.inner_text() for heading in page.locator("h2").all() if heading.is_visible()]
    assert {
        "Face similarity",
        "Prompt following and quality",
        "Differences from Right person",
        "Ablation",
    } <= set(headings)
    first = page.locator("#faces + .scroll tbody tr").first
    mean = Results(evaluated.matrix).table(Metric("face_mean_all", "mini"), "faithful").mean()
    assert first.locator("td").nth(1).inner_text().startswith(f"{mean:.3f}†")
    assert re.search(r"\[0\.\d{3}, 0\.\d{3}\]", first.inner_text())
    published = page.locator("#faces + .scroll tr.published", has_text="Lynx").first
    assert published.locator("td").last.inner_text() == "0.781"
    assert page.locator("figure svg").is_visible()
    page.wait_for_function(
        "() => [...document.querySelectorAll('video')].every(video => video.readyState >= 1)"
    )
    widths = page.evaluate("() => [...document.querySelectorAll('video')].map(video => video.videoWidth)")
    assert widths == [64] * 9
    assert all(
        page.evaluate("() => [...document.querySelectorAll('img')].map(image => image.naturalWidth > 0)")
    )
    page.set_viewport_size({"width": 390, "height": 800})
    assert page.evaluate("() => document.documentElement.scrollWidth") <= 390, (
        "tables scroll, the page does not"
    )


def test_markdown_and_parquet_say_the_same(report: Path, evaluated: Evaluated) -> None:
    text = (report / "report.md").read_text()
    mean = Results(evaluated.matrix).table(Metric("face_mean_all", "mini"), "hiding").mean()
    assert f"| Half hidden | {mean:.3f} [" in text
    assert (
        "| Lynx (published) |" in text
        and "![likeness" in text
        and (report / "likeness_editability.svg").is_file()
    )
    figures = pq.read_table(report / "figures.parquet").to_pylist()
    (found,) = [
        row for row in figures
        if (row["table"], row["row"], row["column"]) == ("faces", "Half hidden", "all frames")
    ]  # fmt: skip
    assert (
        found["mean"] == pytest.approx(mean)
        and found["low"] < mean < found["high"]
        and not found["published"]
    )
    assert all(row["low"] is None for row in figures if row["published"])
    cells = pq.read_table(report / "cells.parquet").to_pylist()
    assert len(cells) == 18 and {"face_mean_all/mini", "prompt_following/stub-1", "motion"} <= set(cells[0])


def test_a_judge_that_does_not_tell_videos_apart_is_named_and_praises_no_method(report: Path) -> None:
    text = (report / "report.md").read_text()
    assert "stub-1 gave every video the same mark of video quality: it says nothing" in text
    assert "the same mark of prompt following" not in text
    rows = pq.read_table(report / "cells.parquet").to_pydict()
    assert len(set(rows["video_quality/stub-1"])) == 1 < len(set(rows["prompt_following/stub-1"]))


def test_one_method_alone_is_not_called_the_best(evaluated: Evaluated, report: Path, tmp_path: Path) -> None:
    benchmark = evaluated.matrix.benchmark
    one = benchmark.model_copy(update={"methods": benchmark.methods[:1]})
    write_report(Matrix(one), tmp_path)
    alone, several = ((folder / "report.md").read_text() for folder in (tmp_path, report))
    assert "| **" in several and "| **" not in alone


def test_labels_of_near_points_do_not_cover_each_other() -> None:
    def point(x: float, y: float) -> Point:
        return Point("some method", Interval(x, x, x, 1), Interval(y, y, y, 1))

    svg = draw_likeness_editability(
        [point(0.5, 0.5), point(0.501, 0.5), point(0.9, 0.501), point(0.5, 0.1)], "x", "y"
    )
    heights = [float(found) for found in re.findall(r'translate\([\d.]+,([\d.]+)\)"[^>]*>some method', svg)]
    assert len(heights) == 4
    assert abs(heights[0] - heights[1]) > 11 or sorted(heights)[2] - sorted(heights)[1] > 11


def test_the_known_order_comes_out(evaluated: Evaluated) -> None:
    results = Results(evaluated.matrix)
    order = [
        results.table(Metric("face_mean_all", "mini"), name).mean()
        for name in ("faithful", "hiding", "stranger")
    ]
    assert order == sorted(order, reverse=True)


def test_nothing_to_report_says_what_to_do(data: Path, tmp_path: Path) -> None:
    matrix = make_matrix(data, tmp_path, [{"name": "x", "videos": "v", "conditioned_by": []}])
    with pytest.raises(ConfigurationError, match="run comfy-lynx evaluate generate first"):
        write_report(matrix, tmp_path / "report")
