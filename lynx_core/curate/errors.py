"""The error that stops a curation; what concerns one file is a rejection and stops nothing."""

from __future__ import annotations

from ..spec import LynxError


class CurationError(LynxError):
    """A curation that cannot go on: the message names the thing, the value seen and the way out."""

    def __init__(self, *problems: str) -> None:
        super().__init__("\n".join(problems))
        self.problems = list(problems)


class Checks:
    """Collects what is wrong with a section, so that all of it is said at once.

    Args:
        section: name before each key.
    """

    def __init__(self, section: str) -> None:
        self.section = section
        self.problems: list[str] = []

    def __enter__(self) -> Checks:
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        if kind is None and self.problems:
            raise CurationError(*self.problems)

    def value(self, holds: bool, key: str, seen: object, wanted: str) -> None:
        """Note a value that does not hold."""
        if not holds:
            self.problems.append(f"{self.section}.{key} is {wanted}, got {seen!r}")

    def choice(self, key: str, seen: str, choices: tuple[str, ...]) -> None:
        """Note a word that is none of the choices."""
        self.value(seen in choices, key, seen, f"one of {', '.join(choices)}")
