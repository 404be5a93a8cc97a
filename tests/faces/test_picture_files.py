"""Picture files of every format: upright, the main picture, or one sentence that says why not."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pillow_heif
import pytest
from PIL import Image, ImageSequence, TiffImagePlugin

from lynx_core.faces.errors import FaceError
from lynx_core.faces.photo import PhotoInfo, UnknownPictureError, convert_picture, load_photo, probe_photo
from lynx_core.faces.picture_colours import PRIMARIES, ColourSpace, build_profile

RED, GREEN, BLUE, WHITE, GREY = (200, 30, 30), (30, 160, 40), (30, 40, 190), (240, 240, 240), (128, 128, 128)
WIDTH_PX, HEIGHT_PX = 96, 64
FORMATS = ("jpg", "png", "webp", "tif", "avif", "heic")
ORIENTATION_TAG = 0x0112
UNDO = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}
"""EXIF orientation -> what a camera held that way does to the upright picture."""


def quadrants(width: int = WIDTH_PX, height: int = HEIGHT_PX) -> Image.Image:
    """Red, green above blue, white."""
    pixels = np.empty((height, width, 3), np.uint8)
    pixels[: height // 2, : width // 2], pixels[: height // 2, width // 2 :] = RED, GREEN
    pixels[height // 2 :, : width // 2], pixels[height // 2 :, width // 2 :] = BLUE, WHITE
    return Image.fromarray(pixels)


def assert_quadrants(photo: np.ndarray, tolerance: int = 12) -> None:
    height, width = photo.shape[:2]
    assert photo.dtype == np.uint8 and photo.flags.c_contiguous
    for y, x, colour in ((1, 1, RED), (1, 3, GREEN), (3, 1, BLUE), (3, 3, WHITE)):
        seen = photo[height * y // 4, width * x // 4].astype(int)
        assert np.abs(seen - colour).max() <= tolerance, (y, x, seen)


def save(picture: Image.Image, path: Path, **options) -> Path:
    if path.suffix == ".heic":
        pillow_heif.from_pillow(picture).save(path, quality=90, **options)
    else:
        picture.save(path, **options)
    return path


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", FORMATS)
def test_every_format_comes_upright(tmp_path: Path, suffix: str, orientation: int) -> None:
    upright = quadrants()
    stored = upright.transpose(UNDO[orientation]) if orientation > 1 else upright
    exif = Image.Exif()
    exif[ORIENTATION_TAG] = orientation
    path = save(stored, tmp_path / f"photo.{suffix}", exif=exif.tobytes())
    photo = load_photo(path)
    assert photo.shape == (HEIGHT_PX, WIDTH_PX, 3)
    assert_quadrants(photo)
    info = probe_photo(path)
    assert (info.width_px, info.height_px, info.num_frames) == (WIDTH_PX, HEIGHT_PX, 1)


def test_format_follows_from_the_content_not_from_the_name(tmp_path: Path) -> None:
    for suffix in FORMATS:
        path = save(quadrants(), tmp_path / f"a.{suffix}")
        for name in ("photo.jpg", "photo.mp4", "photo"):
            assert_quadrants(load_photo(path.rename(tmp_path / name)))
            path = tmp_path / name


def test_a_heic_photo_in_tiles_comes_whole(tmp_path: Path) -> None:
    """Phones store grids of 512 px tiles; the corner tile alone is red all over."""
    path = tmp_path / "phone.heic"
    pillow_heif.from_pillow(quadrants(1200, 900)).save(path, quality=90, tile_size=512)
    with pillow_heif.HeifImageFile(path) as picture:
        assert picture.info["tiling"]["num_columns"] == 3, "the test needs a grid"
    photo = load_photo(path)
    assert photo.shape == (900, 1200, 3)
    assert_quadrants(photo)


@pytest.mark.parametrize("primary", [0, 1, 2])
def test_the_primary_picture_of_a_heic_file_is_the_photo(tmp_path: Path, primary: int) -> None:
    container = pillow_heif.HeifFile()
    for number in range(3):
        size = (WIDTH_PX, HEIGHT_PX) if number == primary else (128, 128)
        container.add_from_pillow(quadrants(*size) if number == primary else Image.new("RGB", size))
    container.save(tmp_path / "burst.heic", quality=90, primary_index=primary)
    assert_quadrants(load_photo(tmp_path / "burst.heic"))
    assert probe_photo(tmp_path / "burst.heic").num_frames == 1


def test_heic_without_its_package_says_both_ways_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(quadrants(), tmp_path / "phone.jpg.heic")
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    for read in (load_photo, probe_photo):
        with pytest.raises(
            FaceError, match=r"phone\.jpg\.heic is HEIC.*pip install pillow-heif.*JPEG"
        ) as refusal:
            read(path)
        assert not isinstance(refusal.value, UnknownPictureError), "it must never be tried as a video"


def test_avif_without_pillows_decoder_says_the_way_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = save(quadrants(), tmp_path / "a.avif")
    monkeypatch.delitem(Image.OPEN, "AVIF")
    with pytest.raises(FaceError, match=r"a\.avif is AVIF.*pip install -U pillow"):
        load_photo(path)


def test_alpha_of_every_format_hides_what_is_transparent(tmp_path: Path) -> None:
    picture = quadrants().convert("RGBA")
    picture.paste((*RED, 0), (0, 0, WIDTH_PX // 2, HEIGHT_PX // 2))
    for suffix in ("png", "webp", "tif", "avif", "heic"):
        photo = load_photo(save(picture, tmp_path / f"erased.{suffix}"))
        assert np.abs(photo[8, 8].astype(int) - GREY).max() <= 3, suffix
        assert np.abs(photo[48, 72].astype(int) - WHITE).max() <= 8, suffix


def test_half_transparent_grey_and_palette(tmp_path: Path) -> None:
    save(Image.new("LA", (4, 4), (255, 128)), tmp_path / "grey.png")
    assert np.abs(load_photo(tmp_path / "grey.png").astype(int) - 191).max() <= 1
    palette = quadrants().convert("RGBA").quantize(4)
    save(palette, tmp_path / "p.png", transparency=bytes([0, 128, 255, 255]))
    photo = load_photo(tmp_path / "p.png")
    colours = np.array(palette.getpalette()[: 3 * 4]).reshape(4, 3)
    seen = photo[np.asarray(palette) == 1]
    assert np.abs(seen.astype(float) - (colours[1] + 127.5) / 2).max() <= 2
    assert (photo[np.asarray(palette) == 0] == 128).all()
    key = Image.new("L", (4, 4), 7)
    key.putpixel((0, 0), 200)
    save(key, tmp_path / "key.png", transparency=7)
    assert load_photo(tmp_path / "key.png")[0, :2].tolist() == [[200] * 3, [128] * 3]


@pytest.mark.parametrize(
    ("mode", "suffix"), [("RGBA", "png"), ("LA", "png"), ("RGBA", "webp"), ("RGBA", "heic")]
)
def test_a_photo_that_is_transparent_all_over_is_refused(tmp_path: Path, mode: str, suffix: str) -> None:
    path = save(Image.new(mode, (64, 64), (90,) * (len(mode) - 1) + (0,)), tmp_path / f"clear.{suffix}")
    with pytest.raises(FaceError, match=rf"clear\.{suffix} is transparent all over"):
        load_photo(path)


def write_animation(path: Path, num_frames: int = 3) -> Path:
    frames = [Image.new("RGB", (32, 32), (60 * number, 0, 0)) for number in range(num_frames)]
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=100)
    return path


@pytest.mark.parametrize("suffix", ["gif", "png", "webp", "avif"])
def test_an_animation_is_no_photo(tmp_path: Path, suffix: str) -> None:
    path = write_animation(tmp_path / f"wave.{suffix}")
    assert probe_photo(path).num_frames == 3
    with pytest.raises(FaceError, match=rf"wave\.{suffix} is an animation of 3 frames.*save the frame"):
        load_photo(path)
    with Image.open(path) as animation:
        reds = [convert_picture(frame, path)[0, 0, 0] for frame in ImageSequence.Iterator(animation)]
    assert np.abs(np.array(reds, int) - [0, 60, 120]).max() <= 4


@pytest.mark.parametrize("suffix", ["gif", "png", "webp", "avif"])
def test_an_animation_of_one_frame_is_a_photo(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"one.{suffix}"
    quadrants().save(path, save_all=True)
    assert_quadrants(load_photo(path), tolerance=40 if suffix == "gif" else 12)


def test_further_pictures_of_a_jpeg_are_left_out(tmp_path: Path) -> None:
    """Depth and gain maps of phones are a second picture in the same file."""
    path = tmp_path / "portrait.jpg"
    quadrants().save(path, format="MPO", save_all=True, append_images=[Image.new("L", (24, 16), 9)])
    info = probe_photo(path)
    assert (info.format, info.num_frames) == ("MPO", 1)
    assert_quadrants(load_photo(path))


def test_pages_of_a_tiff(tmp_path: Path) -> None:
    thumbnail = Image.new("RGB", (12, 8))
    thumbnail.encoderinfo = {"tiffinfo": {254: 1}}
    quadrants().save(tmp_path / "scan.tif", save_all=True, append_images=[thumbnail])
    assert_quadrants(load_photo(tmp_path / "scan.tif"))
    quadrants().save(tmp_path / "fax.tif", save_all=True, append_images=[quadrants()])
    for read in (load_photo, probe_photo):
        with pytest.raises(FaceError, match=r"fax\.tif has 2 pages; save the one"):
            read(tmp_path / "fax.tif")


def test_the_thumbnail_of_a_raw_file_is_not_taken_for_the_photo(tmp_path: Path) -> None:
    dng = TiffImagePlugin.ImageFileDirectory_v2()
    dng[50706], dng.tagtype[50706] = b"\1\4\0\0", 1
    for name, tags in (("a.dng", dng), ("a.nef", {254: 1})):
        quadrants().save(tmp_path / name, format="TIFF", tiffinfo=tags)
        with pytest.raises(FaceError, match="camera's raw file; develop it"):
            load_photo(tmp_path / name)


@pytest.mark.parametrize("suffix", [*FORMATS, "gif", "bmp", "jp2", "ppm"])
def test_a_cut_file_is_refused_wherever_it_ends(tmp_path: Path, suffix: str) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (96, 128, 3), np.uint8)
    whole = save(Image.fromarray(noise), tmp_path / f"whole.{suffix}").read_bytes()
    path = tmp_path / f"cut.{suffix}"
    for share in (0.002, 0.05, 0.5, 0.9, 0.98):
        path.write_bytes(whole[: max(1, int(len(whole) * share))])
        with pytest.raises(FaceError) as refusal:
            load_photo(path)
        message = str(refusal.value)
        assert path.name in message and str(tmp_path) not in message and "\n" not in message, share
        assert re.search(r"again|JPEG", message), message


def test_empty_missing_and_other_files(tmp_path: Path) -> None:
    (tmp_path / "empty.heic").touch()
    (tmp_path / "folder.jpg").mkdir()
    for name, reason in (
        ("empty.heic", "is empty"),
        ("folder.jpg", "cannot be read"),
        ("nowhere.png", "is not there"),
    ):
        for read in (load_photo, probe_photo):
            with pytest.raises(FaceError, match=reason) as refusal:
                read(tmp_path / name)
            assert name in str(refusal.value) and str(tmp_path) not in str(refusal.value)


@pytest.mark.parametrize(
    "content",
    [b"dear diary\n" * 20, b"ffconcat version 1.0\nfile other.mp4\n", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
     b"\0\0\1\xb3\x14\0\xf0\x13" + bytes(64), b"\0\0\0\x18ftypisom\0\0\0\0isommp42" + bytes(64), bytes(999)],
    ids=["text", "concat", "postscript", "mpeg", "mp4", "zeros"],
)  # fmt: skip
def test_what_is_no_picture_may_be_a_video(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "photo.jpg").write_bytes(content)
    for read in (load_photo, probe_photo):
        with pytest.raises(UnknownPictureError, match=r"photo\.jpg cannot be read as a photo.*JPEG or PNG"):
            read(tmp_path / "photo.jpg")


def test_a_photo_above_the_limit_is_refused_before_it_is_decoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Image.new("1", (20_000, 20_000)).save(tmp_path / "bomb.png")
    for limit in (Image.MAX_IMAGE_PIXELS, None):  # other node packs take Pillow's own away
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
        with pytest.raises(FaceError, match=r"bomb\.png .*179 megapixels are the limit; scale it down"):
            load_photo(tmp_path / "bomb.png")


def test_a_jpeg_is_decoded_as_small_as_it_is_needed(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[ORIENTATION_TAG] = 6
    stored = quadrants(1600, 1200).transpose(UNDO[6])
    path = save(stored, tmp_path / "big.jpg", exif=exif)
    photo = load_photo(path, at_least_px=(390, 200))
    assert photo.shape == (300, 400, 3)
    assert_quadrants(photo)
    assert load_photo(path, at_least_px=(900, 100)).shape == (1200, 1600, 3)
    assert probe_photo(path) == PhotoInfo(1600, 1200, 1, "JPEG", 6)


MEASURE = """
import sys
from lynx_core.faces.photo import load_photo
def peak():
    lines = open("/proc/self/status").read().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) * 1024
load_photo(sys.argv[1])
before = peak()
shape = load_photo(sys.argv[2]).shape
print((peak() - before) / (shape[0] * shape[1]))
"""


@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="peak memory is read from /proc")
@pytest.mark.parametrize("kind", ["profile.jpg", "alpha.png"])
def test_a_large_photo_takes_three_bytes_a_pixel_beside_the_decoders(tmp_path: Path, kind: str) -> None:
    large = quadrants(6000, 4000)
    options = {}
    if kind == "alpha.png":
        large.putalpha(200)
    else:
        options["icc_profile"] = build_profile(ColourSpace(*PRIMARIES[12], None))
        options["exif"] = Image.Exif()
        options["exif"][ORIENTATION_TAG] = 6
    small = save(quadrants(64, 64), tmp_path / f"small{Path(kind).suffix}", **options)
    path = save(large, tmp_path / kind, **options)
    command = [sys.executable, "-c", MEASURE, str(small), str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    pillows, slack = 4, 50e6 / (6000 * 4000)
    assert float(done.stdout) <= pillows + 3 + slack
