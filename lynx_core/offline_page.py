"""HTML pages that need no network: their look, histograms as SVG, pictures inside the file, cards of pairs."""

from __future__ import annotations

import base64
import io
import math
from typing import Any

import numpy as np

NUM_BINS = 40
COLOURS = ("#2563eb", "#d97706", "#059669", "#9333ea")
_WIDTH, _HEIGHT, _FLOOR, _EDGE = 640, 180, 150, 20

STYLE = """:root { color-scheme: light dark; --line: light-dark(#d8dde3, #3a414a); --soft: light-dark(#5b6672, #a3adb8);
  --card: light-dark(#ffffff, #1d2228); --page: light-dark(#f4f6f8, #14181d); --text: light-dark(#1b2127, #e8ebee); }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--text); font: 15px/1.5 system-ui, sans-serif; }
main { max-width: 1180px; margin: 0 auto; padding: 24px 20px 64px; }
h1 { font-size: 26px; margin: 0 0 4px; } h2 { font-size: 19px; margin: 40px 0 12px; } h3 { font-size: 15px; margin: 0 0 8px; }
p { margin: 0 0 10px; } .soft { color: var(--soft); }
.figures { display: grid; grid-template-columns: repeat(auto-fit, minmax(150px, 1fr)); gap: 12px; margin: 20px 0; }
.card { background: var(--card); border: 1px solid var(--line); border-radius: 10px; padding: 14px 16px; min-width: 0; }
.figure b { display: block; font-size: 24px; line-height: 1.2; font-variant-numeric: tabular-nums; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: 5px 14px 5px 0; border-top: 1px solid var(--line); vertical-align: top; }
td.soft { overflow-wrap: anywhere; min-width: 240px; } td.name { white-space: nowrap; }
tr:first-child th, tr:first-child td { border-top: 0; } th { font-weight: 600; } .number { text-align: right; white-space: nowrap; }
.scroll, .two > .card { overflow-x: auto; }
.two { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 440px), 1fr)); gap: 12px; }
svg { width: 100%; height: auto; display: block; } svg text { font: 12px system-ui, sans-serif; fill: var(--soft); }
svg line { stroke: var(--text); stroke-dasharray: 4 3; } svg line.floor { stroke: var(--line); stroke-dasharray: none; }
.legend span { margin-right: 14px; white-space: nowrap; } .legend i { display: inline-block; width: 11px; height: 11px; border-radius: 3px; margin-right: 5px; }
.people { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 340px), 1fr)); gap: 12px; }
.faces { display: flex; flex-wrap: wrap; gap: 5px; } .faces img { width: 60px; height: 60px; border-radius: 6px; object-fit: cover; }
.pairs { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 270px), 1fr)); gap: 12px; }
.pair .row { display: flex; gap: 6px; align-items: center; height: 132px; }
.pair .row img { max-height: 132px; min-width: 0; max-width: 50%; border-radius: 6px; object-fit: contain; }
.pair .row img + img { margin-left: auto; }
th { overflow-wrap: anywhere; }
.pair p { margin: 8px 0 0; font-size: 13px; overflow-wrap: anywhere; }
.tag { display: inline-block; border: 1px solid var(--line); border-radius: 99px; padding: 0 9px; font-size: 12px; margin: 0 4px 4px 0; }
.warn { color: light-dark(#9a3412, #fdba74); }
"""

MACROS = """{% macro show(pair) %}
<div class="card pair">
<div class="row">{% for picture in pair.references %}<img src="{{ picture }}" alt="reference of {{ pair.person }}">{% endfor %}<img src="{{ pair.target }}" alt="target"></div>
<p>{% if pair.similarity is not none %}<span class="tag">{{ '%.3f'|format(pair.similarity) }}</span>{% endif %}<span class="tag">{{ pair.raw_kind }}</span>{% if pair.augmenter %}<span class="tag">{{ pair.augmenter }}</span>{% endif %}{% if pair.split == 'heldout' %}<span class="tag">held out</span>{% endif %}</p>
<p>{{ pair.person }}: {{ pair.caption }}</p>
<p class="soft">{{ pair.path.replace('\\\\', '/').split('/')[-1] }}{% if pair.frames %}, frames {{ pair.frames[0] }}–{{ pair.frames[1] - 1 }}{% endif %}</p>
</div>
{% endmacro %}
{% macro chart(histogram) %}
<div class="card"><h3>{{ histogram.title }}</h3>{{ histogram.svg|safe }}
<p class="legend">{% for name, colour, count in histogram.legend %}<span><i style="background: {{ colour }}"></i>{{ name }} ({{ count }})</span>{% endfor %}</p></div>
{% endmacro %}
"""
"""`show(pair)` and `chart(histogram)`, for every template."""


def render(template: str, values: dict[str, Any]) -> str:
    """The HTML of a template; every text of a user is escaped.

    Args:
        values: of the template; those under `histograms` are of `make_histogram`.
    """
    from jinja2 import Environment

    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    drawn = [
        {"title": h["title"], "svg": draw_histogram(h), "legend": _legend(h)} for h in values["histograms"]
    ]
    return environment.from_string(MACROS + template).render(
        **{**values, "histograms": drawn, "style": STYLE}
    )


def encode_picture(pixels: np.ndarray) -> str:
    """A picture [H, W, 3] uint8 RGB as a data URL."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=80, subsampling=0)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


def make_histogram(title: str, series: dict[str, list[float]], lines: dict[str, float]) -> dict[str, Any]:
    """Counts of several series over common bins, with named lines. Bins of whole numbers are around whole numbers."""
    values = [value for some in series.values() for value in some] + list(lines.values())
    low, high = (min(values), max(values)) if values else (0.0, 1.0)
    if values and all(float(value).is_integer() for value in values):
        step = int(high - low) // NUM_BINS + 1
        edges = low + step * (np.arange(math.ceil((high - low) / step) + 2) - 0.5)
        ticks = np.unique(np.linspace(low, high, 6).round())
    else:
        margin = max((high - low) * 0.05, 0.005)
        edges = np.linspace(low - margin, high + margin, NUM_BINS + 1)
        ticks = np.linspace(edges[0], edges[-1], 6)
    return {
        "title": title,
        "low": float(edges[0]),
        "high": float(edges[-1]),
        "ticks": ticks.tolist(),
        "series": {name: np.histogram(some, edges)[0].tolist() for name, some in series.items() if some},
        "lines": lines,
    }


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
    ticks = histogram.get("ticks") or np.linspace(low, low + span, 6).tolist()  # older pages have none
    are_whole = span > 30 or all(float(tick).is_integer() for tick in ticks)
    digits = 0 if are_whole else 2 if span > 0.3 else 3
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
    for tick in ticks:
        x = (tick - low) / span * _WIDTH
        anchor = "start" if x < _EDGE else "end" if x > _WIDTH - _EDGE else "middle"
        parts.append(f'<text x="{x:.0f}" y="{_FLOOR + 18}" text-anchor="{anchor}">{tick:.{digits}f}</text>')
    for name, value in histogram["lines"].items():
        x = (value - low) / span * _WIDTH
        anchor = "end" if x > _WIDTH / 2 else "start"
        shift = -5 if anchor == "end" else 5
        parts.append(f'<line x1="{x:.1f}" x2="{x:.1f}" y1="0" y2="{_FLOOR}"/>')
        parts.append(f'<text x="{x + shift:.1f}" y="12" text-anchor="{anchor}">{name} {value:.3f}</text>')
    parts.append(f'<line class="floor" x1="0" x2="{_WIDTH}" y1="{_FLOOR}" y2="{_FLOOR}"/></svg>')
    return "".join(parts)
