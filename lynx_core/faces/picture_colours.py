"""Colours of a picture file as sRGB: what the file says about them, and the conversion through LittleCMS.

Colours are named by an ICC profile, by CICP code points (ITU-T H.273: numbers for primaries and transfer, in
HEIF and AVIF boxes, ISO/IEC 23008-12, in PNG's cICP chunk and in the `cicp` tag of ICC profiles), by EXIF, or
by PNG's cHRM and gAMA. Pillow reads the profile only.

HDR is refused: PQ and HLG have no 8-bit sRGB without a choice of tones, and a plain conversion comes out dull
and dark. A picture with a gain map is SDR with an addition, which is left out.
"""

from __future__ import annotations

import io
import logging
import math
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..spec import first_line
from .errors import FaceError

if TYPE_CHECKING:
    from PIL import Image

_logger = logging.getLogger(__name__)

_D50_XYZ = np.array([0.9642, 1.0, 0.8249])
_BRADFORD = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])
_SRGB_CURVE = (2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)
_SAME_LEVELS = 1
"""Conversions that move no colour by more than this are left out: most profiles are sRGB itself."""

D65 = (0.3127, 0.3290)
BT709 = ((0.64, 0.33), (0.30, 0.60), (0.15, 0.06))
PRIMARIES = {
    9: (((0.708, 0.292), (0.170, 0.797), (0.131, 0.046)), D65),  # BT.2020
    11: (((0.680, 0.320), (0.265, 0.690), (0.150, 0.060)), (0.314, 0.351)),  # DCI-P3
    12: (((0.680, 0.320), (0.265, 0.690), (0.150, 0.060)), D65),  # Display P3
}
"""Primaries of CICP that differ from sRGB by more than a habit of tagging: red, green, blue; white."""
_GAMMAS = {4: 2.2, 5: 2.8, 8: 1.0}
"""Transfers of CICP that are a power; the others of SDR are taken for sRGB's curve, as browsers do."""
_HDR_TRANSFERS = {16: "PQ", 18: "HLG"}

_ADOBE_RGB = ((0.64, 0.33), (0.21, 0.71), (0.15, 0.06))
_EXIF_IFD, _INTEROP_IFD, _COLOUR_SPACE, _INTEROP_INDEX = 0x8769, 0xA005, 0xA001, 1
_GAMMA_TOLERANCE = 0.05
_XY_TOLERANCE = 0.002
_MAX_META_BYTES = 2**24

_XY = tuple[float, float]


@dataclass(frozen=True)
class ColourSpace:
    """Additive colours with one curve for all three."""

    primaries: tuple[_XY, _XY, _XY]
    """Chromaticities of red, green and blue."""
    white: _XY
    gamma: float | None
    """Exponent; None for sRGB's curve."""


def find_srgb_conversion(picture: Image.Image, path: Path) -> Callable[[Image.Image], Image.Image]:
    """Give what turns a band of this picture to mode "RGB" in sRGB. Alpha is left out.

    A profile that is damaged or made for other channels is left out, with a line in the log.

    Raises:
        FaceError: for HDR.
    """
    profile = picture.info.get("icc_profile")
    cicp = (_read_profile_cicp(profile) if profile else None) or _read_cicp(picture, path)
    if cicp and cicp[1] in _HDR_TRANSFERS:
        raise FaceError(
            f"{path.name} is an HDR photo ({_HDR_TRANSFERS[cicp[1]]}), whose tones do not fit into 8 bits; "
            "export it as a standard (SDR) JPEG"
        )
    if not profile:
        space = _find_colour_space(picture, cicp)
        profile = build_profile(space) if space else None
    if not profile and picture.mode != "LAB":
        return to_rgb
    try:
        return _build_conversion(profile, picture.mode)
    except Exception as error:  # LittleCMS and Pillow have a dozen of their own
        _logger.warning(
            "%s: its colour profile cannot be used (%s); its colours are taken as sRGB",
            path.name,
            first_line(error),
        )
        return to_rgb


def to_rgb(band: Image.Image) -> Image.Image:
    """A band of any mode but LAB as mode "RGB", without alpha."""
    return _to_mode(band, "RGB")


