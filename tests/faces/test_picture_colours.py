"""Colours of photos: what a colour-managed viewer shows, in sRGB."""

from __future__ import annotations

import logging
import struct
import zlib
from pathlib import Path

import numpy as np
import pillow_heif
import pytest
from PIL import Image, ImageCms

from lynx_core.faces.errors import FaceError
from lynx_core.faces.photo import load_photo, probe_photo
from lynx_core.faces.picture_colours import BT709, D65, PRIMARIES, ColourSpace, build_profile

COLOURS = np.array(
    [
        [224, 172, 140],
        [200, 60, 50],
        [60, 160, 70],
        [40, 60, 180],
        [128, 128, 128],
        [0, 0, 0],
        [240, 220, 60],
    ],
    float,
)
"""sRGB: skin, red, green, blue, grey, black, yellow."""
PATCH_PX = 32
ADOBE_RGB = (((0.64, 0.33), (0.21, 0.71), (0.15, 0.06)), D65)


def decode_srgb(values: np.ndarray) -> np.ndarray:
    values = values / 255
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


def encode_srgb(linear: np.ndarray) -> np.ndarray:
    return 255 * np.where(linear <= 0.0031308, linear * 12.92, 1.055 * linear.clip(0) ** (1 / 2.4) - 0.055)


def matrix_of(primaries: tuple, white: tuple[float, float]) -> np.ndarray:
    columns = np.array([[x / y, 1, (1 - x - y) / y] for x, y in primaries]).T
    return columns * np.linalg.solve(columns, [white[0] / white[1], 1, (1 - sum(white)) / white[1]])


def stored_in(primaries: tuple, white: tuple[float, float], gamma: float | None = None) -> Image.Image:
    """A row of patches that shows `COLOURS` in a space with white D65: the numbers that its file holds."""
    linear = decode_srgb(COLOURS) @ (np.linalg.inv(matrix_of(primaries, white)) @ matrix_of(BT709, D65)).T
    values = encode_srgb(linear) if gamma is None else 255 * linear.clip(0) ** (1 / gamma)
    row = values.round().clip(0, 255).astype(np.uint8)[None]
    return Image.fromarray(row.repeat(PATCH_PX, 0).repeat(PATCH_PX, 1))


