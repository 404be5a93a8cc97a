"""Colours of a picture file as sRGB: ICC profiles, and the other ways to name a colour space, through LittleCMS.

HDR is refused: PQ and HLG have no 8-bit sRGB without a choice of tones, and a plain conversion comes out dull
and dark. A picture with a gain map is SDR with an addition, which is left out.
"""

from __future__ import annotations

import io
import logging
import struct
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..spec import first_line
from .colour_tags import HDR_TRANSFERS, ColourSpace, find_colour_space, read_cicp, read_profile_cicp
from .errors import FaceError

if TYPE_CHECKING:
    from PIL import Image

_logger = logging.getLogger(__name__)

_D50_XYZ = np.array([0.9642, 1.0, 0.8249])
_BRADFORD = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])
_SRGB_CURVE = (2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)
_SAME_LEVELS = 1
"""Conversions that move no colour by more than this are left out: most profiles are sRGB itself."""


def find_srgb_conversion(picture: Image.Image, path: Path) -> Callable[[Image.Image], Image.Image]:
    """Give what turns a band of this picture to mode "RGB" in sRGB. Alpha is left out.

    A profile that is damaged or made for other channels is left out, with a line in the log.

    Raises:
        FaceError: for HDR.
    """
    profile = picture.info.get("icc_profile")
    cicp = (read_profile_cicp(profile) if profile else None) or read_cicp(picture, path)
    if cicp and cicp[1] in HDR_TRANSFERS:
        raise FaceError(
            f"{path.name} is an HDR photo ({HDR_TRANSFERS[cicp[1]]}), whose tones do not fit into 8 bits; "
            "export it as a standard (SDR) JPEG"
        )
    if not profile:
        space = find_colour_space(picture, cicp)
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
