"""Colours of a picture file as sRGB: embedded profiles through LittleCMS."""

from __future__ import annotations

import io
import logging
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import first_line

if TYPE_CHECKING:
    from PIL import Image

_logger = logging.getLogger(__name__)


def find_srgb_conversion(picture: Image.Image, path: Path) -> Callable[[Image.Image], Image.Image]:
    """Give what turns a band of this picture to mode "RGB" in sRGB. Alpha is left out.

    Raises:
        FaceError: for HDR, which has no 8-bit sRGB without a choice of tones.
    """
    profile = picture.info.get("icc_profile")
    if not profile:
        return to_rgb
    from PIL import ImageCms

    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        space = source.profile.xcolor_space.strip()
        mode = {"RGB": "RGB", "GRAY": "L", "CMYK": "CMYK"}[space]
        transform = ImageCms.buildTransform(
            source,
            ImageCms.createProfile("sRGB"),
            mode,
            "RGB",
            ImageCms.Intent.RELATIVE_COLORIMETRIC,
            ImageCms.Flags.BLACKPOINTCOMPENSATION,
        )
    except (OSError, KeyError, ValueError, TypeError, ImageCms.PyCMSError) as error:
        _logger.warning(
            "%s: its colour profile is damaged (%s); its colours are taken as sRGB",
            path.name,
            first_line(error),
        )
        return to_rgb

    def convert(band: Image.Image) -> Image.Image:
        return transform.apply(_to_mode(band, mode))

    return convert


def to_rgb(band: Image.Image) -> Image.Image:
    return _to_mode(band, "RGB")


def _to_mode(band: Any, mode: str) -> Any:
    return band if band.mode == mode else band.convert(mode)