def assert_colours(path: Path, tolerance: int = 2, expected: np.ndarray = COLOURS) -> None:
    seen = load_photo(path)[PATCH_PX // 2, PATCH_PX // 2 :: PATCH_PX].astype(float)
    assert np.abs(seen - expected).max() <= tolerance, seen


P3 = build_profile(ColourSpace(*PRIMARIES[12], None))


def test_the_shipped_case_of_display_p3(tmp_path: Path) -> None:
    """(215, 174, 144) of Display P3 is skin in sRGB, (185, 72, 58) red."""
    row = np.array([[[215, 174, 144], [185, 72, 58]]], np.uint8).repeat(PATCH_PX, 0).repeat(PATCH_PX, 1)
    Image.fromarray(row).save(tmp_path / "a.png", icc_profile=P3)
    assert_colours(tmp_path / "a.png", 1, np.array([[224, 172, 140], [200, 60, 50]]))


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif", "avif", "heic"])
def test_a_profile_is_followed_in_every_format(tmp_path: Path, suffix: str) -> None:
    picture, path = stored_in(*PRIMARIES[12]), tmp_path / f"p3.{suffix}"
    if suffix == "heic":
        heif = pillow_heif.from_pillow(picture)
        heif.info["icc_profile"] = P3
        heif.save(path, quality=-1, chroma=444)
    else:
        options = {"jpg": {"quality": 98, "subsampling": 0}, "avif": {"quality": 100, "subsampling": "4:4:4"}}
        picture.save(path, icc_profile=P3, lossless=True, **options.get(suffix, {}))
    assert_colours(path, 4)


def test_the_same_profile_with_alpha_with_a_palette_and_turned(tmp_path: Path) -> None:
    picture = stored_in(*PRIMARIES[12])
    picture.quantize(16).save(tmp_path / "palette.png", icc_profile=P3)
    assert_colours(tmp_path / "palette.png", 3)
    picture.putalpha(255)
    picture.putpixel((0, 0), (255, 0, 0, 0))
    picture.save(tmp_path / "alpha.png", icc_profile=P3)
    assert_colours(tmp_path / "alpha.png")
    assert load_photo(tmp_path / "alpha.png")[0, 0].tolist() == [128] * 3, "mid-grey is of sRGB"
    exif = Image.Exif()
    exif[0x0112] = 3
    picture.convert("RGB").transpose(Image.Transpose.ROTATE_180).save(
        tmp_path / "turned.png", icc_profile=P3, exif=exif
    )
    assert_colours(tmp_path / "turned.png")


@pytest.mark.parametrize("gamma", [None, 1.8, 2.2])
@pytest.mark.parametrize("space", [PRIMARIES[9], PRIMARIES[12], ADOBE_RGB, (BT709, D65)])
def test_profiles_of_wide_and_other_spaces(tmp_path: Path, space: tuple, gamma: float | None) -> None:
    profile = build_profile(ColourSpace(*space, gamma))
    stored_in(*space, gamma).save(tmp_path / "a.png", icc_profile=profile)
    assert_colours(tmp_path / "a.png", 3)


def test_an_srgb_profile_changes_no_value(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    for profile in (
        ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes(),
        build_profile(ColourSpace(BT709, D65, None)),
    ):
        Image.fromarray(noise).save(tmp_path / "a.png", icc_profile=profile)
        assert np.array_equal(load_photo(tmp_path / "a.png"), noise)


def grey_profile(gamma: float) -> bytes:
    """ICC version 2, monochrome: white point and a curve."""
    curve = b"curv" + struct.pack(">IIH2x", 0, 1, round(gamma * 256))
    white = b"XYZ " + struct.pack(">I3i", 0, *(round(v * 65536) for v in (0.9642, 1, 0.8249)))
    return assemble_profile(b"GRAY", b"mntr", b"XYZ ", {b"wtpt": white, b"kTRC": curve})


def cmyk_profile() -> bytes:
    """ICC version 2: a printer whose inks darken Lab linearly; cyan, magenta, yellow pull at a and b."""
    table = b""
    for number in range(16):
        cyan, magenta, yellow, black = (number >> 3 & 1, number >> 2 & 1, number >> 1 & 1, number & 1)
        lightness = max(0, 255 - 60 * (cyan + magenta + yellow) - 240 * black)
        a = 128 + (0 if black else -40 * cyan + 70 * magenta)
        b = 128 + (0 if black else -40 * cyan + 80 * yellow)
        table += bytes([lightness, min(a, 255), min(b, 255)])
    linear = bytes(range(256))
    identity = struct.pack(">9i", *(65536 if index % 4 == 0 else 0 for index in range(9)))
    lut = b"mft1" + struct.pack(">IBBBx", 0, 4, 3, 2) + identity + linear * 4 + table + linear * 3
    white = b"XYZ " + struct.pack(">I3i", 0, *(round(v * 65536) for v in (0.9642, 1, 0.8249)))
    return assemble_profile(b"CMYK", b"prtr", b"Lab ", {b"wtpt": white, b"A2B0": lut})


def assemble_profile(space: bytes, kind: bytes, pcs: bytes, tags: dict[bytes, bytes]) -> bytes:
    table, body, offset = struct.pack(">I", len(tags)), b"", 132 + 12 * len(tags)
    for name, content in tags.items():
        table += struct.pack(">4sII", name, offset + len(body), len(content))
        body += content.ljust(-(-len(content) // 4) * 4, b"\0")
    head = struct.pack(">I4sI4s4s4s12x4s", offset + len(body), b"", 0x02400000, kind, space, pcs, b"acsp")
    illuminant = struct.pack(">3i", *(round(v * 65536) for v in (0.9642, 1, 0.8249)))
    return head.ljust(68, b"\0") + illuminant.ljust(60, b"\0") + table + body


def test_a_grey_profile_at_8_and_16_bits(tmp_path: Path) -> None:
    profile = grey_profile(1.8)
    levels = np.array([0, 40, 128, 200, 255])
    expected = encode_srgb((levels / 255) ** 1.8)[:, None].repeat(3, 1)
    row = levels[None].repeat(PATCH_PX, 0).repeat(PATCH_PX, 1)
    Image.fromarray(row.astype(np.uint8)).save(tmp_path / "8.png", icc_profile=profile)
    Image.fromarray((row * 257).astype(np.uint16)).save(tmp_path / "16.png", icc_profile=profile)
    for name in ("8.png", "16.png"):
        assert_colours(tmp_path / name, 2, expected)


def test_a_cmyk_jpeg_with_and_without_a_profile(tmp_path: Path) -> None:
    row = np.array([[[0, 0, 0, 0], [0, 0, 0, 255], [255, 0, 0, 0], [0, 255, 255, 0]]], np.uint8)
    picture = Image.fromarray(row.repeat(PATCH_PX, 0).repeat(PATCH_PX, 1), mode="CMYK")
    picture.save(tmp_path / "plain.jpg", quality=98)
    assert_colours(tmp_path / "plain.jpg", 4, np.array([[255] * 3, [0] * 3, [0, 255, 255], [255, 0, 0]]))
    picture.save(tmp_path / "print.jpg", quality=98, icc_profile=cmyk_profile())
    seen = load_photo(tmp_path / "print.jpg")[16, 16::PATCH_PX].astype(int)
    assert seen[0].min() >= 250 and seen[1].max() <= 60
    assert seen[2].argmin() == 0 and seen[2][1] < 230, "the profile's cyan is no screen's cyan"
    assert seen[3].argmax() == 0 and seen[3][1] > 20


def test_lab_tiff(tmp_path: Path) -> None:
    to_lab = ImageCms.buildTransform(
        ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), "RGB", "LAB"
    )
    to_lab.apply(stored_in(BT709, D65)).save(tmp_path / "lab.tif")
    assert_colours(tmp_path / "lab.tif", 6)


@pytest.mark.parametrize(
    "profile",
    [b"no profile", P3[:200], cmyk_profile(), grey_profile(1.8)],
    ids=["text", "cut", "CMYK", "grey"],
)
def test_an_unusable_profile_is_said_and_left_out(
    tmp_path: Path, profile: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    stored_in(BT709, D65).save(tmp_path / "odd.png", icc_profile=profile)
    with caplog.at_level(logging.WARNING):
        assert_colours(tmp_path / "odd.png", 0)
    assert "odd.png: its colour profile cannot be used" in caplog.text


def test_display_p3_named_by_numbers_alone(tmp_path: Path) -> None:
    picture = stored_in(*PRIMARIES[12])
    pillow_heif.from_pillow(picture).save(
        tmp_path / "phone.heic",
        quality=-1,
        chroma=444,
        color_primaries=12,
        transfer_characteristics=13,
        matrix_coefficients=0,
        full_range_flag=1,
    )
    assert_colours(tmp_path / "phone.heic")
    picture.save(tmp_path / "a.avif", quality=100, subsampling="4:4:4")
    content = (tmp_path / "a.avif").read_bytes()
    assert content.count(b"nclx") == 1, "the test needs the box to change"
    at = content.index(b"nclx") + 4
    (tmp_path / "p3.avif").write_bytes(content[:at] + struct.pack(">H", 12) + content[at + 2 :])
    assert_colours(tmp_path / "p3.avif", 4)
    write_png_chunk(picture, tmp_path / "p3.png", b"cICP", bytes([12, 13, 0, 1]))
    assert_colours(tmp_path / "p3.png")


def write_png_chunk(picture: Image.Image, path: Path, name: bytes, content: bytes) -> None:
    """Put a chunk behind the header of a PNG."""
    picture.save(path)
    whole = path.read_bytes()
    checksum = struct.pack(">I", zlib.crc32(name + content))
    path.write_bytes(whole[:33] + struct.pack(">I", len(content)) + name + content + checksum + whole[33:])


def test_adobe_rgb_named_by_a_camera(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif.get_ifd(0x8769)[0xA001] = 2
    stored_in(*ADOBE_RGB, 2.19921875).save(tmp_path / "a.jpg", exif=exif, quality=98, subsampling=0)
    assert_colours(tmp_path / "a.jpg", 4)


def test_png_that_names_its_gamma(tmp_path: Path) -> None:
    picture = stored_in(BT709, D65, 1.0)
    write_png_chunk(picture, tmp_path / "linear.png", b"gAMA", struct.pack(">I", 100_000))
    assert_colours(tmp_path / "linear.png", 8)  # 8 bits hold few dark tones of linear light
    write_png_chunk(stored_in(BT709, D65), tmp_path / "usual.png", b"gAMA", struct.pack(">I", 45_455))
    assert_colours(tmp_path / "usual.png", 0)


def test_hdr_is_refused_with_the_way_out(tmp_path: Path) -> None:
    picture = stored_in(BT709, D65)
    for transfer, name in ((16, "PQ"), (18, "HLG")):
        options = {"color_primaries": 9, "transfer_characteristics": transfer, "full_range_flag": 1}
        pillow_heif.from_pillow(picture).save(tmp_path / "a.heic", matrix_coefficients=9, **options)
        write_png_chunk(picture, tmp_path / "a.png", b"cICP", bytes([9, transfer, 0, 1]))
        cicp = b"cicp" + bytes([0, 0, 0, 0, 9, transfer, 0, 1])
        profile = assemble_profile(b"RGB ", b"mntr", b"XYZ ", {b"cicp": cicp})
        picture.save(tmp_path / "a.jpg", icc_profile=profile)
        for path in ("a.heic", "a.png", "a.jpg"):
            for read in (load_photo, probe_photo):
                with pytest.raises(FaceError, match=rf"{path} is an HDR photo \({name}\).*SDR.*JPEG"):
                    read(tmp_path / path)


def test_a_heic_photo_of_ten_bits(tmp_path: Path) -> None:
    values = np.asarray(stored_in(BT709, D65)).astype(np.uint16) * 257
    height, width = values.shape[:2]
    heif = pillow_heif.from_bytes("RGB;16", (width, height), values.tobytes())
    heif.save(tmp_path / "ten.heic", quality=-1, chroma=444)
    assert pillow_heif.open_heif(tmp_path / "ten.heic", convert_hdr_to_8bit=False).info["bit_depth"] > 8
    assert_colours(tmp_path / "ten.heic", 3)
