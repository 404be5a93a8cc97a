"""The ledger read back as tables: a figure for each subject and prompt, by method and metric.

Letters: S subjects, P prompts.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from .cells import Matrix
from .imported_scores import IMPORTED
from .judging import WRONG_PROMPT
from .ledger import AnswerRow, ScoreRow, VideoRow, open_answers, open_scores, open_videos
from .rubric import CRITERIA
from .scored_cell import TEXT_ALIGNMENT


@dataclass(frozen=True)
class Metric:
    """A column: a figure, and the network or judge that gave it."""

    name: str
    model: str = ""


class Results:
    """All that a report needs of a benchmark's ledger."""

    def __init__(self, matrix: Matrix) -> None:
        self.matrix = matrix
        self.subjects, self.prompts = list(matrix.subjects), list(matrix.prompts)
        self.methods = [method.name for method in matrix.benchmark.methods]

    @cached_property
    def videos(self) -> dict[tuple[str, str, str], VideoRow]:
        """Rows of the matrix, by method, subject and prompt."""
        return {
            (row.method, row.subject, row.prompt): row
            for row in open_videos(self.matrix.output).read()
            if row.method in self.methods and row.subject in self.subjects and row.prompt in self.prompts
        }

    @cached_property
    def _scores(self) -> dict[Metric, dict[tuple[str, str], list[ScoreRow]]]:
        """Rows of the newest version of each metric, by (video, target)."""
        rows = open_scores(self.matrix.output).read()
        newest: dict[Metric, ScoreRow] = {}
        for row in rows:
            metric = Metric(row.metric, row.model)
            if metric not in newest or row.made_at >= newest[metric].made_at:
                newest[metric] = row
        found: dict[Metric, dict[tuple[str, str], list[ScoreRow]]] = defaultdict(lambda: defaultdict(list))
        for row in rows:
            metric = Metric(row.metric, row.model)
            current = newest[metric]
            # Figures of two versions are not of one kind: what only the older has counts as missing.
            if (row.metric_version, row.model_sha256) == (current.metric_version, current.model_sha256):
                found[metric][row.video_sha256, row.target_sha256].append(row)
        return found

    @property
    def recognisers(self) -> list[str]:
        """Those of the configuration that have scored."""
        named = [recogniser.name for recogniser in self.matrix.benchmark.recognisers]
        return [name for name in named if Metric("face_mean_all", name) in self._scores]

    @property
    def judge(self) -> str | None:
        """The judge of the configuration, else the one that judged last."""
        settings = self.matrix.benchmark.judge
        judges = [metric.model for metric in self._scores if metric.name in CRITERIA]
        if settings is not None:
            name = settings.answers_as or settings.model
            return name if name in judges else None
        return judges[-1] if judges else None

    @property
    def other_judges(self) -> list[str]:
        """Judges in the ledger whose marks are not shown."""
        return sorted(
            {metric.model for metric in self._scores if metric.name in CRITERIA} - {self.judge or ""}
        )

    def list_metrics(self, *names: str) -> list[Metric]:
        """Those of these names that somebody scored."""
        return [metric for name in names for metric in self._scores if metric.name == name]

    @property
    def imported(self) -> list[Metric]:
        """Figures of other benchmarks' own programs, by program."""
        found = [metric for metric in self._scores if metric.name.startswith(IMPORTED)]
        return sorted(found, key=lambda metric: (metric.model, metric.name))

    def find_rows(self, metric: Metric, method: str, subject: str, prompt: str) -> list[ScoreRow]:
        """All repeats of a figure of one cell."""
        video = self.videos.get((method, subject, prompt))
        if video is None or video.video_sha256 is None:
            return []
        if metric.name.startswith("face_"):
            target = self.matrix.subjects[subject].reference_hash
        elif metric.name in (*CRITERIA, TEXT_ALIGNMENT):
            target = self.matrix.prompts[prompt].sha256
        else:
            target = ""
        return self._scores.get(metric, {}).get((video.video_sha256, target), [])

    def table(self, metric: Metric, method: str) -> np.ndarray:
        """[S, P]: the mean over the repeats; NaN where there is no score, or an error."""
        values = np.full((len(self.subjects), len(self.prompts)), np.nan)
        for s, subject in enumerate(self.subjects):
            for p, prompt in enumerate(self.prompts):
                found = [
                    row.value
                    for row in self.find_rows(metric, method, subject, prompt)
                    if row.value is not None
                ]
                if found:
                    values[s, p] = sum(found) / len(found)
        return values

    def list_errors(self) -> list[tuple[str, str]]:
        """Of videos and scores: (method / subject / prompt, what went wrong)."""
        found: dict[tuple[str, str], None] = {}
        for (method, subject, prompt), video in self.videos.items():
            label = f"{method} / {subject} / {prompt}"
            if video.error:
                found[label, f"no video: {video.error}"] = None
            for metric in self._scores:
                for row in self.find_rows(metric, method, subject, prompt):
                    if row.error:
                        found[label, f"{row.metric}: {row.error}"] = None
        return list(found)

    def anchors(self, recogniser: str, kind: str) -> np.ndarray:
        """Cosines of the people's other photos, "same_person" or "stranger", [photos]."""
        photos = {digest for subject in self.matrix.subjects.values() for digest in subject.photo_hashes}
        table = self._scores.get(Metric(f"anchor_{kind}", recogniser), {})
        return np.array(
            [row.value for (photo, _), rows in table.items() if photo in photos for row in rows], dtype=float
        )

    def control(self) -> np.ndarray:
        """Prompt following of the right prompt minus that of a wrong one, for each control, [n]."""
        right: dict[str, float] = {}
        for method, subject, prompt in self.videos:
            row = self.videos[method, subject, prompt]
            rows = self.find_rows(Metric("prompt_following", self.judge or ""), method, subject, prompt)
            found = [each.value for each in rows if each.value is not None]
            if row.video_sha256 and found:
                right[row.video_sha256] = sum(found) / len(found)
        wrong = self._scores.get(Metric(WRONG_PROMPT, self.judge or ""), {})
        pairs = [
            right[video] - row.value
            for (video, _), rows in wrong.items()
            for row in rows
            if row.value is not None and video in right
        ]
        return np.array(pairs, dtype=float)

    @cached_property
    def answers(self) -> list[AnswerRow]:
        """Of all raters of the newest study."""
        rows = open_answers(self.matrix.output).read()
        newest = max(rows, key=lambda row: row.made_at).study if rows else ""
        return [row for row in rows if row.study == newest]

    def list_cells(self) -> list[dict[str, Any]]:
        """A row for each video of the matrix with all its figures, for a table of one's own."""
        tables: dict[tuple[Metric, str], np.ndarray] = {}
        rows = []
        metrics = [metric for metric in self._scores if not metric.name.startswith("anchor_")]
        for (method, subject, prompt), video in self.videos.items():
            row: dict[str, Any] = {
                "method": method,
                "subject": subject,
                "prompt": prompt,
                "video_sha256": video.video_sha256,
                "error": video.error,
                "latency_s": video.latency_s,
                "peak_memory_gb": video.peak_memory_gb,
            }
            for metric in metrics:
                if (metric, method) not in tables:
                    tables[metric, method] = self.table(metric, method)
                value = tables[metric, method][self.subjects.index(subject), self.prompts.index(prompt)]
                row[f"{metric.name}/{metric.model}" if metric.model else metric.name] = (
                    None if np.isnan(value) else float(value)
                )
            rows.append(row)
        return rows
