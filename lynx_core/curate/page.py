"""The page to look at: one HTML file with everything in it, which needs no network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..durable_file import write_durably
from ..foreign_text import parse_json
from ..offline_page import render
from .files import write_json
from .manifests import PAGE_DATA_NAME, PAGE_NAME
from .page_template import CALIBRATION_TEMPLATE, TEMPLATE


def write_page(output: Path, data: dict[str, Any]) -> None:
    """Write the page, and beside it the values it is made of."""
    write_json(output / PAGE_DATA_NAME, data)
    write_durably(output / PAGE_NAME, render_page(data).encode("utf-8"))


def read_page_data(output: Path) -> dict[str, Any] | None:
    """The values of a page; None when there is none."""
    path = output / PAGE_DATA_NAME
    return parse_json(path.read_text(encoding="utf-8")) if path.is_file() else None


def render_page(data: dict[str, Any]) -> str:
    """The HTML of a page; every text of a user is escaped."""
    return render(TEMPLATE, data)


def render_calibration(calibration: dict[str, Any]) -> str:
    """The HTML of a calibration: its two histograms and figures."""
    return render(CALIBRATION_TEMPLATE, {**calibration, "histograms": [calibration["histogram"]]})
