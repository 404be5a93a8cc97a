"""Tables and figures of the report from results.json: python -m miniature.experiment.report

The text of report.md is written by hand; what stands between `<!-- begin NAME -->` and `<!-- end NAME -->` is
written here, and a test compares it with results.json.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ..world.identity import CHOICES, SHARES
from .figures import draw_ablation, draw_contact_sheet, draw_factors, draw_series

__all__ = ["PEOPLE_SHOWN", "draw_contact_sheet", "write_report"]

PEOPLE_SHOWN = 6
VARIANT_NAMES = {"base": "base", "id_only": "ID only", "ref_only": "reference only", "full": "full"}
MEASURE_NAMES = {
    "top1": "top-1 of 128",
    "top1_of_8": "top-1 of 8",
    "cosine": "cosine",
    "mark": "mark's colour",
    "mark_lead": "mark's colour, lead",
    "mark_place": "mark's place",
    "mark_colour_and_place": "mark, both",
    "background": "background",
    "action": "action",
    "motion": "motion",
    "motion_amount": "amount of motion",
    "still_amount": "motion when still",
    "reference_background": "background of the photo",
}
CONTROL_NAMES = {
    "drawn_targets": "the drawn targets themselves",
    "null_identity": "null identity",
    "zero_initialised": "zero-initialised adapter",
    "full_stage1": "full, stage 1 only",
    "full_stage1_scratch": "full, stage 1 only, resampler and reference keys from random weights",
}
QUALITY_ROWS = {"drawn": "the drawn targets themselves", "vae": "the same after the VAE", **VARIANT_NAMES}
QUALITY_FIGURES = {
    "frechet": "Fréchet distance to the drawn targets",
    "found": "frames with a face",
    "landmark_error": "landmarks off, in distances of the eyes",
}
TOP1_TARGET, MARK_TARGET, PROMPT_TARGET = 0.80, 0.60, 0.02
Results = Mapping[str, Any]


def write_report(folder: Path) -> None:
    """Write the figures, and the tables into report.md.

    Raises:
        FileNotFoundError: when there is no results.json.
        ValueError: when report.md has lost a marker.
    """
    path = folder / "results.json"
    if not path.is_file():
        raise FileNotFoundError(f"{path} is not there; make it with: python -m miniature.experiment")
    results = json.loads(path.read_text(encoding="utf-8"))
    draw_ablation(results, VARIANT_NAMES, MEASURE_NAMES, folder / "ablation.png")
    draw_factors(results, VARIANT_NAMES, folder / "factors.png")
    controls = results["controls"]
    draw_series(controls.get("strength", []), "strength", "strength of the adapter", folder / "strength.png")
    draw_series(controls.get("growth", []), "steps", "steps of training", folder / "growth.png")
    report = folder / "report.md"
    if report.is_file():
        text = fill_in(report.read_text(encoding="utf-8"), make_tables(results))
        report.write_text(text, encoding="utf-8")


def fill_in(text: str, tables: Mapping[str, str]) -> str:
    """Put each table between its markers."""
    for name, table in tables.items():
        pattern = re.compile(rf"(<!-- begin {name} -->\n).*?(<!-- end {name} -->)", re.DOTALL)
        if not pattern.search(text):
            raise ValueError(
                f"report.md has no '<!-- begin {name} -->' and '<!-- end {name} -->'; put them back"
            )
        text = pattern.sub(partial(_put_between, table), text)
    return text


def _put_between(table: str, markers: re.Match[str]) -> str:
    return f"{markers[1]}{table}\n{markers[2]}"


def make_tables(results: Results) -> dict[str, str]:
    """All tables by name, in Markdown."""
    tables: dict[str, Callable[[Results], str]] = {
        "targets": _targets,
        "ablation": _ablation,
        "factors": _factors,
        "difference": _difference,
        "copy-paste": _copy_paste,
        "swap": _swap,
        "controls": _controls,
        "strength": _strength,
        "growth": _growth,
        "one-step": _one_step,
        "settings": _settings,
    }
    tables |= {name: make for name, make in _OF_LARGER_WORLDS.items() if name in results}
    return {name: make(results) for name, make in tables.items()}


def judge_targets(results: Results) -> list[tuple[str, str, bool | None]]:
    """What was aimed at, what came out, and whether it is met; None where a variant is missing."""
    full, base, chance = results.get("full"), results.get("base"), results["chance"]
    difference = results["controls"].get("difference_to_base", {}).get("full")
    id_only = results.get("id_only")
    judged: list[tuple[str, str, bool | None]] = []
    if full:
        judged.append(
            (
                f"full: top-1 at least {TOP1_TARGET:.2f}",
                _show(full["top1"]),
                full["top1"]["mean"] >= TOP1_TARGET,
            )
        )
        judged.append(
            (
                f"full: mark's colour at least {MARK_TARGET:.2f}",
                _show(full["mark"]),
                full["mark"]["mean"] >= MARK_TARGET,
            )
        )
    if base:
        judged.append(
            (
                f"base: top-1 at chance ({chance['top1']:.3f})",
                _show(base["top1"]),
                _is_at(base["top1"], chance["top1"]),
            )
        )
    if id_only:
        goal = "ID only: mark's colour at chance (lead of 0)"
        judged.append((goal, _show(id_only["mark_lead"]), _is_at(id_only["mark_lead"], chance["mark_lead"])))
    for name in ("background", "action") if difference else ():
        goal = f"full: {name} within {100 * PROMPT_TARGET:.0f} points of the base"
        judged.append(
            (goal, f"{_show(difference[name])} (difference)", difference[name]["mean"] >= -PROMPT_TARGET)
        )
    if full and base and id_only:
        order = [variant["cosine"]["mean"] for variant in (base, id_only, results["full"])]
        shown = " < ".join(f"{value:.3f}" for value in order)
        judged.append(("likeness: base < ID only < full (cosine)", shown, order[0] < order[1] < order[2]))
    return judged


def _is_at(estimate: Mapping[str, float], chance: float) -> bool:
    """Whether nothing speaks for more than guessing."""
    return estimate["lo"] <= chance


def _targets(results: Results) -> str:
    words = {True: "met", False: "**not met**", None: "not measured"}
    rows = [[goal, shown, words[met]] for goal, shown, met in judge_targets(results)]
    return _table(["target", "measured", ""], rows)


def _ablation(results: Results) -> str:
    rows = []
    for variant, shown in VARIANT_NAMES.items():
        if variant in results:
            rows.append([shown, *(_show(results[variant].get(name)) for name in MEASURE_NAMES)])
    chance = results["chance"]
    rows.append(["chance", *(f"{chance[name]:.3f}" if name in chance else "" for name in MEASURE_NAMES)])
    return _flip(["", *MEASURE_NAMES.values()], rows)


def _factors(results: Results) -> str:
    variants = [variant for variant in VARIANT_NAMES if variant in results["factors"]]
    rows = []
    for name in (*SHARES, *CHOICES):
        found = [results["factors"][variant].get(name) for variant in variants]
        kind = next((each["kind"] for each in found if each), "")
        rows.append([name.replace("_", " "), kind, *(_show(each) for each in found)])
    return _table(["factor", "", *(VARIANT_NAMES[variant] for variant in variants)], rows)


def _difference(results: Results) -> str:
    rows = []
    for variant, measures in results["controls"].get("difference_to_base", {}).items():
        rows.append([VARIANT_NAMES[variant], *(_show(each) for each in measures.values())])
        head = ["against the base", *(MEASURE_NAMES[name] for name in measures)]
    return _flip(head, rows) if rows else "Not measured."


def _copy_paste(results: Results) -> str:
    rows = []
    for variant, found in results["copy_paste"].items():
        near, middle, far = (_show(each) for each in found["likeness_by_pose_difference"])
        light = [_show(found[f"likeness_in_{which}_light"]) for which in ("the_same", "another")]
        copied = [
            _show(found[name]) for name in ("reference_background", "correlation_of_yaw_with_the_photo")
        ]
        rows.append([VARIANT_NAMES[variant], near, middle, far, *light, *copied])
    head = [
        "",
        "likeness, pose near the photo's",
        "middle",
        "far",
        "likeness, light of the photo",
        "another light",
    ]
    return _flip([*head, "background of the photo", "correlation of yaw with the photo"], rows)


def _swap(results: Results) -> str:
    swapped = results["controls"].get("swapped_reference")
    if not swapped:
        return "Not measured."
    return _table(
        ["photos swapped", ""], [[name.replace("_", " "), _show(each)] for name, each in swapped.items()]
    )


def _controls(results: Results) -> str:
    rows = []
    for variant in ("base", "full"):
        if variant in results:
            rows.append(
                [VARIANT_NAMES[variant], *(_show(results[variant].get(name)) for name in MEASURE_NAMES)]
            )
    for name, shown in CONTROL_NAMES.items():
        found = results["controls"].get(name)
        if found:
            rows.append([shown, *(_show(found.get(measure)) for measure in MEASURE_NAMES)])
    return _flip(["", *MEASURE_NAMES.values()], rows)


def _quality(results: Results) -> str:
    rows = [
        [QUALITY_ROWS[name], *(_show(found[figure]) for figure in QUALITY_FIGURES)]
        for name, found in results["quality"].items()
    ]
    return _table(["", *QUALITY_FIGURES.values()], rows)


def _captions(results: Results) -> str:
    rows = [
        [VARIANT_NAMES[variant], *(_show(found.get(sort)) for sort in ("short", "long"))]
        for variant, found in results["captions"].items()
    ]
    return _table(["likeness (cosine)", "up to 19 words", "20 words and more"], rows)


_OF_LARGER_WORLDS = {"quality": _quality, "captions": _captions}
"""Tables of results that Mini Lynx of 64 px has not."""


def _strength(results: Results) -> str:
    return _series(results["controls"].get("strength", []), "strength", "{:.2f}")


def _growth(results: Results) -> str:
    return _series(results["controls"].get("growth", []), "steps", "{}")


def _series(found: Sequence[Results], over: str, form: str) -> str:
    names = ["top1", "cosine", "mark", "background", "action", "motion"]
    rows = [[form.format(row[over]), *(_show(row[name]) for name in names)] for row in found]
    return _table([over, *(MEASURE_NAMES[name] for name in names)], rows) if rows else "Not measured."


def _one_step(results: Results) -> str:
    found = results["controls"].get("one_step")
    if not found:
        return "Not measured."
    variants = [name for name in VARIANT_NAMES if name in found[0]]
    columns = [(variant, measure) for measure in found[0][variants[0]] for variant in variants]
    head = [f"{MEASURE_NAMES[measure]}, {VARIANT_NAMES[variant]}" for variant, measure in columns]
    rows = [
        [f"{100 * row['noise']:.0f} %", *(_show(row[variant][measure]) for variant, measure in columns)]
        for row in found
    ]
    return _table(["noise", *head], rows)


def _settings(results: Results) -> str:
    settings = results["settings"]
    rows = [[name.replace("_", " "), _plain(value)] for name, value in settings.items()]
    return _table(["setting", ""], rows)


def _plain(value: Any) -> str:
    if isinstance(value, Mapping):
        return "; ".join(f"{name}: {each}" for name, each in value.items())
    return str(value)


def _show(estimate: Mapping[str, float] | None) -> str:
    if not estimate or "mean" not in estimate:
        return ""
    return f"{estimate['mean']:.3f} ({estimate['lo']:.3f} to {estimate['hi']:.3f})"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(cells) + " |" for cells in (head, ["---"] * len(head), *rows)]
    return "\n".join(lines)


def _flip(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table with a column for each row, for measures are many and variants few."""
    columns = np.array([head, *rows], dtype=object).T.tolist()
    return _table(columns[0], columns[1:])


if __name__ == "__main__":
    write_report(Path(sys.argv[1]) if len(sys.argv) > 1 else Path("docs/mini"))
