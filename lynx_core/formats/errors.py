"""The one error that a refused adapter file raises."""

from __future__ import annotations


class AdapterError(ValueError):
    """A file or a mix of files that cannot be used; says which, what was seen, and the way out."""
