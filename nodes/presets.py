"""How strongly, when, how deep and where an identity acts: curves and blocks as text, and presets for the known trouble.

Imports nothing of the host: the scripts that write workflows read the presets, too.
"""

from __future__ import annotations

import math
import re
from bisect import bisect_right
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

ALL_BLOCKS = "all"
MAX_STRENGTH = 10.0
"""Of either sign; the sliders show 0 to 2."""
CONSTANT = "constant"

BLOCK_SHARES: dict[str, tuple[float, float]] = {
    ALL_BLOCKS: (0.0, 1.0),
    "first half": (0.0, 0.5),
    "second half": (0.5, 1.0),
    "middle half": (0.25, 0.75),
}
"""Named ranges, as shares of the depth that the adapter reaches."""

CURVES: dict[str, tuple[tuple[float, float], ...]] = {
    CONSTANT: ((0.0, 1.0),),
    "ease in": ((0.0, 0.0), (0.25, 0.5), (0.5, 1.0)),
    "ease out": ((0.5, 1.0), (0.75, 0.5), (1.0, 0.0)),
    "weak middle": ((0.0, 1.0), (0.5, 0.3), (1.0, 1.0)),
    "weak ends": ((0.0, 0.3), (0.5, 1.0), (1.0, 0.3)),
}
"""Points (share of sampling, factor on the strength); straight lines between them, level beyond them."""

_NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)"


@dataclass(frozen=True)
class StrengthCurve:
    """A factor on the strength that changes over sampling.

    Raises:
        ValueError: for no points, points out of order or outside 0 to 1, and factors beyond -10 to 10.
    """

    points: tuple[tuple[float, float], ...]

    def __post_init__(self) -> None:
        if not self.points:
            raise ValueError("a curve needs at least one point")
        times = [time for time, _ in self.points]
        if any(not 0.0 <= time <= 1.0 for time in times):
            raise ValueError(
                f"the points of a curve lie between 0 and 1, got {', '.join(f'{t:g}' for t in times)}"
            )
        if any(later <= earlier for earlier, later in pairwise(times)):
            raise ValueError(
                f"the points of a curve rise from 0 to 1, each later than the one before, got "
                f"{', '.join(f'{t:g}' for t in times)}"
            )
        if any(not -10.0 <= factor <= 10.0 for _, factor in self.points):
            raise ValueError("the factors of a curve lie between -10 and 10")

    def at(self, percent: float) -> float:
        """Give the factor at a share of sampling, 0 to 1."""
        times = [time for time, _ in self.points]
        after = bisect_right(times, percent)
        if after == 0 or after == len(times):
            return self.points[max(after - 1, 0)][1]
        (start, low), (end, high) = self.points[after - 1 : after + 1]
        return low + (high - low) * (percent - start) / (end - start)

    @property
    def is_constant(self) -> bool:
        return all(factor == 1.0 for _, factor in self.points)


def parse_curve(text: str) -> StrengthCurve:
    """Read the name of a curve, or points such as '0:1, 0.5:0.3, 1:1'.

    Raises:
        ValueError: naming the part that is no point.
    """
    name = text.strip().lower()
    if name in CURVES:
        return StrengthCurve(CURVES[name])
    points = []
    for part in text.split(","):
        match = re.fullmatch(rf"\s*({_NUMBER})\s*:\s*({_NUMBER})\s*", part)
        if match is None:
            raise ValueError(
                f"curve {text!r}: {part.strip()!r} is no point; write points such as '0:1, 0.5:0.3, 1:1' (share of sampling : "
                f"factor), or one of {', '.join(map(repr, CURVES))} alone"
            )
        points.append((float(match[1]), float(match[2])))
    try:
        return StrengthCurve(tuple(points))
    except ValueError as error:
        raise ValueError(f"curve {text!r}: {error}") from error


@dataclass(frozen=True)
class BlockRange:
    """Blocks `first` to `last`, both included, and the factor on the strength in them."""

    first: int
    last: int
    weight: float = 1.0

    def holds(self, block: int, depth: int) -> bool:
        return self.first <= block <= self.last


@dataclass(frozen=True)
class NamedRange:
    """A share of the depth that the adapter reaches, and the factor on the strength in it."""

    name: str
    """Of `BLOCK_SHARES`."""
    weight: float = 1.0

    def holds(self, block: int, depth: int) -> bool:
        start, end = BLOCK_SHARES[self.name]
        return int(start * depth) <= block < int(end * depth)


