"""The one error that a refused adapter file raises."""

from __future__ import annotations

from ..spec import LynxError


class AdapterError(LynxError):
    """A file or a mix of files that cannot be used."""
