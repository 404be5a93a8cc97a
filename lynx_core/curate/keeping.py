"""Which looks at a face are kept, while footage of any length runs through: a bounded number of varied ones.

A slot is a turn of the head within a stretch of time; the best look of each slot stays. When there are too
many slots, stretches are doubled. At the end the looks that lie farthest apart are taken.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np

T = TypeVar("T")

_TURN_DEG = 15.0
_MAX_SLOTS = 48


@dataclass(frozen=True, eq=False)
class Look(Generic[T]):
    """Something seen at a time, with how good it is."""

    time_s: float
    yaw_deg: float
    pitch_deg: float
    goodness: float
    kept: T


class LookKeeper(Generic[T]):
    """Keeps looks of a track or views of a shot."""

    def __init__(self) -> None:
        self._stretch_s = 1.0
        self._slots: dict[tuple[int, int, int], Look[T]] = {}

    def wants(self, time_s: float, yaw_deg: float, pitch_deg: float, goodness: float) -> bool:
        """Whether a look would be kept, so that one need not make it in vain."""
        held = self._slots.get(self._slot(time_s, yaw_deg, pitch_deg))
        return held is None or goodness > held.goodness

    def add(self, look: Look[T]) -> None:
        """Take a look; only the best of each slot stays."""
        if self.wants(look.time_s, look.yaw_deg, look.pitch_deg, look.goodness):
            self._slots[self._slot(look.time_s, look.yaw_deg, look.pitch_deg)] = look
        while len(self._slots) > _MAX_SLOTS:
            self._stretch_s *= 2
            looks, self._slots = list(self._slots.values()), {}
            for other in looks:
                if self.wants(other.time_s, other.yaw_deg, other.pitch_deg, other.goodness):
                    self._slots[self._slot(other.time_s, other.yaw_deg, other.pitch_deg)] = other

    def choose(self, count: int) -> list[Look[T]]:
        """At most `count` looks: the best, then always the one farthest from those chosen; in order of time."""
        looks = sorted(self._slots.values(), key=lambda look: (-look.goodness, look.time_s))
        if not looks:
            return []
        span_s = max(look.time_s for look in looks) - min(look.time_s for look in looks)
        places = np.array(
            [[look.time_s / max(span_s, 1e-9), look.yaw_deg / 45, look.pitch_deg / 45] for look in looks]
        )
        chosen = [0]
        while len(chosen) < min(count, len(looks)):
            apart = np.linalg.norm(places[:, None] - places[chosen][None], axis=-1).min(1)
            chosen.append(int(apart.argmax()))
        return sorted((looks[number] for number in set(chosen)), key=lambda look: look.time_s)

    def _slot(self, time_s: float, yaw_deg: float, pitch_deg: float) -> tuple[int, int, int]:
        return int(time_s // self._stretch_s), round(yaw_deg / _TURN_DEG), round(pitch_deg / _TURN_DEG)
