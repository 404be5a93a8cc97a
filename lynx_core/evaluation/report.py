"""The report: one HTML page that works offline, the same in Markdown, and the tables behind it as Parquet."""

from __future__ import annotations

import base64
import mimetypes
import platform
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jinja2 import Environment, PackageLoader, StrictUndefined

from ..durable_file import write_aside, write_durably
from ..foreign_text import parse_json
from .cells import Matrix
from .charts import Point, draw_likeness_editability
from .errors import ConfigurationError
from .generation import locate_video
from .published import PUBLISHED, SOURCE
from .rater_answers import PeopleFigures
from .report_tables import JUDGED, TITLES, Table, TableMaker
from .results import Metric, Results
from .statistics import Interval, bootstrap_rows

MAX_EMBEDDED_BYTES = 4 << 20
"""Larger videos are linked, so that the page stays one that opens."""
CHART_NAME = "likeness_editability.svg"


@dataclass(frozen=True)
class WorstCase:
    """A video with a low likeness, to be looked at."""

    method: str
    subject: str
    prompt: str
    text: str
    likeness: float
    photo: str
    video: str
    """Data URL, or a path where the file is large."""


@dataclass(frozen=True)
class Completeness:
    """How much of the matrix a method has."""

    method: str
    cells: int
    videos: int
    failed: int


