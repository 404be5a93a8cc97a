"""Photos of any kind as uint8 RGB arrays: from ComfyUI's IMAGE tensors, and from files.

Transparent parts become mid-grey, the tone of the release's null image, so that no colour of the
file's hidden pixels reaches the detector.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from .errors import FaceError, import_package

BACKGROUND = 0.5


def convert_image(image: Tensor) -> list[np.ndarray]:
    """Photos of an IMAGE-like tensor [B, H, W, C], float 0 to 1, C = 1, 3 or 4, as [H, W, 3] uint8 RGB.

    Values outside 0 to 1 are clipped. 8-bit values come back exactly.

    Raises:
        FaceError: for another shape, an empty tensor, and NaN or infinite values.
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
        photos.append(flatten_pixels(photo.numpy()))
    return photos


def convert_photos(photos: list[np.ndarray]) -> Tensor:
    """Photos [H, W, 3] uint8 RGB of one size as an IMAGE tensor [B, H, W, 3], float 0 to 1."""
    return torch.from_numpy(np.stack(photos)).float() / 255


def flatten_pixels(pixels: np.ndarray) -> np.ndarray:
    """[H, W, 1|3|4] floats 0 to 1 as [H, W, 3] uint8 RGB, alpha composited on mid-grey."""
    pixels = pixels.clip(0, 1)
    colour = pixels[..., :3]
    if pixels.shape[-1] == 4:
        alpha = pixels[..., 3:]
        colour = colour * alpha + BACKGROUND * (1 - alpha)
    colour = np.broadcast_to(colour, (*pixels.shape[:2], 3))
    return (colour * 255).round().astype(np.uint8)


def load_photo(path: Path | str) -> np.ndarray:
    """A photo file as [H, W, 3] uint8 RGB, upright by its EXIF tag; any depth and colour mode of Pillow.

    Raises:
        FaceError: when the file is missing, is no picture, or breaks off.
    """
    path = Path(path)
    if not path.is_file():
        raise FaceError(f"there is no photo at {path}")
    image_module = import_package("PIL.Image", "reading photos")
    image_ops = import_package("PIL.ImageOps", "reading photos")
    try:
        with image_module.open(path) as opened:
            photo = image_ops.exif_transpose(opened)
            if photo.mode.startswith(("I", "F")):
                return flatten_pixels(
                    normalise_depth(np.asarray(photo, dtype=np.float64), photo.mode)[..., None]
                )
            has_alpha = photo.mode in ("LA", "PA", "RGBA", "RGBa") or "transparency" in photo.info
            pixels = np.asarray(photo.convert("RGBA" if has_alpha else "RGB"))
    except (OSError, SyntaxError, ValueError, image_module.DecompressionBombError) as error:
        raise FaceError(
            f"{path} cannot be read as a photo ({error}); save it again as JPEG or PNG"
        ) from error
    return flatten_pixels(pixels.astype(np.float32) / 255)


def normalise_depth(values: np.ndarray, mode: str) -> np.ndarray:
    """Grey values of a deep file (Pillow's "I..." and "F" modes) as 0 to 1.

    Whole numbers are 16 bits; floats up to 1 are taken as they are, larger ones as 8 or 16 bits.
    """
    if not np.isfinite(values).all():
        raise ValueError("it holds NaN or infinite values")
    if mode.startswith("F"):
        largest = values.max()
        return values / (1 if largest <= 1 else 255 if largest <= 255 else 65535)
    return values / 65535
