"""Raters' answers: taken in from their files, and what follows from them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import Field

from ..foreign_text import parse_json
from .cells import Matrix
from .configuration import Section, build
from .errors import AnswersError, ConfigurationError
from .ledger import AnswerRow, open_answers
from .rater_study import CRITERIA, FORMAT, KEY_NAME, Study, Task
from .statistics import CrossedBootstrap, Interval

CRITERION_TITLES = {
    "face_resemblance": "Face resemblance",
    "prompt_following": "Prompt following",
    "aesthetics": "Aesthetics",
    "motion_naturalness": "Motion naturalness",
    "video_quality": "Video quality",
}


class _Answer(Section):
    task: str
    seconds: float = Field(ge=0)
    marks: dict[str, int] | None = None
    choice: Literal["left", "right"] | None = None


class _AnswerFile(Section):
    format: Literal["lynx-answers-1"]
    study: str
    rater: str
    answers: tuple[_Answer, ...]


def take_answers(matrix: Matrix, files: Sequence[Path], note: Callable[[str], None]) -> None:
    """Put raters' files into the ledger; a file that was taken in before changes nothing.

    Raises:
        AnswersError: when a file is none, is of another study, or two people have used one number.
    """
    study = Study.load(matrix.output / "people" / KEY_NAME)
    ledger = open_answers(matrix.output)
    known = {(row.rater, row.task, row.criterion): row for row in ledger.read() if row.study == study.id}
    taken = []
    for path in files:
        rows = read_answers(path, study)
        for row in rows:
            before = known.get((row.rater, row.task, row.criterion))
            if before is not None and (before.value, before.method) != (row.value, row.method):
                raise AnswersError(
                    f"{path}: rater {row.rater} has answered {row.task} otherwise before; two people may have used one "
                    "number. Give one of them another"
                )
        fresh = [row for row in rows if (row.rater, row.task, row.criterion) not in known]
        known |= {(row.rater, row.task, row.criterion): row for row in fresh}
        taken.append((path, rows, fresh))
    for path, rows, fresh in taken:
        ledger.append(fresh)
        answered, rater = len({row.task for row in rows}), rows[0].rater if rows else "?"
        asked = len(study.raters.get(rater, ()))
        note(f"{path}: rater {rater}, {answered} of {asked} tasks, {len(fresh)} new marks")


def read_answers(path: Path, study: Study) -> list[AnswerRow]:
    """The rows of a rater's file.

    Raises:
        AnswersError: when it is none, or not of this study.
    """
    try:
        values = parse_json(path.read_text(encoding="utf-8"))
        content: _AnswerFile = build(_AnswerFile, values, str(path))
    except OSError as error:
        raise AnswersError(f"{path} cannot be read: {error.strerror}") from error
    except ConfigurationError as error:
        raise AnswersError(f"{path} is no answer file of the raters' page ({FORMAT}): {error}") from error
    except ValueError as error:
        raise AnswersError(f"{path} is no JSON: {error}") from error
    if content.study != study.id:
        raise AnswersError(f"{path} is of the study {content.study}, this benchmark's is {study.id}")
    tasks = {task.id: task for task in study.raters.get(content.rater, ())}
    if not tasks:
        raise AnswersError(
            f"{path}: there is no rater {content.rater!r}; the study has 1 to {len(study.raters)}"
        )
    rows: list[AnswerRow] = []
    seen: set[str] = set()
    for answer in content.answers:
        if answer.task not in tasks or answer.task in seen:
            raise AnswersError(
                f"{path}: {answer.task!r} {'is answered twice' if answer.task in seen else 'was not asked'}"
            )
        seen.add(answer.task)
        rows += _make_rows(path, study, content.rater, tasks[answer.task], answer)
    return rows


def _make_rows(path: Path, study: Study, rater: str, task: Task, answer: _Answer) -> list[AnswerRow]:
    def row(criterion: str, value: float, method: str, other: str | None) -> AnswerRow:
        return AnswerRow(
            study.id,
            rater,
            task.id,
            task.kind,
            task.subject,
            task.prompt,
            method,
            other,
            criterion,
            value,
            answer.seconds,
        )

    if task.kind == "pair":
        if answer.choice is None or task.other is None:
            raise AnswersError(f"{path}: {task.id} is a choice of left or right, got {answer.marks!r}")
        chosen, other = (task.method, task.other) if answer.choice == "left" else (task.other, task.method)
        return [row("preference", 1, chosen, other)]
    if answer.marks is None or set(answer.marks) != set(CRITERIA):
        raise AnswersError(
            f"{path}: {task.id} needs a mark for each of {', '.join(CRITERIA)}; got {answer.marks!r}"
        )
    for name, mark in answer.marks.items():
        if not 1 <= mark <= 5:
            raise AnswersError(f"{path}: {task.id}: {name} is 1 to 5, got {mark}")
    return [row(name, mark, task.method, None) for name, mark in answer.marks.items()]


@dataclass(frozen=True)
class SelfConsistency:
    """How far raters agree with themselves when they see a video again."""

    num_marks: int
    equal: float
    """Share of marks that are the same."""
    within_one: float


class PeopleFigures:
    """What follows from the answers of a study.

    Args:
        rows: all of one study.
        methods: names, in the report's order.
        draws: of the bootstrap, over raters and pairs of subject and prompt at once.
    """

    def __init__(self, rows: Sequence[AnswerRow], methods: Sequence[str], draws: int) -> None:
        self.rows, self.methods = rows, list(methods)
        self.raters = sorted({row.rater for row in rows}, key=lambda rater: (len(rater), rater))
        self.cells = sorted({(row.subject, row.prompt) for row in rows})
        self._bootstrap = CrossedBootstrap(len(self.raters), len(self.cells), draws) if rows else None
        self.draws = draws

    @property
    def num_raters(self) -> int:
        return len(self.raters)

    @property
    def criteria(self) -> tuple[str, ...]:
        seen = {row.criterion for row in self.rows}
        return tuple(name for name in CRITERIA if name in seen)

    def table(self, criterion: str, method: str) -> np.ndarray:
        """Marks [raters, cells]; NaN where a rater saw another method. Repeats are no second opinions."""
        values = np.full((len(self.raters), len(self.cells)), np.nan)
        for row in self.rows:
            if row.kind == "rating" and row.criterion == criterion and row.method == method:
                values[self.raters.index(row.rater), self.cells.index((row.subject, row.prompt))] = row.value
        return values

    def estimate(self, criterion: str, method: str) -> Interval | None:
        return self._bootstrap.estimate(self.table(criterion, method)) if self._bootstrap else None

    def alpha(self, criterion: str) -> float | None:
        """Krippendorff's ordinal alpha over all videos; None when no two raters saw one video, or all marks are equal."""
        import krippendorff

        values = np.concatenate([self.table(criterion, method) for method in self.methods], axis=1)
        shared = values[:, (~np.isnan(values)).sum(0) >= 2]
        if shared.size == 0 or len(np.unique(shared[~np.isnan(shared)])) < 2:
            return None
        return float(krippendorff.alpha(reliability_data=shared, level_of_measurement="ordinal"))

    @cached_property
    def self_consistency(self) -> SelfConsistency | None:
        """None when nobody was shown a video twice."""
        first = {(row.rater, row.task, row.criterion): row.value for row in self.rows if row.kind == "rating"}
        gaps = [
            abs(row.value - first[row.rater, row.task.removesuffix("b"), row.criterion])
            for row in self.rows
            if row.kind == "repeat" and (row.rater, row.task.removesuffix("b"), row.criterion) in first
        ]
        if not gaps:
            return None
        return SelfConsistency(
            len(gaps), float(np.mean(np.equal(gaps, 0))), float(np.mean(np.less_equal(gaps, 1)))
        )

    @cached_property
    def preferences(self) -> dict[str, Interval] | None:
        """Chance of each method to be preferred to an average one, by Bradley-Terry; raters are drawn anew."""
        choices = [row for row in self.rows if row.kind == "pair"]
        if not choices:
            return None
        by_rater: dict[str, list[tuple[int, int]]] = defaultdict(list)
        for row in choices:
            by_rater[row.rater].append(
                (self.methods.index(row.method), self.methods.index(row.other_method or ""))
            )
        raters, rng = list(by_rater), np.random.default_rng(0)
        drawn = []
        for _ in range(min(self.draws, 500)):
            chosen = [raters[place] for place in rng.integers(len(raters), size=len(raters))]
            drawn.append(self._fit_strengths([pair for rater in chosen for pair in by_rater[rater]]))
        mean = self._fit_strengths([pair for pairs in by_rater.values() for pair in pairs])
        low, high = np.quantile(drawn, [0.025, 0.975], axis=0)
        return {
            method: Interval(float(mean[i]), float(low[i]), float(high[i]), len(choices))
            for i, method in enumerate(self.methods)
        }

    def _fit_strengths(self, pairs: list[tuple[int, int]]) -> np.ndarray:
        import choix

        # alpha keeps a method that never lost, or was never shown, at a finite strength.
        strengths = choix.ilsr_pairwise(len(self.methods), pairs, alpha=0.05)
        return 1 / (1 + np.exp(-(strengths - strengths.mean())))

    def agreement(self, criterion: str, machine: dict[tuple[str, str, str], float]) -> Interval | None:
        """Spearman's correlation of the people's mean mark of a video with a machine's figure.

        Args:
            machine: by method, subject and prompt.
        """
        from scipy.stats import rankdata

        marks: dict[tuple[str, str, str], list[float]] = defaultdict(list)
        for row in self.rows:
            key = (row.method, row.subject, row.prompt)
            if row.kind == "rating" and row.criterion == criterion and key in machine:
                marks[key].append(row.value)
        if len(marks) < 4:
            return None
        people = np.array([np.mean(values) for values in marks.values()])
        others = np.array([machine[key] for key in marks])
        drawn = np.random.default_rng(0).integers(len(people), size=(self.draws, len(people)))
        places = np.concatenate([np.arange(len(people))[None], drawn])
        ranks = [rankdata(values[places], axis=1) for values in (people, others)]
        a, b = (rank - rank.mean(1, keepdims=True) for rank in ranks)
        with np.errstate(invalid="ignore", divide="ignore"):
            correlations = (a * b).sum(1) / np.sqrt((a**2).sum(1) * (b**2).sum(1))
        if np.isnan(correlations[0]):
            return None
        low, high = np.nanquantile(correlations[1:], [0.025, 0.975])
        return Interval(float(correlations[0]), float(low), float(high), len(people))
