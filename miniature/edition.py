"""Which Mini Lynx is drawn and made: the one that ships, of 64 px, or its successor of 128 px.

The successor is made in stretches, on whatever machine there is: `LYNX_MINI_EDITION=128 python -m miniature.make`.
What is finished of it lies in assets/mini_128, from where the making continues.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

VARIABLE = "LYNX_MINI_EDITION"


@dataclass(frozen=True)
class Edition:
    """The size of the pictures, and what the world can tell."""

    name: str
    frame_px: int
    """Side of a frame; a frame of two people is twice as wide."""
    num_frames: int
    """Of a clip."""
    num_blocks: int
    """Of the base."""
    has_duos: bool
    """Whether the base learns wide frames of two people, and captions that are long or name the clothes."""
    folder: str
    """Of what is under way."""
    assets: str
    """Of what is finished, within assets."""
    adapter_config: str
    """Within configs."""


EDITIONS = {
    "64": Edition("64", 64, 9, 5, False, ".miniature", "mini", "mini_lynx.toml"),
    "128": Edition("128", 128, 17, 7, True, ".miniature_128", "mini_128", "mini_lynx_128.toml"),
}


def choose_edition() -> Edition:
    """The edition of this process, by the environment.

    Raises:
        ValueError: when there is none of that name.
    """
    name = os.environ.get(VARIABLE, "64")
    if name not in EDITIONS:
        raise ValueError(f"{VARIABLE} is {name!r}; the editions are {', '.join(EDITIONS)}")
    return EDITIONS[name]


EDITION = choose_edition()
