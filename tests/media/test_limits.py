"""That the comparison with ffmpeg sees the faults that it is there for."""

from __future__ import annotations

import shutil
from pathlib import Path

import media_looks
import numpy as np
import pytest
from media_cases import X264
from media_expectations import decode, differs
from media_files import encode, read_reference, turned

pytestmark = pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="the command ffmpeg is not installed")

_BOTTOM_FIRST = "setfield=bff,bwdif=mode=send_frame:deint=all"


@pytest.mark.parametrize(
    ("fault", "make", "filters", "inputs"),
    [
        ("matrix", media_looks.tagged("bt709"), "scale=in_color_matrix=bt601,format=rgb24", ""),
        ("range", media_looks.tagged("bt709"), "scale=in_range=full,format=rgb24", ""),
        ("mirror", encode(X264), "hflip", ""),
        ("turn", turned(encode(X264), -1, 0, 0, -1), "", "-noautorotate"),
        (
            "frame",
            encode(X264),
            "setpts=PTS,tmix=frames=1,trim=start_frame=1,tpad=stop=1:stop_mode=clone",
            "",
        ),
        ("interlaced", media_looks.INTERLACED[0].make, "", ""),
        ("field order", media_looks.INTERLACED[0].make, _BOTTOM_FIRST, ""),
    ],
)
def test_limits_are_tight(tmp_path: Path, fault: str, make, filters: str, inputs: str) -> None:
    """ffmpeg is told something wrong here, so that its pixels are wrong in one way."""
    path = tmp_path / "a.mp4"
    make(path)
    _, pixels = decode(path)
    reference, _ = read_reference(path, filters, inputs)
    assert pixels.shape == reference[: len(pixels)].shape
    assert differs(pixels, reference[: len(pixels)]), f"a wrong {fault} is not seen"


def test_colours_are_those_that_went_in(tmp_path: Path) -> None:
    """Held beside the drawn frames, in case both decoders err."""
    from media_files import draw_frames

    for matrix in ("bt709", "smpte170m"):
        path = tmp_path / f"{matrix}.mp4"
        media_looks.tagged(matrix, pixels="yuv444p")(path)
        _, pixels = decode(path)
        assert np.abs(pixels.astype(int) - draw_frames()).mean() < 1.5
