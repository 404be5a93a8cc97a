"""The page to look at: one HTML file with everything in it, which needs no network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..durable_file import write_durably
from ..foreign_text import parse_json
from .files import write_json
from .manifests import PAGE_DATA_NAME, PAGE_NAME
from .page_template import CALIBRATION_TEMPLATE, STYLE, TEMPLATE

COLOURS = ("#2563eb", "#d97706", "#059669", "#9333ea")
_WIDTH, _HEIGHT, _FLOOR = 640, 180, 150


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
    from jinja2 import Environment

    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    drawn = [
        {"title": h["title"], "svg": draw_histogram(h), "legend": _legend(h)} for h in data["histograms"]
    ]
    return environment.from_string(TEMPLATE).render(**{**data, "histograms": drawn, "style": STYLE})


def render_calibration(calibration: dict[str, Any]) -> str:
    """The HTML of a calibration: its two histograms and figures."""
    from jinja2 import Environment

    histogram = calibration["histogram"]
    drawn = {"svg": draw_histogram(histogram), "legend": _legend(histogram)}
    template = Environment(autoescape=True).from_string(CALIBRATION_TEMPLATE)
    return template.render(**calibration, style=STYLE, drawn=drawn)


def _legend(histogram: dict[str, Any]) -> list[tuple[str, str, int]]:
    return [
        (name, COLOURS[number % len(COLOURS)], sum(counts))
        for number, (name, counts) in enumerate(histogram["series"].items())
    ]


def draw_histogram(histogram: dict[str, Any]) -> str:
    """A histogram as SVG: each series as a share of itself, so that few and many can be compared."""
    low, span = histogram["low"], max(histogram["high"] - histogram["low"], 1e-9)
    shares = {
        name: [count / max(sum(counts), 1) for count in counts]
        for name, counts in histogram["series"].items()
    }
    top = max((share for some in shares.values() for share in some), default=1.0) or 1.0
    digits = 2 if span > 0.3 else 3
    parts = [f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img">']
    for number, some in enumerate(shares.values()):
        wide = _WIDTH / len(some)
        for place, share in enumerate(some):
            high = share / top * (_FLOOR - 22)
            if high:
                parts.append(
                    f'<rect x="{place * wide:.1f}" y="{_FLOOR - high:.1f}" width="{wide - 1:.1f}" height="{high:.1f}" '
                    f'fill="{COLOURS[number % len(COLOURS)]}" opacity="0.6"/>'
                )
    for tick in range(6):
        x = tick / 5 * _WIDTH
        anchor = ("start", *["middle"] * 4, "end")[tick]
        parts.append(
            f'<text x="{x:.0f}" y="{_FLOOR + 18}" text-anchor="{anchor}">{low + tick / 5 * span:.{digits}f}</text>'
        )
    for name, value in histogram["lines"].items():
        x = (value - low) / span * _WIDTH
        anchor = "end" if x > _WIDTH / 2 else "start"
        shift = -5 if anchor == "end" else 5
        parts.append(f'<line x1="{x:.1f}" x2="{x:.1f}" y1="0" y2="{_FLOOR}"/>')
        parts.append(f'<text x="{x + shift:.1f}" y="12" text-anchor="{anchor}">{name} {value:.3f}</text>')
    parts.append(f'<line class="floor" x1="0" x2="{_WIDTH}" y1="{_FLOOR}" y2="{_FLOOR}"/></svg>')
    return "".join(parts)