def build_profile(space: ColourSpace) -> bytes:
    """Write an ICC profile (version 4) of a colour space: a matrix and a curve."""
    to_xyz = np.array([[x / y, 1, (1 - x - y) / y] for x, y in space.primaries]).T
    white = np.array([space.white[0] / space.white[1], 1, (1 - sum(space.white)) / space.white[1]])
    to_xyz = to_xyz * np.linalg.solve(to_xyz, white)
    adapt = np.linalg.inv(_BRADFORD) @ np.diag((_BRADFORD @ _D50_XYZ) / (_BRADFORD @ white)) @ _BRADFORD
    columns = (adapt @ to_xyz).T
    if space.gamma:
        curve = b"para" + struct.pack(">IHHi", 0, 0, 0, _fixed(space.gamma))
    else:
        curve = b"para" + struct.pack(">IHH5i", 0, 3, 0, *map(_fixed, _SRGB_CURVE))
    tags = {b"wtpt": _xyz_tag(_D50_XYZ)}
    tags |= {name: _xyz_tag(xyz) for name, xyz in zip((b"rXYZ", b"gXYZ", b"bXYZ"), columns, strict=True)}
    tags |= dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), curve)
    table, body, offset = struct.pack(">I", len(tags)), b"", 128 + 4 + 12 * len(tags)
    for name, content in tags.items():
        table += struct.pack(">4sII", name, offset + len(body), len(content))
        body += content
    header = struct.pack(
        ">I4sI4s4s4s12x4s", offset + len(body), b"", 0x04200000, b"mntr", b"RGB ", b"XYZ ", b"acsp"
    )
    return (
        header.ljust(68, b"\0") + struct.pack(">3i", *map(_fixed, _D50_XYZ)).ljust(60, b"\0") + table + body
    )


def _build_conversion(profile: bytes | None, picture_mode: str) -> Callable[[Image.Image], Image.Image]:
    """The conversion of a profile; `None` is CIELAB.

    Raises:
        ValueError: when the profile is made for other channels.
        Exception: when LittleCMS cannot use it.
    """
    from PIL import ImageCms

    if profile is None:
        source, mode = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")), "LAB"
    else:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        mode = _find_mode(source.profile.xcolor_space.strip(), picture_mode)
    transform = ImageCms.buildTransform(
        source,
        ImageCms.createProfile("sRGB"),
        mode,
        "RGB",
        ImageCms.Intent.RELATIVE_COLORIMETRIC,
        ImageCms.Flags.BLACKPOINTCOMPENSATION,
    )

    def convert(band: Image.Image) -> Image.Image:
        return transform.apply(_to_mode(band, mode))

    return to_rgb if mode in ("L", "RGB") and _changes_nothing(convert, mode) else convert


def _find_mode(space: str, picture_mode: str) -> str:
    """The mode of Pillow in which a profile's colour space describes a picture."""
    is_grey = picture_mode.startswith(("1", "L", "I", "F")) and picture_mode != "LAB"
    if space == "RGB" and picture_mode not in ("CMYK", "LAB"):
        return "RGB"
    if space == "GRAY" and is_grey:
        return "L"
    if space == picture_mode == "CMYK":
        return "CMYK"
    raise ValueError(f"it is for {space}, the picture is {picture_mode}")


def _changes_nothing(convert: Callable[[Image.Image], Image.Image], mode: str) -> bool:
    from PIL import Image

    levels = np.linspace(0, 255, 18).astype(np.uint8)
    cube = np.stack(np.meshgrid(levels, levels, levels), axis=-1).reshape(1, -1, 3)
    grey = np.arange(256, dtype=np.uint8).reshape(1, -1, 1).repeat(3, axis=2)
    colours = Image.fromarray(np.concatenate([cube, grey], axis=1)).convert(mode)
    moved = np.asarray(convert(colours)).astype(int) - np.asarray(to_rgb(colours))
    return bool(np.abs(moved).max() <= _SAME_LEVELS)


def _to_mode(band: Any, mode: str) -> Any:
    if band.mode in ("RGBa", "La"):
        band = band.convert("RGBA" if band.mode == "RGBa" else "LA")
    return band if band.mode == mode else band.convert(mode)


def _xyz_tag(xyz: np.ndarray) -> bytes:
    return b"XYZ " + struct.pack(">I3i", 0, *map(_fixed, xyz))


def _fixed(value: float) -> int:
    """ICC's s15Fixed16Number."""
    return round(value * 65536)


def _read_cicp(picture: Image.Image, path: Path) -> tuple[int, int] | None:
    """Give primaries and transfer by CICP's numbers; None where the file has none."""
    if picture.format == "PNG":
        return _read_png_cicp(path)
    if picture.format in ("HEIF", "AVIF"):
        return _read_heif_cicp(path)
    return None


def _read_profile_cicp(profile: bytes) -> tuple[int, int] | None:
    """Give the same from an ICC profile: HDR profiles have it beside an SDR fallback."""
    for start in range(132, min(len(profile) - 11, 132 + 12 * 100), 12):
        name, offset, num_bytes = struct.unpack_from(">4sII", profile, start)
        if name == b"cicp" and num_bytes >= 12 and offset + 10 <= len(profile):
            return profile[offset + 8], profile[offset + 9]
    return None


