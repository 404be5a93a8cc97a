"""The figures of the report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from ..world.identity import CHOICES, SHARES

COLOURS = {"base": "#9aa0a6", "id_only": "#4285f4", "ref_only": "#f4a142", "full": "#2e9d5b"}
BARS = ("top1", "cosine", "mark", "background", "action", "motion")
FRAMES_SHOWN = (0, 4, 8)
_CELL_PX, _GAP_PX, _HEAD_PX = 80, 4, 16
_DPI = 110


def draw_ablation(
    results: Mapping[str, Any], variants: Mapping[str, str], measures: Mapping[str, str], path: Path
) -> None:
    """A group of bars for each measure, with intervals and the chance level."""
    import matplotlib.pyplot as plt

    figure, axis = plt.subplots(figsize=(9, 3.6), layout="constrained")
    shown = [variant for variant in variants if variant in results]
    width = 0.8 / max(len(shown), 1)
    for place, variant in enumerate(shown):
        x = np.arange(len(BARS)) + (place - (len(shown) - 1) / 2) * width
        _draw_bars(axis, x, [results[variant][name] for name in BARS], width, variant, variants[variant])
    for place, name in enumerate(BARS):
        if name in results["chance"]:
            axis.hlines(
                results["chance"][name], place - 0.45, place + 0.45, "black", linestyles="dotted", lw=1
            )
    axis.set_xticks(range(len(BARS)), [measures[name] for name in BARS])
    axis.set_title("What each part adds (bars: 95 % intervals; dotted: chance)", fontsize=10)
    axis.legend(fontsize=8, ncols=4, loc="upper center", bbox_to_anchor=(0.5, -0.1), frameon=False)
    _save(figure, axis, path)


def draw_factors(results: Mapping[str, Any], variants: Mapping[str, str], path: Path) -> None:
    """How well each factor of the person is read back."""
    import matplotlib.pyplot as plt

    names = [*SHARES, *CHOICES]
    figure, axis = plt.subplots(figsize=(9, 4.2), layout="constrained")
    shown = [variant for variant in variants if variant in results["factors"]]
    width = 0.8 / max(len(shown), 1)
    for place, variant in enumerate(shown):
        found = [results["factors"][variant].get(name) for name in names]
        x = np.arange(len(names)) + (place - (len(shown) - 1) / 2) * width
        known = [i for i, each in enumerate(found) if each]
        _draw_bars(axis, x[known], [found[i] for i in known], width, variant, variants[variant])
    axis.axvline(len(SHARES) - 0.5, color="black", lw=0.6)
    axis.axhline(0, color="black", lw=0.6)
    axis.set_ylim(-0.6, 1.05)
    axis.set_xticks(
        range(len(names)), [name.replace("_", " ") for name in names], rotation=60, ha="right", fontsize=8
    )
    axis.set_title(
        "Factors read back: R2 of amounts (left; 0 is a guess), accuracy of choices (right)", fontsize=10
    )
    axis.legend(fontsize=8, frameon=False, loc="lower left")
    _save(figure, axis, path)


def draw_series(rows: Sequence[Mapping[str, Any]], over: str, label: str, path: Path) -> None:
    """The measures over the strength or the age of the adapter; no figure where it was not measured."""
    if not rows:
        return
    import matplotlib.pyplot as plt

    figure, axis = plt.subplots(figsize=(6, 3.4), layout="constrained")
    x = [row[over] for row in rows]
    for name, colour in zip(
        BARS, ("#2e9d5b", "#86c79d", "#a142f4", "#4285f4", "#f4a142", "#db4437"), strict=True
    ):
        axis.plot(x, [row[name]["mean"] for row in rows], marker="o", ms=3, color=colour, label=name)
        axis.fill_between(
            x, [r[name]["lo"] for r in rows], [r[name]["hi"] for r in rows], color=colour, alpha=0.12
        )
    axis.set_xlabel(label)
    axis.legend(fontsize=7, frameon=False, ncols=2)
    _save(figure, axis, path)


def _draw_bars(
    axis: Any, x: Any, found: Sequence[Mapping[str, float]], width: float, variant: str, label: str
) -> None:
    mean = np.array([each["mean"] for each in found])
    errors = np.abs(np.array([[each["lo"], each["hi"]] for each in found]).T - mean)
    axis.bar(x, mean, width * 0.92, yerr=errors, color=COLOURS[variant], label=label, error_kw={"lw": 0.8})


def _save(figure: Any, axis: Any, path: Path) -> None:
    import matplotlib.pyplot as plt

    axis.spines[["top", "right"]].set_visible(False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=_DPI)
    plt.close(figure)


def draw_contact_sheet(
    photos: Sequence[np.ndarray], captions: Sequence[str], clips: Mapping[str, np.ndarray], path: Path
) -> None:
    """A row for each person: the photo, then three frames of each variant.

    Args:
        photos: [H, W, 3] uint8 RGB each.
        captions: one for each person.
        clips: [people, 9, 64, 64, 3] uint8 RGB by variant.
    """
    columns = 1 + len(FRAMES_SHOWN) * len(clips)
    row_px = _CELL_PX + _HEAD_PX + _GAP_PX
    width = columns * (_CELL_PX + _GAP_PX) + len(clips) * 2 * _GAP_PX
    sheet = Image.new("RGB", (width, _HEAD_PX + len(photos) * row_px), "white")
    draw = ImageDraw.Draw(sheet)
    draw.text((_GAP_PX, 2), "photo", "black")
    group_px = len(FRAMES_SHOWN) * (_CELL_PX + _GAP_PX) + 2 * _GAP_PX
    for person, (photo, caption) in enumerate(zip(photos, captions, strict=True)):
        top = 2 * _HEAD_PX + person * row_px
        draw.text((_GAP_PX, top - _HEAD_PX + 2), caption, "black")
        _paste(sheet, photo, 0, top)
        for place, videos in enumerate(clips.values()):
            for number, frame in enumerate(FRAMES_SHOWN):
                left = _CELL_PX + 3 * _GAP_PX + place * group_px + number * (_CELL_PX + _GAP_PX)
                _paste(sheet, videos[person, frame], left, top)
    for place, variant in enumerate(clips):
        draw.text((_CELL_PX + 3 * _GAP_PX + place * group_px, 2), variant.replace("_", " "), "black")
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.quantize(256, dither=Image.Dither.NONE).save(path, optimize=True)


def _paste(sheet: Image.Image, picture: np.ndarray, left: int, top: int) -> None:
    image = Image.fromarray(picture).resize((_CELL_PX, _CELL_PX), Image.Resampling.BICUBIC)
    sheet.paste(image, (left, top))
