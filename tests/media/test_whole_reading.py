"""Decoding a file once, probing on the way, gives what probing first and reading afterwards gives."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from media_expectations import Case
from media_files import encode
from test_media import choose_cases

from lynx_core.curate.media import open_footage
from lynx_core.data.errors import MediaError
from lynx_core.data.media import video_file
from lynx_core.data.media.animation import read_animation
from lynx_core.data.media.decoding import probe_media
from lynx_core.data.media.video_file import VideoInfo, read_frames
from lynx_core.faces.photo import probe_photo
from lynx_core.faces.picture_file import UnknownPictureError

pytestmark = pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="the command ffmpeg is not installed")


def read_twice(path: Path) -> tuple[VideoInfo, list[np.ndarray]] | str:
    """What a probe and then a reading give, or the reason of the refusal; "photo" for a photo."""
    try:
        info = probe_media(path)
        if not isinstance(info, VideoInfo):
            return "photo"
        read = read_animation if is_picture(path) else read_frames
        return info, [pixels for _, pixels in read(path, info.pts, info.width_px, info.height_px)]
    except MediaError as error:
        return error.reason


def is_picture(path: Path) -> bool:
    try:
        return bool(probe_photo(path))
    except UnknownPictureError:
        return False


@pytest.mark.parametrize("case", choose_cases(), ids=str)
def test_one_decoding_gives_what_two_give(case: Case, tmp_path: Path) -> None:
    if case.kind == "list":
        encode("-c:v libx264 -pix_fmt yuv420p")(tmp_path / "named.mp4")
    path = tmp_path / case.name
    case.make(path)
    expected = read_twice(path)
    if isinstance(expected, str) and expected != "photo":
        with pytest.raises(MediaError) as caught:
            list(open_footage(path, 10_000).read())
        assert caught.value.reason == expected
        return
    footage = open_footage(path, 10_000)
    if isinstance(expected, str):
        assert not footage.is_clip
        return
    frames = [pixels for _, pixels in footage.read()]
    info, wanted = expected
    assert footage.num_frames == info.num_frames == len(frames)
    assert footage.fps == pytest.approx(info.num_frames / info.duration_s)
    assert (footage.width_px, footage.height_px) == (info.width_px, info.height_px)
    assert all(np.array_equal(one, other) for one, other in zip(frames, wanted, strict=True))


def test_each_frame_is_decoded_once_but_the_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encode("-c:v libx264 -pix_fmt yuv420p -g 12", count=40)(tmp_path / "a.mp4")
    decoded = []
    count = video_file.FrameFormat.of
    monkeypatch.setattr(video_file.FrameFormat, "of", lambda frame: decoded.append(1) or count(frame))
    assert len(list(open_footage(tmp_path / "a.mp4", 64).read())) == 40
    assert len(decoded) == 41
