"""Figures of VBench and OpenS2V-Eval come into the ledger, each to its own video or not at all."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from evaluated import Evaluated

from lynx_core.evaluation.cells import Matrix
from lynx_core.evaluation.errors import ConfigurationError
from lynx_core.evaluation.imported_scores import import_scores
from lynx_core.evaluation.ledger import open_scores, open_videos
from lynx_core.evaluation.report_tables import TableMaker
from lynx_core.evaluation.results import Metric, Results


@pytest.fixture
def matrix(evaluated: Evaluated, tmp_path: Path) -> Matrix:
    """A copy of the finished benchmark to write into."""
    output = tmp_path / "out"
    shutil.copytree(evaluated.matrix.output, output)
    return Matrix(evaluated.matrix.benchmark.model_copy(update={"output": output}))


def write_json(path: Path, content: Any) -> Path:
    path.write_text(json.dumps(content))
    return path


def list_digests(matrix: Matrix, method: str) -> dict[tuple[str, str], str]:
    rows = open_videos(matrix.output).read()
    return {(row.subject, row.prompt): row.video_sha256 or "" for row in rows if row.method == method}


def test_vbench_figures_go_to_their_videos(matrix: Matrix, tmp_path: Path) -> None:
    digests = list_digests(matrix, "faithful")
    marks = {digest: number / 10 for number, digest in enumerate(digests.values())}
    results = [
        {"video_path": f"./somewhere/{name}.mp4", "video_results": mark} for name, mark in marks.items()
    ]
    dynamic = [{"video_path": f"./somewhere/{name}.mp4", "video_results": True} for name in marks]
    path = write_json(
        tmp_path / "r_eval_results.json",
        {"subject_consistency": [0.25, results[::-1]], "dynamic_degree": [1.0, dynamic]},
    )
    lines: list[str] = []
    import_scores(matrix, [path], lines.append)
    assert lines == [f"{path}: 2 metrics of VBench, 6 of 18 videos"]
    results_read = Results(matrix)
    table = results_read.table(Metric("imported_subject_consistency", "VBench"), "faithful")
    for s, subject in enumerate(results_read.subjects):
        for p, prompt in enumerate(results_read.prompts):
            assert table[s, p] == marks[digests[subject, prompt]]
    shown = TableMaker(results_read, 2000).make_imported()
    assert shown is not None and shown.full_columns == [
        "VBench: dynamic degree",
        "VBench: subject consistency",
    ]
    assert [figure.text for figure in shown.lines[0].figures] == ["1.000", "0.250"]
    assert [figure.text for figure in shown.lines[1].figures] == ["–", "–"], "the others were not measured"


def test_opens2v_figures_go_to_their_videos(matrix: Matrix, tmp_path: Path) -> None:
    digests = list(list_digests(matrix, "hiding").values())
    faces = write_json(
        tmp_path / "facesim.json", {name: {"cur_score": 0.5, "arc_score": 0.4} for name in digests}
    )
    beauty = write_json(tmp_path / "aesscore.json", dict.fromkeys(digests, 5.5))
    import_scores(matrix, [faces, beauty], lambda _: None)
    results = Results(matrix)
    for name, value in (("cur_score", 0.5), ("arc_score", 0.4), ("aesscore", 5.5)):
        assert (results.table(Metric(f"imported_{name}", "OpenS2V-Eval"), "hiding") == value).all()


def test_the_path_of_a_finished_video_tells_it_too(matrix: Matrix, tmp_path: Path) -> None:
    rows = [row for row in open_videos(matrix.output).read() if row.method == "stranger"]
    # 0.mp4 of one method is not 0.mp4 of another: their names alone tell nothing.
    results = [{"video_path": row.source, "video_results": 0.7} for row in rows]
    import_scores(
        matrix, [write_json(tmp_path / "a.json", {"motion_smoothness": [0.7, results]})], lambda _: None
    )
    tables = Results(matrix)
    metric = Metric("imported_motion_smoothness", "VBench")
    assert (tables.table(metric, "stranger") == 0.7).all()
    names = write_json(tmp_path / "b.json", {"0": 0.1, "1": 0.2})
    with pytest.raises(ConfigurationError, match=r"2 of 2 videos are none of .*keep their names"):
        import_scores(matrix, [names], lambda _: None)


def test_a_second_import_replaces_the_first(matrix: Matrix, tmp_path: Path) -> None:
    digest = next(iter(list_digests(matrix, "faithful").values()))
    for value in (0.1, 0.9):
        path = write_json(tmp_path / "aesscore.json", {digest: value})
        import_scores(matrix, [path], lambda _: None)
    rows = [row for row in open_scores(matrix.output).read() if row.metric == "imported_aesscore"]
    assert [row.value for row in rows] == [0.9] and rows[0].details["file"] == "aesscore.json"


def test_what_is_no_figure_is_an_error_and_said(matrix: Matrix, tmp_path: Path) -> None:
    one, two = list(list_digests(matrix, "faithful").values())[:2]
    path = tmp_path / "aesscore.json"
    path.write_text(f'{{"{one}": "error", "{two}": NaN}}')
    lines: list[str] = []
    import_scores(matrix, [path], lines.append)
    assert lines[0].endswith("2 figures are errors")
    assert sum("OpenS2V-Eval gave" in error for _, error in Results(matrix).list_errors()) == 2


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[]", "holds no figures by name"),
        ("{}", "holds no figures by name"),
        ("{", "is no JSON"),
        ('{"subject_consistency": [0.5]}', "'subject_consistency' holds no figures of videos"),
        ('{"subject_consistency": [0.5, [{"video": 1}]]}', "holds no figures of videos"),
        ('{"subject_consistency": [0.5, []]}', "the figure of no video"),
    ],
)
def test_what_is_no_result_is_refused(content: str, message: str, matrix: Matrix, tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    path.write_text(content)
    with pytest.raises(ConfigurationError, match=message):
        import_scores(matrix, [path])


def test_a_wrong_file_among_several_takes_nothing(matrix: Matrix, tmp_path: Path) -> None:
    digest = next(iter(list_digests(matrix, "faithful").values()))
    good = write_json(tmp_path / "aesscore.json", {digest: 0.5})
    bad = write_json(tmp_path / "other.json", {"unknown": 0.5})
    with pytest.raises(ConfigurationError, match="1 of 1 videos"):
        import_scores(matrix, [good, bad], lambda _: None)
    assert not Results(matrix).imported