def _find_colour_space(picture: Image.Image, cicp: tuple[int, int] | None) -> ColourSpace | None:
    """Give the colour space of a picture without an ICC profile; None means sRGB."""
    if cicp is not None:
        primaries, white = PRIMARIES.get(cicp[0], (BT709, D65))
        gamma = _GAMMAS.get(cicp[1])
        return ColourSpace(primaries, white, gamma) if cicp[0] in PRIMARIES or gamma else None
    if picture.format == "PNG":
        return None if "srgb" in picture.info else _read_png_space(picture.info)
    return ColourSpace(_ADOBE_RGB, D65, 2.19921875) if _is_adobe_rgb(picture) else None


def _is_adobe_rgb(picture: Image.Image) -> bool:
    """Cameras that are set to Adobe RGB write this into EXIF, and no profile."""
    exif = picture.getexif()
    index = exif.get_ifd(_INTEROP_IFD).get(_INTEROP_INDEX, "")
    return exif.get_ifd(_EXIF_IFD).get(_COLOUR_SPACE) == 2 or str(index).startswith("R03")


def _read_png_space(info: dict[Any, Any]) -> ColourSpace | None:
    gamma = 1 / info["gamma"] if info.get("gamma") else 2.2
    curve = None if abs(gamma - 2.2) < _GAMMA_TOLERANCE else gamma
    xy = info.get("chromaticity") or (*D65, *BT709[0], *BT709[1], *BT709[2])
    white, red, green, blue = (tuple(xy[start : start + 2]) for start in (0, 2, 4, 6))
    space = ColourSpace((red, green, blue), white, curve)
    pairs = zip((white, red, green, blue), (D65, *BT709), strict=True)
    is_srgb = curve is None and all(math.dist(*pair) < _XY_TOLERANCE for pair in pairs)
    is_usable = all(0 < x < 1 and 0 < y < 1 for x, y in (white, red, green, blue)) and 0.5 < gamma < 5
    return None if is_srgb or not is_usable else space


def _read_png_cicp(path: Path) -> tuple[int, int] | None:
    with path.open("rb") as file:
        file.seek(8)
        while len(head := file.read(8)) == 8:
            num_bytes, name = struct.unpack(">I4s", head)
            if name == b"cICP":
                values = file.read(4)
                return (values[0], values[1]) if len(values) == 4 else None
            if name == b"IDAT":
                return None
            file.seek(num_bytes + 4, 1)
    return None


def _read_heif_cicp(path: Path) -> tuple[int, int] | None:
    """Read the `colr` box of type `nclx` among the properties of the primary item."""
    meta = _read_top_box(path, b"meta")[4:]
    boxes = dict(_split_boxes(meta))
    if not {b"pitm", b"iprp"} <= boxes.keys():
        return None
    pitm, iprp = boxes[b"pitm"], dict(_split_boxes(boxes[b"iprp"]))
    primary = int.from_bytes(pitm[4:6] if pitm[:1] == b"\0" else pitm[4:8], "big")
    properties = list(_split_boxes(iprp.get(b"ipco", b"")))
    for index in _list_properties(iprp.get(b"ipma", b""), primary):
        if not 0 < index <= len(properties):
            continue
        name, content = properties[index - 1]
        if name == b"colr" and content[:4] == b"nclx" and len(content) >= 8:
            return struct.unpack_from(">HH", content, 4)
    return None


def _list_properties(ipma: bytes, item: int) -> list[int]:
    """Indices, from 1, of the properties of an item."""
    if len(ipma) < 8:
        return []
    is_wide, has_long_ids = ipma[3] & 1, ipma[0] > 0
    count, at = int.from_bytes(ipma[4:8], "big"), 8
    for _ in range(count):
        id_bytes = 4 if has_long_ids else 2
        found = int.from_bytes(ipma[at : at + id_bytes], "big")
        at += id_bytes
        if at >= len(ipma):
            return []
        num, at, width = ipma[at], at + 1, 2 if is_wide else 1
        values = [int.from_bytes(ipma[at + i * width : at + (i + 1) * width], "big") for i in range(num)]
        at += num * width
        if found == item:
            return [value & (0x7FFF if is_wide else 0x7F) for value in values]
    return []


def _read_top_box(path: Path, wanted: bytes) -> bytes:
    """The content of the first top box of a name; empty where there is none."""
    with path.open("rb") as file:
        while len(head := file.read(8)) == 8:
            num_bytes, name = struct.unpack(">I4s", head)
            header = 8
            if num_bytes == 1:
                num_bytes, header = int.from_bytes(file.read(8), "big"), 16
            if name == wanted:
                return file.read(min(max(num_bytes - header, 0), _MAX_META_BYTES))
            if num_bytes < header:
                break
            file.seek(num_bytes - header, 1)
    return b""


def _split_boxes(content: bytes) -> Iterator[tuple[bytes, bytes]]:
    at = 0
    while at + 8 <= len(content):
        num_bytes, name = struct.unpack_from(">I4s", content, at)
        if num_bytes < 8:
            return
        yield name, content[at + 8 : at + num_bytes]
        at += num_bytes
