"""The tables of a report, as plain data for its pages: the paper's layout, each mean with its interval."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from .configuration import Method
from .imported_scores import IMPORTED
from .published import ABLATION, FACE_COLUMNS, NOTES, PUBLISHED, PublishedRow
from .rater_answers import CRITERION_TITLES, PeopleFigures
from .results import Metric, Results
from .scored_cell import AESTHETIC_SCORE, TEXT_ALIGNMENT
from .statistics import CrossedBootstrap, Interval, bootstrap_rows

TITLES = {
    "prompt_following": "Prompt following",
    "aesthetics": "Aesthetics",
    "motion_naturalness": "Motion naturalness",
    "video_quality": "Video quality",
    "motion": "Motion (diagonals/s)",
    "temporal_consistency": "Temporal consistency",
    "sharpness": "Sharpness",
    TEXT_ALIGNMENT: "Text alignment",
    AESTHETIC_SCORE: "Aesthetic score",
}
JUDGED = ("prompt_following", "aesthetics", "motion_naturalness", "video_quality")
CONDITIONS = "conditions"


@dataclass(frozen=True)
class Figure:
    """What stands in a field of a table."""

    interval: Interval | None
    digits: int = 3
    marks: tuple[str, ...] = ()
    """"best" of its column; "conditions": this recogniser also conditions this model; "differs": not by chance."""

    @property
    def text(self) -> str:
        return "–" if self.interval is None else f"{self.interval.mean:.{self.digits}f}"

    @property
    def bounds(self) -> str:
        """The interval; nothing for a figure without one."""
        if self.interval is None or np.isnan(self.interval.low):
            return ""
        return f"[{self.interval.low:.{self.digits}f}, {self.interval.high:.{self.digits}f}]"


@dataclass(frozen=True)
class Line:
    """A row of a table."""

    label: str
    figures: tuple[Figure, ...]
    published: bool = False
    note: str = ""


@dataclass(frozen=True)
class Table:
    """A table with its heading."""

    id: str
    title: str
    columns: tuple[str, ...]
    lines: tuple[Line, ...]
    caption: str = ""
    groups: tuple[tuple[str, int], ...] = ()
    """Headings over so many columns each."""

    @property
    def full_columns(self) -> list[str]:
        """The columns with their group's heading."""
        groups = [f"{name}: " for name, count in self.groups for _ in range(count)] or [""] * len(
            self.columns
        )
        return [group + column for group, column in zip(groups, self.columns, strict=True)]


def plain(value: float | None, digits: int = 3) -> Figure:
    """A figure that has no interval, as a published one."""
    return Figure(None if value is None else Interval(value, float("nan"), float("nan"), 0), digits)


