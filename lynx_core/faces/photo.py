"""Photos as uint8 RGB arrays: from ComfyUI's IMAGE tensors, and from picture files of every kind.

`load_photo` is the only way in which this project reads a photo. It gives what a viewer shows: upright,
colours in sRGB, transparent parts on mid-grey (the tone of the release's null image, so that no colour
of hidden pixels reaches the detector). A picture is converted in bands of rows, so that beside the
decoder's own memory it takes 3 bytes a pixel.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from ..spec import NULL_GREY
from .errors import FaceError
from .picture_colours import find_srgb_conversion
from .picture_file import PhotoInfo, UnknownPictureError, decode_picture, open_picture, read_info

if TYPE_CHECKING:
    from PIL import Image

__all__ = [
    "PhotoInfo",
    "UnknownPictureError",
    "convert_image",
    "convert_photos",
    "convert_picture",
    "load_photo",
    "probe_photo",
]

_BAND_PX = 2**18
"""Pixels that are converted at a time."""

_INT32_MAX = 2**31 - 1
_BITS_PER_SAMPLE, _PHOTOMETRIC, _WHITE_IS_0 = 258, 262, 0
"""Tags of TIFF, and a value, that Pillow heeds at 8 bits only."""


def convert_image(image: Tensor) -> list[np.ndarray]:
    """Photos of an IMAGE-like tensor [B, H, W, C], float 0 to 1, C = 1, 3 or 4, as [H, W, 3] uint8 RGB.

    Values outside 0 to 1 are clipped. 8-bit values come back exactly.

    Raises:
        FaceError: for another shape, an empty tensor, NaN or infinite values, and a photo that is
            transparent all over.
    """
    if image.ndim == 3:
        image = image.unsqueeze(0)
    if image.ndim != 4 or image.shape[-1] not in (1, 3, 4):
        raise FaceError(
            f"an image is [batch, height, width, channels] with 1, 3 or 4 channels, got {list(image.shape)}"
        )
    if image.numel() == 0:
        raise FaceError(f"the image is empty: shape {list(image.shape)}; connect a photo")
    pixels = image.detach().to("cpu", torch.float32)
    photos = []
    for number, photo in enumerate(pixels, start=1):
        if not torch.isfinite(photo).all():
            bad = int((~torch.isfinite(photo)).sum())
            raise FaceError(
                f"photo {number} of {len(pixels)} holds {bad} NaN or infinite values; "
                f"look at the node that made it (a VAE in fp16 does this)"
            )
        if photo.shape[-1] == 4 and photo[..., 3].max() <= 0:
            raise FaceError(f"photo {number} of {len(pixels)} is transparent all over; nothing of it shows")
        photos.append(_flatten_pixels(photo.numpy()))
    return photos


def convert_photos(photos: list[np.ndarray]) -> Tensor:
    """Photos [H, W, 3] uint8 RGB of one size as an IMAGE tensor [B, H, W, 3], float 0 to 1."""
    return torch.from_numpy(np.stack(photos)).float() / 255


def load_photo(path: Path | str, at_least_px: tuple[int, int] | None = None) -> np.ndarray:
    """Read a photo file as [H, W, 3] uint8 RGB: upright, in sRGB, transparent parts on mid-grey.

    Args:
        path: the file; its format follows from its content, never from its name.
        at_least_px: (width, height) of the upright photo that is enough. A JPEG is then decoded at 1/2,
            1/4 or 1/8 of its size where that is no smaller, which saves memory and time.

    Raises:
        UnknownPictureError: when the content is in no picture format.
        FaceError: when the file is missing, empty, damaged, an animation, a document of several pages, a
            camera's raw file, HDR, too large, or transparent all over.
    """
    path = Path(path)
    with open_picture(path) as picture:
        info = read_info(picture, path)
        if info.num_frames > 1:
            raise FaceError(
                f"{path.name} is an animation of {info.num_frames} frames and no photo; "
                "save the frame that shows the person as PNG"
            )
        if at_least_px and picture.format in ("JPEG", "MPO"):
            swaps = info.orientation >= 5
            picture.draft(None, at_least_px[::-1] if swaps else at_least_px)
        decode_picture(picture, path)
        return convert_picture(picture, path, info.orientation)


def probe_photo(path: Path | str) -> PhotoInfo:
    """Read what a photo file is, without converting its pixels; several frames mean an animation.

    Raises:
        UnknownPictureError: when the content is in no picture format; it may be a video.
        FaceError: for other files that `load_photo` refuses, as far as a header shows.
    """
    path = Path(path)
    with open_picture(path) as picture:
        info = read_info(picture, path)
        find_srgb_conversion(picture, path)
        return info


def convert_picture(picture: Image.Image, path: Path, orientation: int = 1) -> np.ndarray:
    """Convert a decoded picture of Pillow, or one frame of an animation, to [H, W, 3] uint8 RGB.

    Args:
        picture: decoded, in any mode.
        path: the file it is from, for messages and for what Pillow does not read.
        orientation: EXIF's number of the turn that the pixels still need, 1 to 8.

    Raises:
        FaceError: for HDR, NaN, and a picture that is transparent all over.
    """
    to_srgb = find_srgb_conversion(picture, path)
    limits = _measure_range(picture, path)
    size = picture.size if orientation >= 5 else picture.size[::-1]
    photo = np.empty((*size, 3), np.uint8)
    as_stored = _view_as_stored(photo, orientation)
    num_rows = max(1, _BAND_PX // picture.width)
    shows = False
    for top in range(0, picture.height, num_rows):
        bottom = min(top + num_rows, picture.height)
        band = picture.crop((0, top, picture.width, bottom))
        alpha = _read_alpha(band)
        band.info.pop("transparency", None)  # Pillow converts it along, and warns
        shows |= alpha is None or bool(alpha.any())
        colours = np.asarray(to_srgb(_drop_depth(band, limits)))
        as_stored[top:bottom] = colours if alpha is None else _flatten_alpha(colours, alpha)
    if not shows:
        raise FaceError(f"{path.name} is transparent all over; nothing of it shows")
    return photo


def _view_as_stored(photo: np.ndarray, orientation: int) -> np.ndarray:
    """The upright [H, W, 3] array, seen in the order of the rows and columns of the file."""
    views = {
        2: photo[:, ::-1],
        3: photo[::-1, ::-1],
        4: photo[::-1],
        5: photo.swapaxes(0, 1),
        6: np.rot90(photo),
        7: photo[::-1, ::-1].swapaxes(0, 1),
        8: np.rot90(photo, -1),
    }
    return views.get(orientation, photo)


def _read_alpha(band: Image.Image) -> np.ndarray | None:
    """[H, W] uint8 opacity; None where the picture has none."""
    if band.mode in ("RGBA", "LA", "PA", "RGBa", "La"):
        return np.asarray(band.getchannel("A" if band.mode[-1] == "A" else "a"))
    if "transparency" not in band.info:
        return None
    if band.mode.startswith("I"):
        return (np.asarray(band) != band.info["transparency"]).astype(np.uint8) * 255
    return np.asarray(band.convert("RGBA").getchannel("A"))


def _flatten_pixels(pixels: np.ndarray) -> np.ndarray:
    """[H, W, 1|3|4] floats 0 to 1 as [H, W, 3] uint8 RGB, alpha composited on mid-grey."""
    pixels = pixels.clip(0, 1)
    colour = pixels[..., :3]
    if pixels.shape[-1] == 4:
        alpha = pixels[..., 3:]
        colour = colour * alpha + NULL_GREY * (1 - alpha)
    colour = np.broadcast_to(colour, (*pixels.shape[:2], 3))
    return (colour * 255).round().astype(np.uint8)


def _flatten_alpha(colours: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """uint8 RGB and opacity, composited on mid-grey."""
    return _flatten_pixels(np.concatenate([colours, alpha[..., None]], axis=-1).astype(np.float32) / 255)


def _measure_range(picture: Any, path: Path) -> tuple[float, float] | None:
    """The values that are black and white in a picture of more than 8 bits ("I..." and "F"); None for 8 bits.

    Whole numbers are 16 bits, or 32 where they are larger, or what TIFF says; floats up to 1 are taken
    as they are, larger ones as 8 or 16 bits.
    """
    if not picture.mode.startswith(("I", "F")):
        return None
    if picture.mode == "F" and not np.isfinite(np.asarray(picture)).all():
        raise FaceError(f"{path.name} holds NaN or infinite values; save it again as 8 or 16 bits")
    tags = getattr(picture, "tag_v2", {})
    bits = tags.get(_BITS_PER_SAMPLE, (16,))[0]
    largest = picture.getextrema()[1] if picture.mode in ("I", "F") else 0
    tops = (1, 255, 65535, largest) if picture.mode == "F" else (65535, _INT32_MAX)
    white = 2**bits - 1 if 8 < bits < 16 else next(top for top in tops if largest <= top)
    return (white, 0) if tags.get(_PHOTOMETRIC) == _WHITE_IS_0 else (0, white)


def _drop_depth(band: Image.Image, limits: tuple[float, float] | None) -> Image.Image:
    """The band at 8 bits; `limits` is of `_measure_range`."""
    if limits is None:
        return band
    from PIL import Image

    black, white = limits
    grey = (np.asarray(band).astype(np.float32) - black) / (white - black)
    return Image.fromarray((grey.clip(0, 1) * 255).round().astype(np.uint8))