def parse_blocks(text: str) -> tuple[BlockRange | NamedRange, ...]:
    """Read '0-9, 20:0.5, second half' as ranges.

    Raises:
        ValueError: naming the part that is neither a number nor a range nor a name.
    """
    ranges: list[BlockRange | NamedRange] = []
    for part in text.split(","):
        match = re.fullmatch(
            rf"\s*(?:(\d+)\s*(?:-\s*(\d+)\s*)?|([a-z ]+?)\s*)(?::\s*({_NUMBER})\s*)?", part.lower()
        )
        first, last, name, weight = match.groups() if match else (None, None, None, None)
        factor = float(weight or 1.0)
        if name in BLOCK_SHARES and -MAX_STRENGTH <= factor <= MAX_STRENGTH:
            ranges.append(NamedRange(name, factor))
        elif first and int(first) <= int(last or first) and -MAX_STRENGTH <= factor <= MAX_STRENGTH:
            ranges.append(BlockRange(int(first), int(last or first), factor))
        else:
            raise ValueError(
                f"blocks {text!r}: {part.strip()!r} is no block number or range; write for example '0-9, 20, 30-39', "
                f"'0-20:1, 25:0.5' (a weight of -10 to 10 behind the colon), or {', '.join(map(repr, BLOCK_SHARES))}"
            )
    return tuple(ranges)


def weigh_blocks(text: str, available: tuple[int, ...]) -> dict[int, float]:
    """Give the weight of each block that is chosen, of those that an adapter has layers in.

    The last range that holds a block counts. A weight of 0 leaves the block out.

    Raises:
        ValueError: when the text cannot be read, or chooses none of them.
    """
    ranges, depth = parse_blocks(text), available[-1] + 1
    found = {block: [part.weight for part in ranges if part.holds(block, depth)] for block in available}
    chosen = {block: weights[-1] for block, weights in found.items() if weights}
    if not chosen:
        raise ValueError(
            f"blocks {text!r} holds none of the blocks this adapter acts in ({available[0]} to {available[-1]}): write "
            f"for example 'all' or '{available[0]}-{available[-1]}'"
        )
    if not any(chosen.values()):
        raise ValueError(
            f"blocks {text!r} gives the weight 0 to every block that it chooses, so nothing would act: give a block another "
            "weight, or set the strength to 0 to leave this part out"
        )
    return {block: weight for block, weight in chosen.items() if weight}


@dataclass(frozen=True)
class PartSettings:
    """How one adapter part acts.

    Raises:
        ValueError: when a value is out of range or the window is empty.
    """

    strength: float = 1.0
    start_percent: float = 0.0
    end_percent: float = 1.0
    blocks: str = ALL_BLOCKS
    curve: str = CONSTANT

    def __post_init__(self) -> None:
        if not -MAX_STRENGTH <= self.strength <= MAX_STRENGTH:
            raise ValueError(
                f"strength must be between -{MAX_STRENGTH:g} and {MAX_STRENGTH:g}, got {self.strength:g}"
            )
        if not 0.0 <= self.start_percent <= self.end_percent <= 1.0:
            raise ValueError(
                f"the window must lie within 0 and 1 and start before it ends, got start {self.start_percent:g}, "
                f"end {self.end_percent:g}"
            )
        parse_blocks(self.blocks)
        parse_curve(self.curve)

    def weigh_blocks(self, available: tuple[int, ...], part_name: str) -> dict[int, float]:
        """Weigh the blocks that the adapter has layers in.

        Raises:
            ValueError: when none of them is chosen; the message begins with `part_name`.
        """
        try:
            return weigh_blocks(self.blocks, available)
        except ValueError as error:
            raise ValueError(f"{part_name}: {error}") from error


PART_NAMES = {"id": "ID", "ref": "reference"}
"""Adapter part to what messages call it; the part is also the first half of its widgets' names."""

WIDGET_FIELDS = {
    "strength": "strength",
    "start": "start_percent",
    "end": "end_percent",
    "blocks": "blocks",
    "curve": "curve",
}
"""Second half of a widget's name to the field of `PartSettings` that it sets."""

