"""Table and plot of benchmarks/guidance.py, for docs/guidance.md."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import host_model  # noqa: F401  # it makes the miniature importable
import numpy as np

from miniature.experiment.measures import Measured, Truth
from miniature.experiment.statistics import Estimate, estimate_mean

MEASURES = {"cosine": "likeness", "background": "background", "action": "action", "motion": "motion"}
MOST_SHARE, LEAST_LIKENESS = 0.70, 0.98
BESIDE = 0.9
"""Predictions between points of one number."""
BEGIN, END = "<!-- begin table -->", "<!-- end table -->"

Found = Sequence[tuple[Any, dict[str, np.ndarray]]]
"""Settings and their readings, the one of all predictions first."""


def measure(found: Found, cases: Sequence[Any], gallery: np.ndarray) -> list[dict[str, Any]]:
    """A row for each setting: predictions, likeness as a share of the first row's, and what follows the prompt."""
    truth = Truth(cases, gallery)
    arrays = [Measured(truth, [rows]).arrays() for _, rows in found]
    rows = []
    for (setting, readings), each in zip(found, arrays, strict=True):
        predictions = readings["predictions"].astype(float)
        people = len(predictions)
        share = float(predictions.mean() / found[0][1]["predictions"][:people].mean())
        # Case by case: the same noise, photo and caption.
        first = {name: arrays[0][name][..., :people].astype(float) for name in MEASURES}
        change = {name: estimate_mean(each[name].astype(float) - first[name]) for name in MEASURES}
        lost, scale = change["cosine"], float(first["cosine"].mean())
        rows.append(
            {
                "name": setting.name,
                "group": setting.group,
                "people": people,
                "predictions": float(predictions.mean()),
                "share": share,
                "kept": Estimate(1 + lost.mean / scale, 1 + lost.lo / scale, 1 + lost.hi / scale, lost.n),
                "change": change,
                **{name: estimate_mean(each[name].astype(float)) for name in MEASURES},
            }
        )
    return rows


def write_table(rows: Sequence[dict[str, Any]]) -> str:
    heads = ["setting", "people", "predictions", "of all", "likeness kept", *MEASURES.values()]
    lines = [f"| {' | '.join(heads)} |", "|" + " --- |" * len(heads)]
    for row in rows:
        cells = [row["name"], str(row["people"]), f"{row['predictions']:.1f}", f"{row['share']:.0%}"]
        cells += [_show(row["kept"]), *(_show(row[name]) for name in MEASURES)]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _show(estimate: Estimate) -> str:
    return f"{estimate.mean:.3f} ({estimate.lo:.3f} to {estimate.hi:.3f})"


def place_apart(rows: Sequence[dict[str, Any]]) -> list[float]:
    """The predictions of each row, those of one number side by side."""
    numbers = [round(row["predictions"]) for row in rows]
    return [
        number + BESIDE * (numbers[:place].count(number) - (numbers.count(number) - 1) / 2)
        for place, number in enumerate(numbers)
    ]


def draw(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Likeness, prompt following and motion over the predictions."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 3, figsize=(12, 4.4), layout="constrained")
    groups = list(dict.fromkeys(row["group"] for row in rows if row["group"] != "base"))
    dots = [{"color": colour, "fmt": "o"} for colour in plt.get_cmap("tab10").colors]
    diamonds = [{"color": "black", "fmt": "D", "mfc": face} for face in ("black", "white")]
    looks = dict(zip(groups, [*dots, *diamonds], strict=False))
    predictions = dict(zip((row["name"] for row in rows), place_apart(rows), strict=True))
    titles = ("likeness kept", "action of the caption, change", "motion, change")
    shown = [[row["kept"], row["change"]["action"], row["change"]["motion"]] for row in rows]
    for place, (axis, title) in enumerate(zip(axes, titles, strict=True)):
        for group in groups:
            chosen = [
                (row, each[place]) for row, each in zip(rows, shown, strict=True) if row["group"] == group
            ]
            mean = np.array([each.mean for _, each in chosen])
            bounds = np.array([[each.lo, each.hi] for _, each in chosen]).T
            axis.errorbar(
                [predictions[row["name"]] for row, _ in chosen], mean, np.abs(bounds - mean), ms=4, lw=0.8,
                label=group, **looks[group],
            )  # fmt: skip
        axis.set_title(title, fontsize=10)
        axis.set_xlabel("predictions of a video")
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].axhspan(LEAST_LIKENESS, 2 - LEAST_LIKENESS, color="#2e9d5b", alpha=0.12)
    for axis in axes:
        axis.axvline(MOST_SHARE * rows[0]["predictions"], color="black", lw=0.6, ls=":")
    figure.legend(
        *axes[0].get_legend_handles_labels(), fontsize=8, frameon=False, loc="outside lower center", ncols=5
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def write_report(found: Found, cases: Sequence[Any], gallery: np.ndarray, docs: Path) -> None:
    """Put the table into docs/guidance.md, between its marks, and draw the plot beside it."""
    rows = measure(found, cases, gallery)
    table = f"{BEGIN}\n{write_table(rows)}\n{END}"
    page = docs / "guidance.md"
    text = page.read_text(encoding="utf-8")
    page.write_text(re.sub(f"{BEGIN}.*{END}", lambda _: table, text, flags=re.S), encoding="utf-8")
    draw(rows, docs / "images" / "guidance.png")
    print(table)
