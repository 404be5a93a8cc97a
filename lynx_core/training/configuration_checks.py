"""Checks of configured values, and the error that names key, value and way out."""

from __future__ import annotations

from typing import Any, get_args


class ConfigurationError(ValueError):
    """A configuration that cannot run; names the key, the value seen, and the way out."""


def check(is_right: bool, key: str, value: Any, meaning: str) -> None:
    if not is_right:
        raise ConfigurationError(f"{key} is {meaning}, got {value!r}")


def check_choice(key: str, value: Any, choices: Any) -> None:
    check(value in get_args(choices), key, value, f"one of {', '.join(get_args(choices))}")


def check_share(key: str, value: float) -> None:
    check(0 <= value <= 1, key, value, "a share from 0 to 1")
