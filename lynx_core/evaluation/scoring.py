"""Fills the ledger with what is missing: every video against every metric, each once.

The rows of a video, or of a judge's answer, are on disk before the next is begun. A video that cannot be scored
gives rows with the error as an error; it never gives a number.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

from ..faces.detection import FaceDetector, find_pack_folder
from ..faces.errors import FaceError
from ..hashing import hash_every_byte, hash_values
from .cells import Matrix
from .clip_scores import ClipScorer
from .configuration import Benchmark
from .errors import ConfigurationError, EvaluationError
from .face_scores import Gallery, score_faces
from .generation import locate_video
from .judge import Judge
from .judging import judge_videos
from .ledger import Key, Ledger, ScoreRow, open_scores, open_videos
from .motion import measure_motion
from .recognisers import open_detector, open_recogniser
from .scored_cell import Cell, Wanted
from .seen_faces import Recogniser
from .video import Video, VideoError, read_video

Note = Callable[[str], None]
FACE_FIGURES = ("mean_detected", "detection_rate", "mean_all", "drift")
MOTION_FIGURES = ("motion", "temporal_consistency", "sharpness")
MOTION_VERSION, FACE_VERSION = "1", "1"


class Scorer(Protocol):
    """Some metrics of one video, on this machine."""

    def prepare(self, scores: Ledger[ScoreRow], done: set[Key]) -> None:
        """What has to be done once before the first video."""

    def list_wanted(self, cell: Cell) -> list[Wanted]: ...

    def score(self, cell: Cell, video: Video) -> list[tuple[float, Any]]:
        """Value and detail of each of `list_wanted`, in its order."""
        ...


class MotionScorer:
    """Motion, temporal consistency, sharpness."""

    def prepare(self, scores: Ledger[ScoreRow], done: set[Key]) -> None:
        pass

    def list_wanted(self, cell: Cell) -> list[Wanted]:
        return [Wanted("", name, MOTION_VERSION, "", "") for name in MOTION_FIGURES]

    def score(self, cell: Cell, video: Video) -> list[tuple[float, Any]]:
        scores = measure_motion(video)
        return [(getattr(scores, name), None) for name in MOTION_FIGURES]


class FaceScorer:
    """Likeness to the subject by every recogniser."""

    def __init__(self, gallery: Gallery, detector: FaceDetector, recognisers: Sequence[Recogniser]) -> None:
        self.gallery, self.detector, self.recognisers = gallery, detector, recognisers
        self.version = describe_face_version(detector, recognisers)

    def prepare(self, scores: Ledger[ScoreRow], done: set[Key]) -> None:
        """Look at the people's photos: nobody twice, and what other photos of them score.

        Raises:
            ConfigurationError: when two subjects are one person.
        """
        self.gallery.refuse_same_people()
        scores.append([row for row in _list_anchor_rows(self.gallery, self.version) if row.key not in done])

    def list_wanted(self, cell: Cell) -> list[Wanted]:
        target = cell.subject.reference_hash
        return [
            Wanted(target, f"face_{figure}", self.version, recogniser.name, recogniser.sha256)
            for recogniser in self.recognisers
            for figure in FACE_FIGURES
        ]

    def score(self, cell: Cell, video: Video) -> list[tuple[float, Any]]:
        person = self.gallery.embed_reference(cell.subject)
        found = []
        for score in score_faces(video, person, self.detector, self.recognisers):
            rounded = [None if value is None else round(value, 4) for value in score.similarity.scores]
            detail = {"frames": rounded, "people": score.num_people}
            figures = score.list_figures()
            found += [(figures[name], detail if name == "mean_all" else None) for name in FACE_FIGURES]
        return found


def describe_face_version(detector: FaceDetector, recognisers: Sequence[Recogniser]) -> str:
    """Version of the face metrics: of the code, and of the networks that find and follow the faces."""
    folder = find_pack_folder(detector.root, detector.pack)
    files = [hash_every_byte(path) for path in sorted(folder.glob("*.onnx"))]
    return f"{FACE_VERSION}-{hash_values([files, recognisers[0].sha256])[:12]}"


def list_scorable(matrix: Matrix) -> list[Cell]:
    """All cells of the matrix that have a video, by method."""
    methods = [method.name for method in matrix.benchmark.methods]
    found = [
        Cell(row, matrix.subjects[row.subject], matrix.prompts[row.prompt])
        for row in open_videos(matrix.output).read()
        if row.video_sha256
        and row.method in methods
        and row.subject in matrix.subjects
        and row.prompt in matrix.prompts
    ]
    stale = [
        cell for cell in found
        if cell.row.photo_sha256 != cell.subject.reference_hash or cell.row.prompt_sha256 != cell.prompt.sha256
    ]  # fmt: skip
    if stale:
        row = stale[0].row
        raise ConfigurationError(
            f"{len(stale)} videos were made from another photo or prompt than the benchmark has now, as {row.method} / "
            f"{row.subject} / {row.prompt}; run comfy-lynx evaluate generate first"
        )
    return sorted(found, key=lambda cell: methods.index(cell.row.method))


def score(
    matrix: Matrix, note: Note = print, *, retry_errors: bool = False, judge: Judge | None = None
) -> None:
    """Score what has no score yet.

    Args:
        retry_errors: score again what ended in an error.
        judge: instead of the one of the configuration.

    Raises:
        EvaluationError: when people, photos or files are wrong, or the judge cannot be used; what was scored stays.
        FaceError: when the face models are missing.
    """
    cells = list_scorable(matrix)
    if not cells:
        raise ConfigurationError(
            f"there is no video in {matrix.output}; run comfy-lynx evaluate generate first"
        )
    scores = open_scores(matrix.output)
    scores.merge()
    done = {row.key for row in scores.read() if row.error is None or not retry_errors}
    spoilt = score_locally(matrix.output, cells, open_scorers(matrix), scores, done, note)
    settings = matrix.benchmark.judge
    if settings is not None:
        prompts = list(matrix.prompts.values())
        judge_videos(judge or Judge(settings), matrix.output, cells, prompts, scores, done, note)
    if spoilt:
        raise EvaluationError(
            f"{len(spoilt)} videos were not scored: {spoilt[0]}. Run comfy-lynx evaluate generate to make them again"
        )


def open_scorers(matrix: Matrix) -> list[Scorer]:
    """All that scores on this machine.

    Raises:
        FaceError: when a face model or CLIP is missing.
    """
    scorers: list[Scorer] = [MotionScorer()]
    config: Benchmark = matrix.benchmark
    if config.recognisers and config.faces is not None:
        detector = open_detector(config.faces)
        recognisers = [open_recogniser(settings, config.faces) for settings in config.recognisers]
        gallery = Gallery(list(matrix.subjects.values()), detector, recognisers)
        scorers.append(FaceScorer(gallery, detector, recognisers))
    if config.clip is not None:
        scorers.append(ClipScorer(config.clip))
    return scorers


def _list_anchor_rows(gallery: Gallery, version: str) -> Iterator[ScoreRow]:
    for anchor in gallery.list_anchors():
        recogniser = gallery.recognisers[anchor.recogniser]
        for name in ("same_person", "stranger"):
            value = getattr(anchor, name)
            if value is not None:
                target = anchor.reference_sha256 if name == "same_person" else ""
                wanted = Wanted(target, f"anchor_{name}", version, recogniser.name, recogniser.sha256)
                yield wanted.fill(anchor.photo_sha256, value, None)


def score_locally(
    output: Path,
    cells: Sequence[Cell],
    scorers: Sequence[Scorer],
    scores: Ledger[ScoreRow],
    done: set[Key],
    note: Note,
) -> list[str]:
    """Run the scorers on what has no score; gives the videos whose file is not what the ledger says."""
    plans = []
    for cell in cells:
        todo = [
            scorer
            for scorer in scorers
            if any(w.key(cell.sha256) not in done for w in scorer.list_wanted(cell))
        ]
        if todo:
            plans.append((cell, todo))
    for scorer in scorers:
        if any(scorer in todo for _, todo in plans):
            scorer.prepare(scores, done)
    spoilt = []
    for number, (cell, todo) in enumerate(plans, 1):
        path = locate_video(output, cell.row)
        if not path.is_file() or hash_every_byte(path) != cell.sha256:
            spoilt.append(f"{path} is {'not what was made' if path.is_file() else 'gone'}")
            continue
        rows = [row for row in score_cell(cell, path, todo) if row.key not in done]
        scores.append(rows)
        done |= {row.key for row in rows}
        failed = [f"; {row.metric}: {row.error}" for row in rows if row.error]
        note(f"scored {number} of {len(plans)}: {cell.label}{failed[0] if failed else ''}")
    return spoilt


def score_cell(cell: Cell, path: Path, scorers: Sequence[Scorer]) -> list[ScoreRow]:
    """All rows of one video by some scorers; what fails is an error in each row that it would have given."""
    try:
        video = read_video(path)
    except VideoError as error:
        return [w.fill(cell.sha256, None, str(error)) for scorer in scorers for w in scorer.list_wanted(cell)]
    rows = []
    for scorer in scorers:
        wanted = scorer.list_wanted(cell)
        try:
            found = scorer.score(cell, video)
        except FaceError as error:
            rows += [each.fill(cell.sha256, None, str(error)) for each in wanted]
            continue
        rows += [
            w.fill(cell.sha256, value, None, detail) for w, (value, detail) in zip(wanted, found, strict=True)
        ]
    return rows
