"""The media matrix: made with ffmpeg, decoded here, and held beside ffmpeg's own pixels.

`LYNX_MEDIA=all pytest tests/media` runs every case; without it the first of each kind.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import media_cases
import media_looks
import pytest
from media_expectations import Case
from media_files import encode

pytestmark = pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="the command ffmpeg is not installed")


CASES = [*media_cases.CASES, *media_looks.CASES]


def choose_cases() -> list[Case]:
    """All, or the first of each kind."""
    if os.environ.get("LYNX_MEDIA") == "all":
        return CASES
    return list({case.kind: case for case in reversed(CASES)}.values())[::-1]


@pytest.mark.parametrize("case", choose_cases(), ids=str)
def test_media(case: Case, tmp_path: Path) -> None:
    if case.kind == "list":
        encode("-c:v libx264 -pix_fmt yuv420p")(tmp_path / "named.mp4")
    path = tmp_path / case.name
    case.make(path)
    case.expected.check(path)
