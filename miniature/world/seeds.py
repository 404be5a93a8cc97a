"""Random numbers that depend on a name and numbers alone."""

from __future__ import annotations

import zlib

import numpy as np


def make_generator(purpose: str, *numbers: int) -> np.random.Generator:
    """A generator for one purpose; equal arguments give equal draws on every machine."""
    return np.random.Generator(np.random.PCG64([zlib.crc32(purpose.encode()), *numbers]))
