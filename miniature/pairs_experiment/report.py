"""The tables of docs/curation_proof.md; its text is written by hand."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lynx_core.durable_file import write_durably

from ..experiment.report import fill_in

REPORT_NAME, RESULTS_NAME = "curation_proof.md", "curation_proof.json"
ARM_NAMES = {
    "base": "no adapter",
    "first_frame": "(a) first frame",
    "background": "(b) background replaced",
    "all_kinds": "(c) all kinds",
}
MEASURE_NAMES = {
    "cosine": "likeness, cosine",
    "hard_likeness": "likeness, other pose and light",
    "top1": "top-1 of 128",
    "mark": "mark's colour",
    "background": "background of the caption",
    "action": "action of the caption",
    "motion": "motion of the caption",
    "yaw": "copied: turn",
    "pitch": "copied: nod",
    "smile": "copied: smile",
    "warmth": "copied: warmth of light",
    "light_side": "copied: side of light",
    "background_colour": "copied: background's colour",
}


def write_report(results: Mapping[str, Any], folder: Path) -> None:
    """Write the figures, and the tables where the page has its markers."""
    text = json.dumps(results, indent=1) + "\n"
    write_durably(folder / RESULTS_NAME, text.encode())
    page = folder / REPORT_NAME
    if page.is_file():
        page.write_text(fill_in(page.read_text(encoding="utf-8"), make_tables(results)), encoding="utf-8")


def make_tables(results: Mapping[str, Any]) -> dict[str, str]:
    """All tables by name, in Markdown."""
    arms = {name: results["measures"][name] for name in ARM_NAMES if name in results["measures"]}
    return {
        "measures": _tabulate({ARM_NAMES[name]: each for name, each in arms.items()}),
        "differences": _tabulate({_shorten(name): each for name, each in results["differences"].items()}),
        "pairs": _tabulate_pairs(results["settings"]),
    }


def _tabulate(columns: Mapping[str, Any]) -> str:
    lines = [f"|  | {' | '.join(columns)} |", "|" + " --- |" * (len(columns) + 1)]
    for name, title in MEASURE_NAMES.items():
        lines.append(f"| {title} | {' | '.join(_show(each[name]) for each in columns.values())} |")
    return "\n".join(lines)


def _tabulate_pairs(settings: Mapping[str, Any]) -> str:
    kinds = ("single-scene", "augmented", "multi-scene")
    lines = [f"| set | {' | '.join(kinds)} |", "|" + " --- |" * (len(kinds) + 1)]
    for arm, counts in settings["pairs"].items():
        lines.append(f"| {ARM_NAMES[arm]} | {' | '.join(str(counts.get(kind, 0)) for kind in kinds)} |")
    return "\n".join(lines)


def _shorten(name: str) -> str:
    return " - ".join(ARM_NAMES[arm].split()[0] for arm in name.split(" - "))


def _show(estimate: Mapping[str, float]) -> str:
    return f"{estimate['mean']:.3f} ({estimate['lo']:.3f} to {estimate['hi']:.3f})"
