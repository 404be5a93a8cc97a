"""The report's plots as SVG, which needs no network and no script in the page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import altair
import vl_convert

from .statistics import Interval


@dataclass(frozen=True)
class Point:
    """A method in the plane of likeness and editability."""

    label: str
    editability: Interval
    likeness: Interval
    published: bool = False


def draw_likeness_editability(points: Sequence[Point], x_title: str, y_title: str) -> str:
    """Likeness against editability, intervals as bars; published points are hollow and have none. SVG text."""
    rows = [
        {
            "method": point.label,
            "kind": "published" if point.published else "measured here",
            "x": point.editability.mean,
            "y": point.likeness.mean,
            "x_low": point.editability.low,
            "x_high": point.editability.high,
            "y_low": point.likeness.low,
            "y_high": point.likeness.high,
        }
        for point in points
    ]
    ours = [row for row in rows if row["kind"] == "measured here"]
    low = _find_low_labels(points)
    labels = [
        [row for number, row in enumerate(rows) if (number in low) == is_low] for is_low in (False, True)
    ]
    x = altair.X("x:Q", title=x_title, scale=altair.Scale(zero=False, nice=True, padding=20))
    y = altair.Y("y:Q", title=y_title, scale=altair.Scale(zero=False, nice=True, padding=20))
    colour = altair.Color(
        "kind:N",
        title=None,
        scale=altair.Scale(domain=["measured here", "published"], range=["#2f6fed", "#8a8f98"]),
        legend=altair.Legend(orient="bottom"),
    )
    base = altair.Chart(altair.Data(values=rows)).encode(x=x, y=y)
    bars = altair.Chart(altair.Data(values=ours)).encode(color=colour)
    layers = [
        bars.mark_rule(opacity=0.6).encode(x="x_low:Q", x2="x_high:Q", y="y:Q"),
        bars.mark_rule(opacity=0.6).encode(y="y_low:Q", y2="y_high:Q", x="x:Q"),
        base.mark_point(size=80, filled=True, opacity=1).encode(
            color=colour, shape=altair.Shape("kind:N", legend=None)
        ),
        *(
            altair.Chart(altair.Data(values=some))
            .mark_text(align="left", dx=8, dy=dy, fontSize=11)
            .encode(x=x, y=y, text="method:N", color=colour)
            for some, dy in zip(labels, (-7, 13), strict=True)
        ),
    ]
    chart = altair.layer(*layers).properties(width=620, height=360, background="white")
    return str(vl_convert.vegalite_to_svg(chart.to_json()))


def _find_low_labels(points: Sequence[Point]) -> set[int]:
    """Places of the points whose label stands below, since that of a near point stands above."""
    wide, high = (
        max(values) - min(values) if values else 0.0
        for values in ([p.editability.mean for p in points], [p.likeness.mean for p in points])
    )
    low: set[int] = set()
    for number, point in enumerate(points):
        above = (points[other] for other in range(number) if other not in low)
        if any(
            abs(point.likeness.mean - other.likeness.mean) < 0.05 * high
            and abs(point.editability.mean - other.editability.mean) < 0.25 * wide
            for other in above
        ):
            low.add(number)
    return low