def write_report(matrix: Matrix, folder: Path) -> list[Path]:
    """Write report.html, report.md, the plot and two Parquet tables.

    Returns:
        The files.

    Raises:
        ConfigurationError: when there is no video to report on.
        LedgerError: when the ledger cannot be read.
        OSError: when the folder cannot be written.
    """
    results = Results(matrix)
    if not results.videos:
        raise ConfigurationError(
            f"there is no video in {matrix.output}; run comfy-lynx evaluate generate first"
        )
    content = Content(results)
    tables = content.list_tables()
    chart = content.draw_chart()
    environment = Environment(
        loader=PackageLoader("lynx_core.evaluation", "pages"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    values = {
        "tables": tables,
        "chart": chart,
        "chart_name": CHART_NAME,
        "completeness": content.list_completeness(),
        "errors": results.list_errors(),
        "judge_notes": content.list_judge_notes(),
        "people_notes": content.list_people_notes(),
        "provenance": dict(content.list_provenance()),
        "published_source": SOURCE,
        "draws": matrix.benchmark.report.draws,
        "main_recogniser": content.maker.main_recogniser,
        "made_at": time.strftime("%Y-%m-%d %H:%M"),
        "num_subjects": len(matrix.subjects),
        "num_prompts": len(matrix.prompts),
    }
    environment.autoescape = True
    html = environment.get_template("report.html").render(**values, worst=list(content.list_worst()))
    environment.autoescape = False
    markdown = environment.get_template("report.md").render(**values)
    folder.mkdir(parents=True, exist_ok=True)
    files = {"report.html": html, "report.md": markdown, **({CHART_NAME: chart} if chart else {})}
    for name, text in files.items():
        write_durably(folder / name, text.encode())
    _write_parquet(folder / "cells.parquet", results.list_cells())
    _write_parquet(folder / "figures.parquet", list(list_figures(tables)))
    return [folder / name for name in (*files, "cells.parquet", "figures.parquet")]


def _write_parquet(path: Path, rows: list[dict[str, Any]]) -> None:
    with write_aside(path) as (aside,):
        pq.write_table(pa.Table.from_pylist(rows), aside)


def list_figures(tables: list[Table]) -> Iterator[dict[str, Any]]:
    """Every field of every table, published ones marked."""
    for table in tables:
        groups = [name for name, count in table.groups for _ in range(count)] or [""] * len(table.columns)
        for line in table.lines:
            for group, column, figure in zip(groups, table.columns, line.figures, strict=True):
                interval = figure.interval
                yield {
                    "table": table.id,
                    "row": line.label,
                    "group": group,
                    "column": column,
                    "mean": interval.mean if interval else None,
                    "low": interval.low if interval and figure.bounds else None,
                    "high": interval.high if interval and figure.bounds else None,
                    "num_cells": interval.num_cells if interval and not line.published else None,
                    "published": line.published,
                }


class Content:
    """What stands in the report of some results."""

    def __init__(self, results: Results) -> None:
        self.results = results
        self.config = results.matrix.benchmark
        draws = self.config.report.draws
        self.people = PeopleFigures(results.answers, results.methods, draws) if results.answers else None
        self.maker = TableMaker(results, draws, self.people)

    def list_tables(self) -> list[Table]:
        maker = self.maker
        made = [
            maker.make_faces(),
            maker.make_judged(),
            maker.make_differences(),
            maker.make_ablation(),
            maker.make_anchors(),
            maker.make_motion(),
            maker.make_imported(),
            maker.make_cost(),
            maker.make_breakdown("subject"),
            maker.make_breakdown("prompt"),
        ]
        return [table for table in made if table is not None]

    def list_completeness(self) -> list[Completeness]:
        found = []
        for method in self.config.methods:
            rows = [row for row in self.results.videos.values() if row.method == method.name]
            failed = sum(row.error is not None for row in rows)
            found.append(Completeness(method.title, self.results.matrix.size, len(rows) - failed, failed))
        return found

    def draw_chart(self) -> str:
        """The plot of likeness against editability; empty without a recogniser or a judge."""
        name, judge = self.maker.main_recogniser, self.results.judge
        if name is None or judge is None:
            return ""
        points = []
        for method in self.config.methods:
            likeness = self.maker.estimate(Metric("face_mean_all", name), method.name)
            editability = self.maker.estimate(Metric("prompt_following", judge), method.name)
            if likeness and editability:
                points.append(Point(method.title, editability, likeness))
        for row in PUBLISHED:
            if row.faces and row.judge and row.people:  # the supplement's row would lie on the main one
                x, y = (
                    Interval(value, value, value, 0)
                    for value in (row.judge["prompt_following"], row.faces["insightface"])
                )
                points.append(Point(row.method, x, y, published=True))
        x_title = f"Editability: prompt following ({judge}; published: Gemini-2.5-Pro)"
        return draw_likeness_editability(points, x_title, f"Likeness ({name}; published: insightface)")

    def list_worst(self) -> Iterator[WorstCase]:
        """The videos least like their subject, of each method."""
        name = self.maker.main_recogniser
        if name is None:
            return
        for method in self.config.methods:
            table = self.results.table(Metric("face_mean_all", name), method.name)
            order = np.argsort(np.where(np.isnan(table), np.inf, table), axis=None)
            for place in order[: self.config.report.worst]:
                s, p = np.unravel_index(place, table.shape)
                if np.isnan(table[s, p]):
                    continue
                subject = self.results.matrix.subjects[self.results.subjects[s]]
                prompt = self.results.matrix.prompts[self.results.prompts[p]]
                row = self.results.videos[method.name, subject.id, prompt.id]
                yield WorstCase(
                    method.title,
                    subject.id,
                    prompt.id,
                    prompt.text,
                    float(table[s, p]),
                    embed_file(subject.reference),
                    embed_file(locate_video(self.results.matrix.output, row)),
                )

    def list_judge_notes(self) -> list[str]:
        """What is to be known of the judge before its marks are believed."""
        results, judge, notes = self.results, self.results.judge, []
        settings = self.config.judge
        if settings is not None and judge is None:
            notes.append(f"{settings.answers_as or settings.model} has judged nothing yet.")
        if judge is not None:
            control = bootstrap_rows(results.control())
            if control is None:
                notes.append(
                    f"{judge} was not shown a wrong prompt; whether it reads the prompt is not known."
                )
            else:
                verdict = "it reads the prompt" if control.low > 0 else "IT DOES NOT SEEM TO READ THE PROMPT"
                notes.append(
                    f"Control: with a wrong prompt, prompt following falls by {control.mean:.3f} [{control.low:.3f}, "
                    f"{control.high:.3f}] over {control.num_cells} videos: {verdict}."
                )
            spread = self._measure_spread(judge)
            if spread is not None:
                notes.append(
                    f"Repeated for the same video, its marks of prompt following differ by {spread:.3f} (mean SD)."
                )
            notes += [
                f"{judge} gave every video the same mark of {TITLES[name].lower()}: it says nothing of the methods."
                for name in JUDGED
                if self._gives_one_mark(Metric(name, judge))
            ]
        notes += [f"Marks of {other} are in the ledger and not shown." for other in results.other_judges]
        return notes

    def _gives_one_mark(self, metric: Metric) -> bool:
        rows = [row for key in self.results.videos for row in self.results.find_rows(metric, *key)]
        values = [row.value for row in rows if row.value is not None]
        return len(values) > 1 and min(values) == max(values)

    def _measure_spread(self, judge: str) -> float | None:
        spreads = []
        for key in self.results.videos:
            rows = self.results.find_rows(Metric("prompt_following", judge), *key)
            values = [row.value for row in rows if row.value is not None]
            if len(values) > 1:
                spreads.append(float(np.std(values, ddof=1)))
        return float(np.mean(spreads)) if spreads else None

    def list_people_notes(self) -> list[str]:
        """How far the raters agree: with each other, with themselves, with the machines."""
        if self.people is None:
            return []
        people, notes = self.people, []
        for name in people.criteria:
            alpha = people.alpha(name)
            shown = "too few videos were seen by two raters" if alpha is None else f"{alpha:.2f}"
            notes.append(f"Ordinal alpha of {name.replace('_', ' ')}: {shown}.")
        consistency = people.self_consistency
        if consistency is not None:
            notes.append(
                f"Shown a video twice, raters gave the same mark in {consistency.equal:.0%} and one within 1 in "
                f"{consistency.within_one:.0%} of {consistency.num_marks} marks."
            )
        for method, chance in (people.preferences or {}).items():
            title = self.config.find_method(method).title
            notes.append(
                f"Preferred to an average method: {title} {chance.mean:.0%} [{chance.low:.0%}, {chance.high:.0%}]."
            )
        return notes + list(self._list_agreements(people))

    def _list_agreements(self, people: PeopleFigures) -> Iterator[str]:
        machines = {name: [Metric(name, self.results.judge or "")] for name in JUDGED}
        machines["face_resemblance"] = [Metric("face_mean_all", name) for name in self.results.recognisers]
        for criterion in people.criteria:
            for metric in machines[criterion]:
                values = {}
                for method, subject, prompt in self.results.videos:
                    rows = self.results.find_rows(metric, method, subject, prompt)
                    found = [row.value for row in rows if row.value is not None]
                    if found:
                        values[method, subject, prompt] = sum(found) / len(found)
                agreement = people.agreement(criterion, values)
                if agreement is not None:
                    title = TITLES.get(criterion, "Face resemblance")
                    yield (
                        f"{title}: rank correlation of people with {metric.model} {agreement.mean:.2f} "
                        f"[{agreement.low:.2f}, {agreement.high:.2f}] over {agreement.num_cells} videos."
                    )

    def list_provenance(self) -> Iterator[tuple[str, str]]:
        """What the figures come from."""
        config, results = self.config, self.results
        yield (
            "program",
            f"comfyui-lynx {metadata.version('comfyui-lynx')}, Python {platform.python_version()}",
        )
        people = results.matrix.subjects.values()
        kinds = Counter(subject.kind for subject in people)
        shown = ", ".join(f"{count} {kind}" for kind, count in kinds.items())
        licences = ", ".join(sorted({subject.licence for subject in people}))
        yield (
            "subjects",
            f"{config.subjects}, split {config.split!r}: {shown}; licences of the photos: {licences}",
        )
        yield "prompts", f"{config.prompts}, {len(results.prompts)} prompts"
        yield "ledger", str(config.output / "ledger")
        models: set[tuple[str, str]] = set()
        for method in config.methods:
            rows = [row for row in results.videos.values() if row.method == method.name]
            workflows = sorted({(row.workflow_sha256 or "finished videos")[:16] for row in rows})
            named = {pair for row in rows for pair in parse_json(row.model_files or "{}").items()}
            models |= named
            conditioned = ", ".join(method.conditioned_by) or "no recogniser"
            yield (
                f"method {method.name}",
                f"workflow {', '.join(workflows) or 'none'}; model files {', '.join(sorted({name for name, _ in named})) or 'none'}; conditioned by {conditioned}",
            )
        for name in sorted({name for name, _ in models}):
            # More than one where it was changed between videos.
            yield f"file {name}", "SHA-256 " + " and ".join(sorted(sha for key, sha in models if key == name))
        for settings in config.recognisers:
            yield (
                f"recogniser {settings.name}",
                f"{settings.kind}, {settings.file or settings.callable or 'its own files'}",
            )
        if config.judge is not None:
            yield (
                "judge",
                f"{results.judge or 'none yet'} at {config.judge.base_url}, {config.judge.frames} frames, {config.judge.repeats} times",
            )


def embed_file(path: Path) -> str:
    """A file as a data URL; the address of one that is large, and nothing for one that is gone."""
    if not path.is_file():
        return ""
    if path.stat().st_size > MAX_EMBEDDED_BYTES:
        return path.resolve().as_uri()
    kind = mimetypes.guess_type(path.name)[0] or "application/octet-stream"
    return f"data:{kind};base64,{base64.b64encode(path.read_bytes()).decode()}"
