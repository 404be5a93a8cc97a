"""What else holds of video files: nothing else is opened, seeking changes no pixel, PyAV is new enough."""

from __future__ import annotations

import contextlib
import ctypes
import os
import struct
import sys
from pathlib import Path

import numpy as np
import pytest
from media_cases import BFRAMES, MPEG4, NAMES, X264
from media_files import cut, encode, joined, noise, then
from media_looks import INTERLACED

import lynx_core.data.media.video_container as video_container
from lynx_core.data.errors import DataError, MediaError
from lynx_core.data.media.decoding import DecodingConfig, decode_clip, plan_clip, probe_media
from lynx_core.data.media.video_file import probe_video, read_frames

AS_IS = DecodingConfig(fps=None)
_IN_OPEN = 0x20


class OpenedFiles:
    """The names of files in a folder that this process opens, from the kernel's inotify."""

    def __init__(self, folder: Path) -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        self.handle = libc.inotify_init1(os.O_NONBLOCK)
        assert libc.inotify_add_watch(self.handle, str(folder).encode(), _IN_OPEN) >= 0

    def read(self) -> set[str]:
        names = set()
        try:
            events = os.read(self.handle, 65536)
        except BlockingIOError:
            return names
        while events:
            _, _, _, length = struct.unpack("iIII", events[:16])
            names.add(events[16 : 16 + length].rstrip(b"\0").decode())
            events = events[16 + length :]
        return names - {""}


LISTS = [case for case in NAMES if case.kind == "list"]


@pytest.mark.skipif(sys.platform != "linux", reason="inotify is Linux's")
@pytest.mark.parametrize(
    "case", [*LISTS, *[case for case in NAMES if case.name in ("%03d.png", "a.mp4")]], ids=str
)
def test_nothing_beside_the_named_file_is_opened(tmp_path: Path, case) -> None:
    for name in ("named.mp4", "001.png"):
        encode(f"{X264} -f mp4")(tmp_path / name)
    path = tmp_path / case.name
    case.make(path)
    opened = OpenedFiles(tmp_path)
    (tmp_path / "named.mp4").read_bytes()
    assert opened.read() == {"named.mp4"}, "the watch sees nothing"
    with contextlib.suppress(MediaError):
        decode_clip(path, plan_clip(path, probe_media(path), AS_IS))
    assert opened.read() == {case.name}


@pytest.mark.parametrize(
    ("name", "make"),
    [
        ("a.mp4", encode(BFRAMES, count=40)),
        ("a.mkv", encode(BFRAMES, count=40)),
        ("a.ts", encode(BFRAMES, count=40)),
        ("a.avi", encode(BFRAMES, count=40)),
        ("mpeg4.avi", encode(f"{MPEG4} -g 12", count=40)),
        ("open_gop.mkv", encode(f"{X264} -bf 3 -x264-params open-gop=1:keyint=12:min-keyint=12", count=40)),
        ("intra_refresh.mp4", encode(f"{X264} -x264-params intra-refresh=1:keyint=12", count=40)),
        ("interlaced.mp4", then(INTERLACED[0].make, ".mp4", f"-i {{in}} {X264} -flags +ildct+ilme -g 4 -bf 0")),
        ("cut.mp4", then(encode(BFRAMES, count=40), ".mp4", "-ss 1.1 -i {in} -c copy")),
    ],
)  # fmt: skip
def test_a_frame_is_the_same_wherever_reading_begins(tmp_path: Path, name: str, make) -> None:
    path = tmp_path / name
    make(path)
    pts = probe_video(path).pts
    whole = [frame.copy() for _, frame in read_frames(path, pts, 96, 64)]
    assert len(whole) == len(pts)
    for number in range(len(pts)):
        ((stamp, frame),) = read_frames(path, pts[number : number + 1], 96, 64)
        assert stamp == pts[number]
        assert np.array_equal(frame, whole[number]), f"frame {number}"


def test_a_picture_shown_for_a_second_is_one_frame_not_sixteen(tmp_path: Path) -> None:
    encode(X264, count=1, rate=1)(tmp_path / "a.mp4")
    info = probe_media(tmp_path / "a.mp4")
    assert plan_clip(tmp_path / "a.mp4", info, DecodingConfig(fps=16.0)).num_frames == 1


def test_damage_after_the_plan_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "a.mkv"
    encode(X264, count=60)(path)
    plan = plan_clip(path, probe_media(path), DecodingConfig(fps=None))
    noise(encode(X264, count=60), 0.5)(path)
    with pytest.raises(MediaError, match=r"damaged|does not decode"):
        decode_clip(path, plan)


def test_a_recording_cut_between_two_frames_is_whole(tmp_path: Path) -> None:
    """A stream that makes no promise breaks none."""
    encode(f"{X264} -f h264", count=20)(tmp_path / "a.ts")
    joined(encode(f"{X264} -f mpegts"))(tmp_path / "a.ts")
    assert probe_video(tmp_path / "a.ts").num_frames == 9


def test_something_appended_is_no_damage(tmp_path: Path) -> None:
    for name, options in {"a.mp4": X264, "a.mkv": X264, "a.avi": MPEG4}.items():
        encode(options)(tmp_path / name)
        path = tmp_path / name
        path.write_bytes(path.read_bytes() + bytes(3000))
        assert probe_video(path).num_frames == 9, name


@pytest.mark.parametrize("version", ["16.1.0", "14.4.0", "unknown"])
def test_an_old_pyav_is_refused_with_the_way_out(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, version: str
) -> None:
    import av

    encode(X264)(tmp_path / "a.mp4")
    monkeypatch.setattr(av, "__version__", version)
    with pytest.raises(DataError, match=rf"PyAV {version} .*pip install -U \"av>=17\"") as caught:
        probe_media(tmp_path / "a.mp4")
    assert not isinstance(caught.value, MediaError), "no fault of the file"


def test_pyav_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(DataError, match=r"videos need the package av .*pip install"):
        video_container.import_av()


def test_another_decoder_is_another_key(monkeypatch: pytest.MonkeyPatch) -> None:
    from lynx_core.data.media import decoding

    before = AS_IS.fingerprint()
    assert AS_IS.fingerprint() == before
    for package in ("av", "pillow", "pillow-heif"):
        with monkeypatch.context() as patch:
            patch.setattr(decoding, "version", lambda name, of=package: "0" if name == of else "1")
            first = AS_IS.fingerprint()
            patch.setattr(decoding, "version", lambda name: "1")
            assert AS_IS.fingerprint() != first, package


def test_a_half_download_says_what_to_do(tmp_path: Path) -> None:
    cut(encode(f"{X264} -movflags faststart", count=60), 0.5)(tmp_path / "a.mp4")
    with pytest.raises(
        MediaError, match=r"truncated \(it has \d+ bytes, .* promise \d+ or more; copy or download"
    ):
        probe_media(tmp_path / "a.mp4")
