"""A line that says how far long work has come, how fast it goes and how long it will take.

It shows with the first item. At a terminal the line is rewritten; else a new one comes every few seconds,
so that a log stays readable.
"""

from __future__ import annotations

import sys
import time
from collections import deque
from typing import TextIO

_LOG_EVERY_S, _TERMINAL_EVERY_S = 5.0, 0.2
_WINDOW_S = 60.0
"""The rate is that of the last minute: what was found in the cache at the start says nothing of the rest."""


class ProgressLine:
    """Shows the stages of some work, one after the other.

    Args:
        stream: where to; standard error when None.
    """

    def __init__(self, stream: TextIO | None = None) -> None:
        self.stream = stream or sys.stderr
        self.is_terminal = self.stream.isatty()
        self._stage = ""
        self._shown_at = 0.0
        self._past: deque[tuple[float, int]] = deque()

    def show(self, stage: str, done: int, total: int) -> None:
        """Take a count; a line is written when one is due."""
        now = time.monotonic()
        if stage != self._stage:
            self._stage = stage
            self._past.clear()
        self._past.append((now, done))
        while len(self._past) > 2 and now - self._past[1][0] > _WINDOW_S:
            self._past.popleft()
        every = _TERMINAL_EVERY_S if self.is_terminal else _LOG_EVERY_S
        is_last = done == total
        if done > 1 and not is_last and now - self._shown_at < every:
            return
        self._shown_at = now
        text = f"{stage}: {done} of {total}{self._rate(total)}"
        if self.is_terminal:
            self.stream.write(f"\r\x1b[K{text}" + ("\n" if is_last else ""))
        else:
            self.stream.write(text + "\n")
        self.stream.flush()

    def _rate(self, total: int) -> str:
        (then, before), (now, done) = self._past[0], self._past[-1]
        if done <= before or now <= then:
            return ""
        seconds = (now - then) / (done - before)
        rate = f", {1 / seconds:.1f}/s" if seconds < 1 else f", {seconds:.1f} s each"
        return rate + (f", {format_duration(seconds * (total - done))} left" if done < total else "")


def format_duration(seconds: float) -> str:
    """As 3d04h, 2h05m or 45s."""
    minutes, whole_seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days}d{hours:02d}h"
    if hours:
        return f"{hours}h{minutes:02d}m"
    return f"{minutes}m{whole_seconds:02d}s" if minutes else f"{whole_seconds}s"