READERS: dict[str, Callable[[str], object]] = {"blocks": parse_blocks, "curve": parse_curve}
"""Second half of the name of a widget that holds text to what reads it."""


@dataclass(frozen=True)
class IdentitySettings:
    """How an identity acts: who the person is, and what the person looks like."""

    id: PartSettings
    ref: PartSettings

    def list_widgets(self) -> dict[str, float | str]:
        """The values of LynxApply's widgets, by name, that show these settings."""
        return {
            f"{part}_{widget}": getattr(getattr(self, part), name)
            for part in PART_NAMES
            for widget, name in WIDGET_FIELDS.items()
        }


CUSTOM = "custom"

PRESETS: dict[str, IdentitySettings] = {
    "as published": IdentitySettings(PartSettings(1.0), PartSettings(1.0)),
    "softer reference": IdentitySettings(PartSettings(1.0), PartSettings(0.6, 0.1, 0.8)),
    "more likeness": IdentitySettings(PartSettings(1.2), PartSettings(1.1)),
    "more motion": IdentitySettings(PartSettings(1.0, 0.05), PartSettings(0.75, 0.2, 1.0)),
    "distilled LoRA at cfg 1": IdentitySettings(PartSettings(1.0), PartSettings(0.7)),
    "lite ID + full reference": IdentitySettings(PartSettings(0.7), PartSettings(0.6)),
}
"""Starting points; only 'as published' has figures behind it. A preset fills the widgets, and acts in no other way.

'distilled LoRA at cfg 1' is what people use on 14B. On the miniature its 0.7 helps where the reference is encoded through
the LoRA, and costs 2 % of the likeness where it is not.
"""

FORMER_PRESETS = {"reference overpowers": "softer reference"}
"""What a preset was called in graphs of earlier versions -> its name. They keep working."""


def name_preset(preset: str) -> str:
    """Give the name that a preset has now.

    Raises:
        ValueError: when there is no such preset.
    """
    name = FORMER_PRESETS.get(preset, preset)
    if name not in (CUSTOM, *PRESETS):
        raise ValueError(f"preset {preset!r} is none of: {', '.join([CUSTOM, *PRESETS])}")
    return name


def read_settings(preset: str, widgets: Mapping[str, Any]) -> tuple[IdentitySettings, list[str]]:
    """Read the settings from the values at the node, whatever preset they came from.

    Only where a part's values cannot be used at all, those of the preset take their place.

    Args:
        preset: name of a preset, or `CUSTOM`.
        widgets: value of each widget or of what is linked to it, by name as in `list_widgets`.

    Returns:
        The settings, and a remark on everything in which they are not what the preset's name promises.

    Raises:
        ValueError: when there is no such preset, and when a value cannot be used and no preset is set; the message
            names the part then.
    """
    preset = name_preset(preset)
    shown = PRESETS.get(preset)
    parts, remarks = {}, []
    for part, part_name in PART_NAMES.items():
        fields = {name: widgets[f"{part}_{widget}"] for widget, name in WIDGET_FIELDS.items()}
        try:
            parts[part] = PartSettings(**fields)
        except ValueError as error:
            if shown is None:
                raise ValueError(f"{part_name}: {error}") from error
            parts[part] = getattr(shown, part)
            remarks.append(
                f"{part_name}: {error}. The preset '{preset}' is used for the {part_name} in its place."
            )
    settings = IdentitySettings(**parts)
    if shown is not None:
        expected = shown.list_widgets()
        differing = [
            f"{name} is {format_value(value)} (preset: {format_value(expected[name])})"
            for name, value in settings.list_widgets().items()
            if not is_same(name, value, expected[name])
        ]
        if differing:
            remarks.append(f"Not as in the preset '{preset}', the values here count: {', '.join(differing)}.")
    return settings, remarks


def is_same(widget: str, value: float | str, other: float | str) -> bool:
    """Whether two values of a widget mean the same: 'all' and 'ALL', 0.6 and what a browser makes of it."""
    read = READERS.get(widget.rpartition("_")[2])
    if read is not None:
        return read(str(value)) == read(str(other))
    return math.isclose(float(value), float(other), abs_tol=1e-6)


def format_value(value: float | str) -> str:
    return repr(value) if isinstance(value, str) else f"{value:g}"
