"""Decoding of real files: the right frames, upright, in the planned size, or a reason why not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from small_media import write_image, write_video

from lynx_core.data.errors import DataError, MediaError
from lynx_core.data.media.decoding import (
    DecodingConfig,
    ImageInfo,
    convert_pixels,
    decode_clip,
    fit_size,
    plan_clip,
    probe_media,
)
from lynx_core.data.media.video_file import VideoInfo
from lynx_core.faces.photo import load_photo

AS_IS = DecodingConfig(fps=None)


def decode(path: Path, config: DecodingConfig = AS_IS, **options) -> np.ndarray:
    return decode_clip(path, plan_clip(path, probe_media(path), config, **options))


def frame_numbers(pixels: np.ndarray) -> list[int]:
    """Which frame of `write_video` each one is, read off its grey level."""
    return [round(float(frame[-20, -20].mean()) / 8) for frame in pixels]


@pytest.mark.parametrize(
    ("source", "fitted"),
    [
        ((640, 640), (640, 640)),
        ((1920, 1080), (480, 848)),
        ((1080, 1920), (848, 480)),
        ((832, 480), (480, 832)),
        ((100, 70), (64, 96)),
        ((16, 16), (16, 16)),
    ],
)
def test_sizes_are_multiples_of_16_within_the_budget_and_never_enlarged(
    source: tuple[int, int], fitted: tuple[int, int]
) -> None:
    height, width = fit_size(*source, max_px=640 * 640)
    assert (height, width) == fitted
    assert height % 16 == width % 16 == 0
    assert height * width <= 640 * 640
    assert width <= source[0] and height <= source[1]


@pytest.mark.parametrize("source", [(15, 400), (40_000, 20)])
def test_sizes_with_no_token_in_a_side_are_refused(source: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="no side of 16 px"):
        fit_size(*source, max_px=640 * 640)


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.avi", "a.ts", "a.webm"])
def test_every_container_gives_its_frames(tmp_path: Path, name: str) -> None:
    codec = {"a.avi": "mpeg4", "a.webm": "libvpx-vp9"}.get(name, "libx264")
    path = write_video(tmp_path / name, num_frames=11, codec=codec)
    pixels = decode(path)
    assert pixels.shape == (9, 48, 64, 3) and pixels.dtype == np.uint8
    assert frame_numbers(pixels) == list(range(9))
    assert pixels[0, 4, 4, 0] > 200 and pixels[0, 4, 4, 1] < 60, "red is not in the upper left"


@pytest.mark.parametrize(("frames", "kept"), [(1, 1), (4, 1), (5, 5), (8, 5), (9, 9), (30, 21)])
def test_frames_are_4k_plus_1(tmp_path: Path, frames: int, kept: int) -> None:
    path = write_video(tmp_path / "a.mp4", num_frames=frames)
    assert decode(path, DecodingConfig(fps=None, max_frames=21)).shape[0] == kept


@pytest.mark.parametrize(
    ("source_fps", "fps", "expected"),
    [
        (16, 16.0, list(range(13))),
        (30, 15.0, [0, 2, 4, 6, 8]),
        (30, 16.0, [0, 1, 3, 5, 7]),
        (24, 16.0, [0, 1, 3, 4, 6, 7, 9, 10, 12]),
        (8, 16.0, [n // 2 for n in range(25)]),
    ],
)
@pytest.mark.parametrize("name", ["a.mp4", "a.mkv"])
def test_frame_rate(tmp_path: Path, name: str, source_fps: int, fps: float, expected: list[int]) -> None:
    path = write_video(tmp_path / name, num_frames=14, fps=source_fps)
    assert frame_numbers(decode(path, DecodingConfig(fps=fps))) == expected


def test_frame_rate_of_the_row_replaces_that_of_the_file(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", num_frames=14, fps=60)
    assert frame_numbers(decode(path, DecodingConfig(fps=16.0), source_fps=16.0)) == list(range(13))


def test_frame_range_starts_and_ends_where_it_says(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", num_frames=30)
    for config in (AS_IS, DecodingConfig(fps=16.0)):
        assert frame_numbers(decode(path, config, frame_range=(17, 24))) == list(range(17, 22))
        assert frame_numbers(decode(path, config, frame_range=(29, 30))) == [29]
    with pytest.raises(MediaError, match=r"outside of the file \(\[17, 31\], but it has 30 frames"):
        decode(path, frame_range=(17, 31))


def test_too_short_a_clip_is_refused(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", num_frames=4)
    with pytest.raises(MediaError, match=r"too short \(it gives 1 frames, decoding.min_frames is 5"):
        decode(path, DecodingConfig(min_frames=5))


@pytest.mark.parametrize(("rotation", "corner"), [(90, (-4, 4)), (-90, (4, -4)), (180, (-4, -4))])
def test_videos_stand_upright(tmp_path: Path, rotation: int, corner: tuple[int, int]) -> None:
    """Turned counter-clockwise by 90 degrees, the upper left becomes the lower left."""
    pixels = decode(write_video(tmp_path / "a.mp4", rotation=rotation))
    assert pixels.shape[1:3] == ((48, 64) if rotation == 180 else (64, 48))
    if corner != (-4, -4):  # that one holds the seed's mark
        assert pixels[0, corner[0], corner[1], 0] > 200
    assert pixels[0, 24, 24, 1] < 60


def test_scaled_video_keeps_the_picture(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", size=(320, 180))
    pixels = decode(path, DecodingConfig(max_px=96 * 64, fps=None))
    assert pixels.shape[1] * pixels.shape[2] <= 96 * 64
    assert frame_numbers(pixels) == list(range(9))
    assert pixels[0, 4, 4, 0] > 200


def test_images_stand_upright_and_keep_their_colours(tmp_path: Path) -> None:
    pixels = np.zeros((48, 80, 3), dtype=np.uint8)
    pixels[:16, :16] = (250, 10, 10)
    exif = Image.Exif()
    exif[0x0112] = 6  # shown turned clockwise by 90 degrees
    Image.fromarray(pixels).save(tmp_path / "a.png", exif=exif)
    info = probe_media(tmp_path / "a.png")
    assert (info.width_px, info.height_px) == (48, 80)
    decoded = decode(tmp_path / "a.png")
    assert decoded.shape == (1, 80, 48, 3)
    assert decoded[0, 4, -4].tolist() == [250, 10, 10]


def test_kind_of_a_file_comes_from_its_content(tmp_path: Path) -> None:
    video = write_video(tmp_path / "a.mp4").rename(tmp_path / "photo.png")
    image = write_image(tmp_path / "b.png").rename(tmp_path / "clip.mp4")
    assert isinstance(probe_media(video), VideoInfo)
    assert isinstance(probe_media(image), ImageInfo)


def test_images_take_no_frame_range(tmp_path: Path) -> None:
    path = write_image(tmp_path / "a.png")
    with pytest.raises(MediaError, match="but it is an image"):
        decode(path, frame_range=(3, 9))


def damage(path: Path, fault: str) -> Path:
    raw = bytearray(path.read_bytes())
    if fault == "empty":
        raw.clear()
    elif fault == "text":
        raw = bytearray(b"this is no video " * 40)
    elif fault == "cut":
        del raw[len(raw) // 2 :]
    elif fault == "noise":
        start = raw.find(b"mdat") + len(raw) // 3
        raw[start : start + 400] = np.random.default_rng(0).integers(0, 256, 400, dtype=np.uint8).tobytes()
    path.write_bytes(raw)
    return path


@pytest.mark.parametrize("fault", ["empty", "text", "cut", "noise"])
@pytest.mark.parametrize("name", ["a.mp4", "a.png"])
def test_damaged_files_are_refused_with_their_path(tmp_path: Path, fault: str, name: str) -> None:
    path = tmp_path / name
    if name == "a.mp4":
        write_video(path, num_frames=30, size=(320, 240))
    else:
        noise = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)
        Image.fromarray(noise).save(path)
    decode(path)
    with pytest.raises(MediaError, match=name):
        decode(damage(path, fault))


def test_video_that_changed_after_the_plan_is_refused(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", num_frames=9)
    plan = plan_clip(path, probe_media(path), AS_IS)
    write_video(path, num_frames=5)
    with pytest.raises(MediaError, match="damaged"):
        decode_clip(path, plan)


def test_sound_alone_is_no_video(tmp_path: Path) -> None:
    import av

    with av.open(str(tmp_path / "a.m4a"), "w") as container:
        stream = container.add_stream("aac", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 8000), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 8000
        for packet in [*stream.encode(frame), *stream.encode()]:
            container.mux(packet)
    with pytest.raises(MediaError, match="no video stream"):
        probe_media(tmp_path / "a.m4a")


@pytest.mark.parametrize(
    "wrong", [{"max_frames": 80}, {"min_frames": 4}, {"max_px": 100}, {"fps": 0.0}, {"min_frames": 85}]
)
def test_bad_configurations_are_refused(wrong: dict) -> None:
    with pytest.raises(DataError, match=next(iter(wrong))):
        DecodingConfig(**wrong)


def test_pixels_in_the_range_of_the_vae() -> None:
    pixels = np.array([[[[0, 255, 51]]]], dtype=np.uint8)
    converted = convert_pixels(pixels)
    assert converted.shape == (3, 1, 1, 1)
    assert converted.flatten().tolist() == pytest.approx([-1, 1, -0.6])


def test_a_large_jpeg_is_reduced_while_it_is_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "large.jpg"
    small = Image.open(write_image(tmp_path / "small.png", (100, 75)))
    small.resize((2000, 1501), Image.Resampling.BICUBIC).save(path, quality=95)
    config = DecodingConfig(max_px=160 * 160)
    reduced = decode(path, config).astype(float)
    monkeypatch.setattr("lynx_core.data.media.decoding.load_photo", lambda path, _: load_photo(path))
    whole = decode(path, config).astype(float)
    assert reduced.shape == whole.shape
    assert np.abs(reduced - whole).mean() < 3 and np.abs(reduced - whole).max() > 0
