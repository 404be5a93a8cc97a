"""Scoring: once each, whatever happens on the way; one video from the command line."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from evaluated import Evaluated
from small_benchmark import (
    FACES,
    MINI,
    RECOGNISER,
    RECOGNISERS,
    REPO,
    draw_person,
    draw_scene,
    list_cells,
    make_matrix,
    write_clip,
    write_finished,
)

from lynx_core.cli.main import main
from lynx_core.evaluation.configuration import Faces, RecogniserSettings
from lynx_core.evaluation.errors import ConfigurationError, EvaluationError
from lynx_core.evaluation.face_scores import measure_similarity
from lynx_core.evaluation.generation import generate
from lynx_core.evaluation.ledger import ScoreRow, open_scores, open_videos
from lynx_core.evaluation.motion import measure_motion
from lynx_core.evaluation.recognisers import open_detector, open_recogniser
from lynx_core.evaluation.scoring import score
from lynx_core.evaluation.single_video import score_video
from lynx_core.evaluation.video import Video
from lynx_core.faces.analyzer import FaceAnalyzer


def test_every_row_is_there_once_and_a_second_run_adds_nothing(evaluated: Evaluated) -> None:
    rows = open_scores(evaluated.matrix.output).read()
    counts = Counter(row.metric for row in rows)
    assert counts["face_mean_all"] == counts["motion"] == 18
    assert counts["prompt_following"] == 36 and counts["anchor_same_person"] == 6
    assert all(row.error is None for row in rows)
    parts = sorted(path.name for path in (evaluated.matrix.output / "ledger" / "scores").glob("*.parquet"))
    videos = {row.video_sha256 for row in open_videos(evaluated.matrix.output).read()}
    assert {row.video_sha256 for row in rows if row.metric == "face_mean_all"} == videos
    score_without_judge = evaluated.matrix.benchmark.model_copy(update={"judge": None})
    score(type(evaluated.matrix)(score_without_judge), lambda _: None)
    assert parts == sorted(
        path.name for path in (evaluated.matrix.output / "ledger" / "scores").glob("*.parquet")
    )


CONFIG = """
subjects = "{data}/subjects.jsonl"
prompts = "{data}/prompts.toml"
output = "{folder}/out"
methods = [{{ name = "x", conditioned_by = [], videos = "{folder}/v/videos.jsonl" }}]
"""


def test_kill_minus_nine_scores_nothing_twice(data: Path, tmp_path: Path) -> None:
    write_finished(tmp_path / "v", list_cells(data), draw_scene)
    config = tmp_path / "b.toml"
    config.write_text(CONFIG.format(data=data, folder=tmp_path))
    assert main(["evaluate", "generate", str(config)]) == 0
    command = [sys.executable, "-m", "lynx_core.cli.main", "evaluate", "score", str(config)]
    environment = os.environ | {"PYTHONPATH": str(REPO)}
    run = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    assert run.stdout is not None and run.stdout.readline().startswith("scored 1 of 6")
    run.send_signal(signal.SIGKILL)
    run.wait()
    before = len(open_scores(tmp_path / "out").read())
    assert 3 <= before <= 18
    assert main(["evaluate", "score", str(config)]) == 0
    on_disk = [
        tuple(row[name] for name in ScoreRow.KEY)
        for part in (tmp_path / "out" / "ledger" / "scores").glob("*.parquet")
        for row in pq.ParquetFile(part).read().to_pylist()
    ]
    assert len(on_disk) == len(set(on_disk)) == 18, "three figures of six videos, each written once"


def test_a_file_that_is_not_what_was_made_is_not_scored(data: Path, tmp_path: Path) -> None:
    write_finished(tmp_path / "v", list_cells(data)[:2], draw_scene)
    method = {"name": "x", "conditioned_by": [], "videos": tmp_path / "v" / "videos.jsonl"}
    matrix = make_matrix(data, tmp_path / "out", [method])
    generate(matrix, lambda _: None)
    write_clip(tmp_path / "v" / "1.mp4", draw_scene(2, 1))
    with pytest.raises(EvaluationError, match=r"1 videos were not scored: .*1\.mp4 is not what was made"):
        score(matrix, lambda _: None)
    assert len({row.video_sha256 for row in open_scores(matrix.output).read()}) == 1
    (data_copy := tmp_path / "prompts.toml").write_text(
        (data / "prompts.toml").read_text().replace("a person", "someone")
    )
    changed = matrix.benchmark.model_copy(update={"prompts": data_copy})
    with pytest.raises(ConfigurationError, match="made from another photo or prompt"):
        score(type(matrix)(changed), lambda _: None)


def test_size_and_frame_rate_do_not_change_the_motion() -> None:
    """The same second of film, at other sizes and rates."""
    rng = np.random.default_rng(0)
    texture = np.kron(rng.integers(0, 255, (16, 16, 1)), np.ones((16, 16, 3))).astype(np.uint8)

    def film(fps: int, scale: int) -> float:
        frames = [np.roll(texture, round(48 * t / fps), 1)[::scale, ::scale] for t in range(fps)]
        return measure_motion(Video(np.stack(frames), fps)).motion

    reference = film(12, 1)
    assert film(24, 1) == pytest.approx(reference, rel=0.25)
    assert film(12, 2) == pytest.approx(reference, rel=0.35)


def test_one_frame_and_odd_rates_are_taken(tmp_path: Path) -> None:
    still = measure_motion(Video(draw_person(0)[:1], 1))
    assert (still.motion, still.temporal_consistency) == (0, 1)
    noise = np.random.default_rng(0).integers(0, 255, (4, 64, 64, 3)).astype(np.uint8)
    smooth = measure_motion(Video(draw_person(0), 8))
    assert measure_motion(Video(noise, 8)).temporal_consistency < 0.85 < smooth.temporal_consistency


def test_one_video_gives_what_the_nodes_give(tmp_path: Path) -> None:
    from PIL import Image

    video, photo = write_clip(tmp_path / "x.mp4", draw_person(0)), tmp_path / "photo.png"
    Image.fromarray(draw_person(0, 77, 256)[0]).save(photo)
    faces = Faces(**FACES)
    detector = open_detector(faces)
    recogniser = open_recogniser(RecogniserSettings(**RECOGNISERS[0]), faces)
    read, (found,), _ = score_video(video, photo, detector, [recogniser])
    analyzer = FaceAnalyzer(MINI / "insightface", "lynx_mini", "CPU", RECOGNISER)
    from lynx_core.evaluation.face_scores import find_largest_face

    person = recogniser.embed([find_largest_face(photo, detector)])[0]
    nodes = measure_similarity(read.frames, person, analyzer)
    assert found.similarity.scores == pytest.approx(nodes.scores, abs=1e-4)


def test_one_video_from_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from PIL import Image

    video, photo = write_clip(tmp_path / "x.mp4", draw_person(0), fps=12), tmp_path / "photo.png"
    Image.fromarray(draw_person(0, 77, 256)[0]).save(photo)
    config = str(REPO / "configs" / "benchmark_mini.toml")
    arguments = ["evaluate", "score", config, "--video", str(video), "--photo", str(photo)]
    assert main(arguments) == 0
    said = capsys.readouterr().out
    assert (
        "4 frames of 64 x 64 px, 12 fps" in said
        and "mini ArcFace" in said
        and "reader" in said
        and "100%" in said
    )
    for words, reason in (
        (arguments[:5], "both --video and --photo"),
        (["evaluate", "score"], "needs CONFIG, or --video and --photo"),
        ([*arguments[:4], str(tmp_path / "none.mp4"), *arguments[5:]], "none.mp4 cannot be read"),
        (["evaluate", "report", str(tmp_path / "none.toml")], "none.toml cannot be read"),
    ):
        assert main(words) == 1
        assert reason in capsys.readouterr().err, words
