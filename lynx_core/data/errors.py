"""What can be wrong with data: one file, whose sample is quarantined, or the run's own files, which stop it."""

from __future__ import annotations

from pathlib import Path

from ..spec import LynxError, first_line

__all__ = ["DataError", "MediaError", "first_line"]


class DataError(LynxError):
    """Data that a run cannot use: the message names the thing, the value seen and the way out."""


class MediaError(DataError):
    """One file that cannot be used. The sample is quarantined and counted; the run continues."""

    def __init__(self, path: Path | str, reason: str, detail: str) -> None:
        super().__init__(f"{path}: {reason} ({detail})")
        self.path = Path(path)
        self.reason = reason
        """In few words, without figures, so that equal reasons are counted together."""
        self.detail = detail

    def at(self, path: Path) -> MediaError:
        """The same fault in another copy of the file."""
        return MediaError(path, self.reason, self.detail)
