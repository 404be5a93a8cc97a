"""Checks of the values in a configuration, all of a section told together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, get_args

from ..spec import LynxError


class ConfigurationError(LynxError):
    """A configuration that cannot run; names each key, the value seen, and the way out."""

    def __init__(self, *problems: str) -> None:
        super().__init__(list_problems(problems))
        self.problems = problems


def list_problems(problems: Sequence[str]) -> str:
    """One problem as it is, several as a numbered list."""
    if len(problems) == 1:
        return problems[0]
    lines = (f"\n  {number}. {problem}" for number, problem in enumerate(problems, start=1))
    return f"{len(problems)} problems keep the run from starting:{''.join(lines)}"


class SettingChecks:
    """Collects all wrong values of a section; at the end of its `with` they are refused together."""

    def __init__(self) -> None:
        self._problems: list[str] = []

    def __enter__(self) -> SettingChecks:
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        if kind is None and self._problems:
            raise ConfigurationError(*self._problems)

    def value(self, is_right: bool, key: str, value: Any, meaning: str) -> None:
        if not is_right:
            self._problems.append(f"{key} is {meaning}, got {value!r}")

    def choice(self, key: str, value: Any, choices: Any) -> None:
        self.value(value in get_args(choices), key, value, f"one of {', '.join(get_args(choices))}")

    def share(self, key: str, value: float) -> None:
        self.value(0 <= value <= 1, key, value, "a share from 0 to 1")
