"""Faults found in public evaluation code, each planted here: the figures must not fall for it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from evaluated import METHODS, Evaluated
from small_benchmark import (
    FACES,
    RECOGNISERS,
    REPO,
    draw_person,
    hide_face,
    list_cells,
    make_matrix,
    write_clip,
)

from lynx_core.evaluation.configuration import Faces, RecogniserSettings
from lynx_core.evaluation.errors import ConfigurationError
from lynx_core.evaluation.face_scores import FaceScore, FaceSimilarity, score_faces
from lynx_core.evaluation.finished_videos import read_list
from lynx_core.evaluation.generation import plan_jobs
from lynx_core.evaluation.ledger import ScoreRow, open_scores, open_videos
from lynx_core.evaluation.motion import measure_motion
from lynx_core.evaluation.recognisers import Recogniser, SeenFace, open_detector, open_recogniser
from lynx_core.evaluation.report_tables import TableMaker
from lynx_core.evaluation.results import Metric, Results
from lynx_core.evaluation.statistics import CrossedBootstrap
from lynx_core.evaluation.video import Video
from lynx_core.faces.detection import FaceDetector

MINI = Metric("face_mean_all", "mini")


@pytest.fixture(scope="module")
def detector() -> FaceDetector:
    return open_detector(Faces(**FACES))


@pytest.fixture(scope="module")
def recogniser() -> Recogniser:
    return open_recogniser(RecogniserSettings(**RECOGNISERS[0]), Faces(**FACES))


def embed(frame: np.ndarray, detector: FaceDetector, recogniser: Recogniser) -> torch.Tensor:
    return recogniser.embed([SeenFace(frame, detector.detect(frame)[0])])[0]


def test_hiding_the_face_does_not_raise_the_score(evaluated: Evaluated) -> None:
    results = Results(evaluated.matrix)
    right, hiding = results.table(MINI, "faithful"), results.table(MINI, "hiding")
    assert (hiding < right - 0.2).all()
    detection = results.table(Metric("face_detection_rate", "mini"), "hiding")
    assert detection == pytest.approx(0.5)
    seen = results.table(Metric("face_mean_detected", "mini"), "hiding")
    assert (seen > hiding + 0.2).all(), "the mean over seen frames alone is what flatters"
    columns = TableMaker(results, 2000).make_faces()
    assert columns is not None and columns.columns[:3] == ("all frames", "with face", "found in"), (
        "always three"
    )


def test_scores_of_exactly_zero_count() -> None:
    score = FaceScore(FaceSimilarity((0.0, None, 0.6)), 1).list_figures()
    assert score["mean_detected"] == pytest.approx(0.3) and score["mean_all"] == pytest.approx(0.2)
    table = np.array([[0.0, 0.8], [0.0, 0.8]])
    interval = CrossedBootstrap(2, 2).estimate(table)
    assert interval is not None and interval.mean == pytest.approx(0.4) and interval.num_cells == 4


def test_a_video_without_a_face_scores_zero_and_stays_in_the_mean(
    detector: FaceDetector, recogniser: Recogniser
) -> None:
    frames = hide_face(draw_person(0), 1.0)
    (score,) = score_faces(Video(frames, 8), [torch.eye(512)[0]], detector, [recogniser])
    assert score.list_figures() == {"mean_detected": 0, "detection_rate": 0, "mean_all": 0, "drift": 0}


def put_side_by_side(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    return np.concatenate([left, right], axis=2)


def test_of_several_people_the_right_one_is_scored(detector: FaceDetector, recogniser: Recogniser) -> None:
    mine, other = draw_person(0, px=128), draw_person(4, px=128)
    alone = embed(mine[0], detector, recogniser)
    for frames in (put_side_by_side(mine, other), put_side_by_side(other, mine)):
        (score,) = score_faces(Video(frames, 8), [alone], detector, [recogniser])
        assert score.num_people == 2
        assert score.similarity.detection_rate == 1 and score.similarity.mean_all > 0.6
    # The two change places half-way: the person is followed by looks, not by side.
    swapped = np.concatenate([put_side_by_side(mine, other)[:2], put_side_by_side(other, mine)[2:]])
    (score,) = score_faces(Video(swapped, 8), [alone], detector, [recogniser])
    assert score.similarity.mean_all > 0.6


def test_a_crowd_is_not_flattered_by_the_best_face_of_each_frame(
    detector: FaceDetector, recogniser: Recogniser
) -> None:
    crowd = put_side_by_side(draw_person(4, px=128), draw_person(5, px=128))
    stranger = embed(draw_person(0)[0], detector, recogniser)
    (score,) = score_faces(Video(crowd, 8), [stranger], detector, [recogniser])
    best = [
        max(float(recogniser.embed([SeenFace(frame, face)])[0] @ stranger) for face in detector.detect(frame))
        for frame in crowd
    ]
    tracks = [value for value in score.similarity.scores if value is not None]
    assert len(tracks) == len(crowd)
    assert np.mean(tracks) <= np.mean(best) + 1e-6
    assert score.similarity.mean_all < 0.3


def test_opposite_motions_do_not_cancel() -> None:
    rng = np.random.default_rng(0)
    texture = np.kron(rng.integers(0, 255, (12, 24)), np.ones((8, 8))).astype(np.uint8)

    def move(step: int, sign: int) -> np.ndarray:
        upper, lower = np.roll(texture[:48], 2 * step, 1), np.roll(texture[48:], sign * 2 * step, 1)
        return np.repeat(np.concatenate([upper, lower])[..., None], 3, -1)

    together, apart, still = (
        measure_motion(Video(np.stack([move(step * scale, sign) for step in range(4)]), 8)).motion
        for sign, scale in ((1, 1), (-1, 1), (1, 0))
    )
    assert together > 0.03 and apart > 0.7 * together and still < 0.01 * together


def test_the_word_error_is_never_a_score(evaluated: Evaluated) -> None:
    row = open_scores(evaluated.matrix.output).read()[0]
    for value, error in (
        ("error", None),
        (None, None),
        (0.5, "failed"),
        (float("nan"), None),
        (float("inf"), None),
    ):
        with pytest.raises(ValueError):
            replace(row, value=value, error=error)
    assert isinstance(replace(row, value=None, error="failed"), ScoreRow)


def test_errors_are_listed_and_no_number(data: Path, tmp_path: Path) -> None:
    """An unreadable video is no 0 in the mean, and not passed over in silence."""
    from lynx_core.evaluation.report import write_report
    from lynx_core.evaluation.scoring import score

    subject, prompt = list_cells(data)[0]
    write_clip(tmp_path / "v" / "0.mp4", draw_person(0))
    (tmp_path / "v" / "1.mp4").write_bytes(b"")
    lines = [
        {"subject": subject, "prompt": prompt, "video": "0.mp4"},
        {"subject": subject, "prompt": list_cells(data)[1][1], "video": "1.mp4"},
    ]
    (tmp_path / "v" / "videos.jsonl").write_text("\n".join(map(json.dumps, lines)))
    method = {"name": "x", "conditioned_by": [], "videos": tmp_path / "v" / "videos.jsonl"}
    matrix = make_matrix(data, tmp_path / "out", [method], max_subjects=1)
    from lynx_core.evaluation.generation import generate

    generate(matrix, lambda _: None)
    score(matrix, lambda _: None)
    results = Results(matrix)
    table = results.table(Metric("motion"), "x")
    assert np.isnan(table).tolist() == [[False, True]]
    assert any("0 bytes" in text for _, text in results.list_errors())
    write_report(matrix, tmp_path / "report")
    page = (tmp_path / "report" / "report.html").read_text()
    assert "0 bytes" in page and "The matrix is not complete" in page


def test_ids_come_from_the_list_and_not_from_file_names(data: Path, tmp_path: Path) -> None:
    cells = list_cells(data)
    misleading = f"{cells[3][0]}_{cells[3][1]}.mp4"
    write_clip(tmp_path / misleading, draw_person(0))
    listed = tmp_path / "videos.jsonl"
    listed.write_text(json.dumps({"subject": cells[0][0], "prompt": cells[0][1], "video": misleading}))
    method = {"name": "x", "conditioned_by": [], "videos": listed}
    matrix = make_matrix(data, tmp_path / "out", [method])
    (entry,) = read_list(matrix.benchmark.methods[0], matrix)
    assert (entry.subject, entry.prompt) == cells[0]
    listed.write_text(json.dumps({"subject": "drawn_0", "prompt": cells[0][1], "video": misleading}))
    with pytest.raises(ConfigurationError, match=r"no subject 'drawn_0' in this .*did you mean 'drawn_00\d'"):
        read_list(matrix.benchmark.methods[0], matrix)


def test_every_mean_of_ours_has_an_interval(evaluated: Evaluated) -> None:
    maker = TableMaker(Results(evaluated.matrix), 2000)
    for table in (maker.make_faces(), maker.make_judged(), maker.make_differences(), maker.make_motion()):
        assert table is not None
        for line in table.lines:
            if not line.published:
                figures = [figure for figure in line.figures if figure.interval is not None]
                assert figures and all(figure.bounds for figure in figures), (table.id, line.label)


def test_likeness_to_frame_one_is_not_identity(evaluated: Evaluated) -> None:
    """The stranger's videos agree with themselves, and score as a stranger."""
    results = Results(evaluated.matrix)
    stranger = results.table(MINI, "stranger")
    drift = results.table(Metric("face_drift", "mini"), "stranger")
    assert stranger.mean() < 0.3 and abs(drift.mean()) < 0.3
    anchors = results.anchors("mini", "stranger")
    assert len(anchors) == 6 and results.anchors("mini", "same_person").mean() > anchors.mean() + 0.5


