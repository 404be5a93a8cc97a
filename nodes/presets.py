"""How strongly, when and where an identity acts, with settings for the known trouble."""

from __future__ import annotations

import re
from dataclasses import dataclass

ALL_BLOCKS = "all"


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

    def __post_init__(self) -> None:
        if not -10.0 <= self.strength <= 10.0:
            raise ValueError(f"strength must be between -10 and 10, got {self.strength}")
        if not 0.0 <= self.start_percent <= self.end_percent <= 1.0:
            raise ValueError(
                f"the window must lie within 0 and 1 and start before it ends, got start {self.start_percent}, "
                f"end {self.end_percent}"
            )
        parse_blocks(self.blocks)

    def choose_blocks(self, available: tuple[int, ...]) -> frozenset[int]:
        """Choose from the blocks that the adapter has layers for.

        Raises:
            ValueError: when none of them is chosen.
        """
        chosen = frozenset(
            b for b in available if any(first <= b <= last for first, last in parse_blocks(self.blocks))
        )
        if not chosen:
            raise ValueError(
                f"blocks {self.blocks!r} holds none of the blocks this adapter acts in "
                f"({available[0]} to {available[-1]}): write for example 'all' or '{available[0]}-{available[-1]}'"
            )
        return chosen


def parse_blocks(text: str) -> list[tuple[int, int]]:
    """Read 'all' or '0-9, 20, 30-39' as ranges with both ends in.

    Raises:
        ValueError: naming the part that is neither a number nor a range.
    """
    if text.strip().lower() == ALL_BLOCKS:
        return [(0, 10**6)]
    ranges = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d+)\s*(?:-\s*(\d+)\s*)?", part)
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (1, 0)
        if first > last:
            raise ValueError(
                f"blocks {text!r}: {part.strip()!r} is no block number or range; write for example '0-9, 20, 30-39', or 'all'"
            )
        ranges.append((first, last))
    return ranges


@dataclass(frozen=True)
class IdentitySettings:
    """How an identity acts: who the person is, and what the person looks like."""

    id: PartSettings
    ref: PartSettings

    def list_widgets(self) -> dict[str, float | str]:
        """The values of LynxApply's widgets, by name, that show these settings."""
        return {
            f"{part}_{name}": value
            for part, settings in (("id", self.id), ("ref", self.ref))
            for name, value in (
                ("strength", settings.strength),
                ("start", settings.start_percent),
                ("end", settings.end_percent),
                ("blocks", settings.blocks),
            )
        }


CUSTOM = "custom"

PRESETS: dict[str, IdentitySettings] = {
    "as published": IdentitySettings(PartSettings(1.0), PartSettings(1.0)),
    "reference overpowers": IdentitySettings(PartSettings(1.0), PartSettings(0.6, 0.1, 0.8)),
    "more likeness": IdentitySettings(PartSettings(1.2), PartSettings(1.1)),
    "more motion": IdentitySettings(PartSettings(1.0, 0.05), PartSettings(0.75, 0.2, 1.0)),
    "distilled LoRA at cfg 1": IdentitySettings(PartSettings(1.0), PartSettings(0.7)),
}
"""Starting points; only 'as published' has figures behind it."""


def choose_settings(preset: str, custom: IdentitySettings) -> IdentitySettings:
    """Take a preset, or the node's own values.

    Raises:
        ValueError: when there is no such preset.
    """
    if preset == CUSTOM:
        return custom
    if preset not in PRESETS:
        raise ValueError(f"no preset {preset!r}: there are {', '.join([CUSTOM, *PRESETS])}")
    return PRESETS[preset]