@dataclass
class TableMaker:
    """Makes the tables of one benchmark, all intervals from the same draws."""

    results: Results
    draws: int
    people: PeopleFigures | None = None
    bootstrap: CrossedBootstrap = field(init=False)

    def __post_init__(self) -> None:
        self.bootstrap = CrossedBootstrap(len(self.results.subjects), len(self.results.prompts), self.draws)
        self.methods: Sequence[Method] = self.results.matrix.benchmark.methods
        self._estimates: dict[tuple[Metric, str], Interval | None] = {}

    def estimate(self, metric: Metric, method: str) -> Interval | None:
        key = (metric, method)
        if key not in self._estimates:
            self._estimates[key] = self.bootstrap.estimate(self.results.table(metric, method))
        return self._estimates[key]

    @property
    def main_recogniser(self) -> str | None:
        """The first that conditions no method, else the first: for plots, per subject and worst cases."""
        names = self.results.recognisers
        conditioning = {name for method in self.methods for name in method.conditioned_by}
        return next((name for name in names if name not in conditioning), names[0] if names else None)

    def make_faces(self) -> Table | None:
        """Face similarity: three figures for each recogniser, the published ones of the paper below."""
        names = self.results.recognisers
        if not names:
            return None
        metrics = [
            Metric(f"face_{figure}", name)
            for name in names
            for figure in ("mean_all", "mean_detected", "detection_rate")
        ]
        lines = self._make_lines(metrics)
        # Recognisers of the paper that did not score here, as its in-house one, get columns of their own.
        others = [key for key in FACE_COLUMNS if not any(key in _simplify(name) for name in names)]
        lines = [Line(line.label, (*line.figures, *[Figure(None)] * len(others))) for line in lines]
        for row in PUBLISHED:
            if row.faces:
                ours = [
                    figure
                    for name in names
                    for figure in (Figure(None), plain(_pick(row, name)), Figure(None))
                ]
                figures = (*ours, *(plain(row.faces[key]) for key in others))
                lines.append(Line(row.method, figures, published=True))
        return Table(
            "faces",
            "Face similarity",
            ("all frames", "with face", "found in") * len(names) + tuple(others),
            tuple(lines),
            "Cosine with the subject's photo. 'all frames' counts a frame without the face as 0, 'with face' leaves it out, "
            "'found in' is the share of frames with the face; only together do they mean something. † this recogniser also "
            "conditions this model, so its figure flatters it. The paper does not say how faceless frames count.",
            tuple((name, 3) for name in names) + ((("published only", len(others)),) if others else ()),
        )

    def make_judged(self) -> Table | None:
        """The four criteria by the vision judge, and by people where there are answers."""
        judge = self.results.judge
        criteria = self.people.criteria if self.people else ()
        if judge is None and not criteria:
            return None
        metrics = [Metric(name, judge) for name in JUDGED] if judge else []
        lines = self._make_lines(metrics)
        if self.people is not None:
            lines = [
                Line(
                    line.label,
                    (
                        *line.figures,
                        *(Figure(self.people.estimate(name, method.name), 2) for name in criteria),
                    ),
                )
                for line, method in zip(lines, self.methods, strict=True)
            ]
        for row in PUBLISHED:
            if row.judge:
                judged = [plain(row.judge.get(name)) for name in JUDGED] if judge else []
                people = [plain(row.people.get(name), 2) for name in criteria]
                lines.append(Line(row.method, (*judged, *people), published=True))
        groups: tuple[tuple[str, int], ...] = ((f"judge: {judge}", len(JUDGED)),) if judge else ()
        groups += (
            ((f"people: {self.people.num_raters} raters, 1 to 5", len(criteria)),)
            if self.people and criteria
            else ()
        )
        columns = [TITLES[name] for name in JUDGED] if judge else []
        columns += [CRITERION_TITLES[name] for name in criteria]
        caption = "Marks of the judge are 0 to 1. Published marks are by another judge (Gemini-2.5-Pro): no comparison."
        return Table("judged", "Prompt following and quality", tuple(columns), tuple(lines), caption, groups)

    def make_motion(self) -> Table:
        """What is measured without a judge."""
        metrics = [Metric(name) for name in ("motion", "temporal_consistency", "sharpness")]
        drift = [Metric("face_drift", name) for name in self.results.recognisers]
        clip = self.results.list_metrics(TEXT_ALIGNMENT, AESTHETIC_SCORE)
        metrics += clip
        columns = (
            *(f"{TITLES[metric.name]}{f', {metric.model}' * (metric in clip)}" for metric in metrics),
            *(f"Drift, {metric.model}" for metric in drift),
        )
        caption = (
            "Motion is the mean length of the optical flow, its sign plays no part. Drift is the change of the likeness "
            "from the first frame to the last."
        )
        if clip:
            caption += " Text alignment is the cosine of frame and prompt by CLIP, which reads 77 tokens and knows little of motion."
        lines = self._make_lines([*metrics, *drift], marks_best=False)
        return Table("motion", "Motion, consistency, drift", columns, tuple(lines), caption)

    def make_imported(self) -> Table | None:
        """Figures that VBench, OpenS2V-Eval and the like gave by their own programs."""
        metrics = self.results.imported
        if not metrics:
            return None
        models = list(dict.fromkeys(metric.model for metric in metrics))
        groups = tuple((model, sum(metric.model == model for metric in metrics)) for model in models)
        columns = tuple(metric.name.removeprefix(IMPORTED).replace("_", " ") for metric in metrics)
        caption = (
            "As these programs gave them, by video; how they treat frames without a face and errors is theirs. The intervals "
            "are ours."
        )
        lines = self._make_lines(metrics, marks_best=False)
        return Table("imported", "Other benchmarks", columns, tuple(lines), caption, groups)

    def _make_lines(self, metrics: Sequence[Metric], *, marks_best: bool = True) -> list[Line]:
        grid = [[self.estimate(metric, method.name) for metric in metrics] for method in self.methods]
        columns = [[row[place] for row in grid] for place in range(len(metrics))]
        best = [_find_best([each.mean for each in column if each is not None]) for column in columns]
        lines = []
        for method, row in zip(self.methods, grid, strict=True):
            figures = []
            for metric, interval, top in zip(metrics, row, best, strict=True):
                marks: tuple[str, ...] = (
                    ("best",) if marks_best and interval is not None and interval.mean == top else ()
                )
                if metric.name.startswith("face_") and metric.model in method.conditioned_by:
                    marks += (CONDITIONS,)
                figures.append(Figure(interval, 1 if metric.name == "sharpness" else 3, marks))
            lines.append(Line(method.title, tuple(figures)))
        return lines

    def make_differences(self) -> Table | None:
        """Each method minus the baseline, over cells that both have."""
        baseline = self.results.matrix.benchmark.report.baseline or self.methods[0].name
        metrics = [Metric("face_mean_all", name) for name in self.results.recognisers]
        if self.results.judge:
            metrics += [Metric(name, self.results.judge) for name in JUDGED]
        others = [method for method in self.methods if method.name != baseline]
        if not others or not metrics:
            return None
        lines = []
        for method in others:
            pairs = [
                self.bootstrap.compare(
                    self.results.table(metric, method.name), self.results.table(metric, baseline)
                )
                for metric in metrics
            ]
            figures = [Figure(pair, 3, ("differs",) if pair and pair.excludes_zero else ()) for pair in pairs]
            lines.append(Line(method.title, tuple(figures)))
        columns = tuple(f"Face, {m.model}" if m.name.startswith("face") else TITLES[m.name] for m in metrics)
        title = f"Differences from {self.results.matrix.benchmark.find_method(baseline).title}"
        caption = "Method minus baseline, paired by subject and prompt. Bold: the interval leaves out 0."
        return Table("differences", title, columns, tuple(lines), caption)

    def make_ablation(self) -> Table | None:
        """Parts of the adapter alone and together."""
        chosen = [method for method in self.methods if method.ablation]
        name = self.main_recogniser
        if not chosen or name is None:
            return None
        metrics = [Metric("face_mean_all", name)]
        if self.results.judge:
            metrics += [Metric(each, self.results.judge) for each in ("prompt_following", "video_quality")]
        lines = [
            Line(method.title, tuple(Figure(self.estimate(metric, method.name)) for metric in metrics))
            for method in chosen
        ]
        for part, figures in ABLATION.items():
            kept = list(figures.values())[: len(metrics)]
            label = f"Lynx, {'ID and reference' if part == 'full' else f'{part} only'}"
            lines.append(Line(label, tuple(plain(value) for value in kept), published=True))
        columns = (f"Face similarity, {name}", *(TITLES[metric.name] for metric in metrics[1:]))
        return Table(
            "ablation", "Ablation", columns, tuple(lines), "Published face similarity is insightface's."
        )

    def make_cost(self) -> Table:
        """Latency, peak memory, parameters."""
        lines = []
        for method in self.methods:
            rows = [
                row for row in self.results.videos.values() if row.method == method.name and row.error is None
            ]
            latency = [row.latency_s for row in rows if row.latency_s is not None]
            memory = [row.peak_memory_gb for row in rows if row.peak_memory_gb is not None]
            parameters = next((row.parameters for row in rows if row.parameters), None)
            sources = sorted({row.memory_source for row in rows if row.memory_source})
            figures = (
                plain(float(np.median(latency)) if latency else None, 1),
                plain(max(memory) if memory else None, 2),
                plain(parameters / 1e9 if parameters else None, 4 if parameters and parameters < 1e9 else 2),
            )
            lines.append(Line(method.title, figures, note="; ".join(sources)))
        for row in PUBLISHED:
            if row.latency_s is not None:
                billions = row.parameters / 1e9 if row.parameters else None
                published = (plain(row.latency_s, 0), plain(row.peak_memory_gb, 2), plain(billions, 2))
                lines.append(Line(row.method, published, True, NOTES.get(row.method, "one H100")))
        columns = ("Latency (s, median)", "Peak memory (GB)", "Parameters (billions)")
        return Table(
            "cost", "Cost of a video", columns, tuple(lines), "Latency is from the server's own clock."
        )

    def make_anchors(self) -> Table | None:
        """What the people's other photos score, and how far each method gets between the two."""
        lines = []
        for name in self.results.recognisers:
            same = bootstrap_rows(self.results.anchors(name, "same_person"))
            stranger = bootstrap_rows(self.results.anchors(name, "stranger"))
            figures = [Figure(same), Figure(stranger)]
            for method in self.methods:
                score = self.estimate(Metric("face_mean_all", name), method.name)
                share = None
                if same and stranger and score and same.mean > stranger.mean:
                    share = (score.mean - stranger.mean) / (same.mean - stranger.mean)
                figures.append(plain(share, 2))
            lines.append(Line(name, tuple(figures)))
        columns = ("Same person", "Strangers", *(method.title for method in self.methods))
        caption = (
            "Cosine of the subjects' other photos with their own reference photo, and with those of others. Below each "
            "method: how far it gets from a stranger (0) to another photo of the person (1), over all frames."
        )
        return (
            Table("anchors", "Anchors: what a cosine means here", columns, tuple(lines), caption)
            if lines
            else None
        )

    def make_breakdown(self, by: str) -> Table | None:
        """Likeness and prompt following for each subject or prompt."""
        name, judge = self.main_recogniser, self.results.judge
        metrics = [Metric("face_mean_all", name)] if name else []
        metrics += [Metric("prompt_following", judge)] if judge else []
        if not metrics:
            return None
        labels = self.results.subjects if by == "subject" else self.results.prompts
        tables = [self.results.table(metric, method.name) for metric in metrics for method in self.methods]
        lines = []
        for number, label in enumerate(labels):
            cells = [table[number] if by == "subject" else table[:, number] for table in tables]
            note = "" if by == "subject" else self._describe_prompt(label)
            lines.append(Line(label, tuple(Figure(bootstrap_rows(row)) for row in cells), note=note))
        groups = tuple(
            (f"Likeness, {m.model}" if m.name.startswith("face") else TITLES[m.name], len(self.methods))
            for m in metrics
        )
        columns = tuple(method.title for _ in metrics for method in self.methods)
        return Table(f"by_{by}", f"By {by}", columns, tuple(lines), "", groups)

    def _describe_prompt(self, name: str) -> str:
        prompt = self.results.matrix.prompts[name]
        return f"{prompt.challenge}: {prompt.text}" if prompt.level == "hard" else prompt.text


def _simplify(name: str) -> str:
    return name.casefold().replace("_", "-")


def _pick(row: PublishedRow, name: str) -> float | None:
    """The published figure by the recogniser of this name."""
    return next((value for key, value in row.faces.items() if key in _simplify(name)), None)


def _find_best(means: Sequence[float]) -> float | None:
    """The highest of several; None where there is nothing to compare with, or all are the same."""
    return max(means) if means and max(means) > min(means) else None