def test_equal_videos_of_two_people_have_a_score_each(data: Path, tmp_path: Path) -> None:
    """A method that ignores the photo may give two people one video: it is like one of them."""
    from lynx_core.evaluation.generation import generate
    from lynx_core.evaluation.scoring import score

    cells = [cell for cell in list_cells(data) if cell[1] == "caption_00"][:2]
    lines = []
    for number, (subject, prompt) in enumerate(cells):
        write_clip(tmp_path / f"{number}.mp4", draw_person(0))
        lines.append(json.dumps({"subject": subject, "prompt": prompt, "video": f"{number}.mp4"}))
    (tmp_path / "videos.jsonl").write_text("\n".join(lines))
    method = {"name": "x", "conditioned_by": [], "videos": tmp_path / "videos.jsonl"}
    matrix = make_matrix(
        data, tmp_path / "out", [method], faces=FACES, recognisers=RECOGNISERS, max_subjects=2
    )
    generate(matrix, lambda _: None)
    assert len({row.video_sha256 for row in open_videos(matrix.output).read()}) == 1
    score(matrix, lambda _: None)
    table = Results(matrix).table(MINI, "x")
    assert table[0, 0] > 0.6 and table[1, 0] < 0.3


def test_a_recogniser_that_conditions_the_model_is_marked(
    evaluated: Evaluated, data: Path, tmp_path: Path
) -> None:
    table = TableMaker(Results(evaluated.matrix), 2000).make_faces()
    assert table is not None
    marked = {line.label: "conditions" in line.figures[0].marks for line in table.lines if not line.published}
    assert marked == {"Right person": True, "Half hidden": False, "A stranger": False}
    assert METHODS[0]["conditioned_by"] == ["mini"]
    # A workflow that loads the recogniser without saying so is refused before anything is made.
    inputs = {"photo": "photo.image", "prompt": "prompt.text", "seed": "sample.seed", "output": "save"}
    workflow = REPO / "assets" / "benchmark" / "workflows" / "mini_full.json"
    method = {"name": "x", "workflow": workflow, "inputs": inputs, "conditioned_by": []}
    matrix = make_matrix(data, tmp_path, [method], faces=FACES, recognisers=RECOGNISERS)
    with pytest.raises(ConfigurationError, match="add it to conditioned_by"):
        plan_jobs(matrix, [])
    # The same for the recogniser that comes with the analyzer's own model pack.
    nodes = json.loads(workflow.read_text())
    analyzer = {"detector_pack": "lynx_mini", "encoder": "from the detector pack", "provider": "CPU"}
    nodes["analyzer"] = {"class_type": "LynxLoadFaceAnalyzer", "inputs": analyzer}
    (tmp_path / "pack.json").write_text(json.dumps(nodes))
    method = {**method, "workflow": tmp_path / "pack.json"}
    own = [{"name": "own", "kind": "insightface"}]
    with pytest.raises(ConfigurationError, match="loads the recogniser 'own'"):
        plan_jobs(make_matrix(data, tmp_path, [method], faces=FACES, recognisers=own), [])
    assert (
        len(
            plan_jobs(
                make_matrix(
                    data, tmp_path, [{**method, "conditioned_by": ["own"]}], faces=FACES, recognisers=own
                ),
                [],
            )
        )
        == 6
    )
