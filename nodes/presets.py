"""How strongly, when and where an identity acts, with settings for the known trouble."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from .strengths import ALL_BLOCKS, CONSTANT, parse_blocks, parse_curve, weigh_blocks


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
        if not -10.0 <= self.strength <= 10.0:
            raise ValueError(f"strength must be between -10 and 10, got {self.strength}")
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
    "reference overpowers": IdentitySettings(PartSettings(1.0), PartSettings(0.6, 0.1, 0.8)),
    "more likeness": IdentitySettings(PartSettings(1.2), PartSettings(1.1)),
    "more motion": IdentitySettings(PartSettings(1.0, 0.05), PartSettings(0.75, 0.2, 1.0)),
    "distilled LoRA at cfg 1": IdentitySettings(PartSettings(1.0), PartSettings(0.7)),
}
"""Starting points; only 'as published' has figures behind it. A preset fills the widgets, and acts in no other way."""


def read_settings(preset: str, widgets: Mapping[str, Any]) -> tuple[IdentitySettings, list[str]]:
    """Read the settings from the values at the node, whatever preset they came from.

    Only where a part's values cannot be used at all, those of the preset take their place.

    Args:
        preset: name of a preset, or `CUSTOM`.
        widgets: value of each widget or of what is linked to it, by name as in `list_widgets`.

    Returns:
        The settings, and a remark on everything in which they are not what the preset's name promises.

    Raises:
        ValueError: when a value cannot be used and no preset is set; the message names the part.
    """
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
