"""From frames and pixels to latents and tokens: the arithmetic of Wan's VAE and patches.

The VAE takes 4 frames to one latent frame (the first frame stands alone, hence 4k+1 frames) and 8x8
pixels to one latent pixel; a patch of the transformer is 1x2x2 latents. So a token covers 16x16
pixels of 4 frames, and 81 frames of 640x640 are 21 * 40 * 40 = 33,600 tokens.
"""

from __future__ import annotations

from typing import overload

import numpy as np

from .spec import LynxError

FRAMES_PER_LATENT = 4
_PX_PER_LATENT = 8
PATCH_SIZE = (1, 2, 2)
"""Latent frames, rows and columns of one token."""
PX_PER_TOKEN = _PX_PER_LATENT * PATCH_SIZE[1]

LatentShape = tuple[int, int, int]
"""Latent frames, latent height, latent width."""


def latent_shape(num_frames: int, height_px: int, width_px: int) -> LatentShape:
    """What the VAE makes of a clip.

    Raises:
        LynxError: when the frames are not 4k+1, or a side is no multiple of 16 px.
    """
    if num_frames < 1 or num_frames % FRAMES_PER_LATENT != 1:
        raise LynxError(f"a clip has 4k+1 frames (1, 5, 9, ... 81), got {num_frames}")
    for name, size_px in (("height", height_px), ("width", width_px)):
        if size_px < PX_PER_TOKEN or size_px % PX_PER_TOKEN:
            raise LynxError(f"the {name} of a clip is a multiple of {PX_PER_TOKEN} px, got {size_px}")
    num_latent_frames = (num_frames - 1) // FRAMES_PER_LATENT + 1
    return num_latent_frames, height_px // _PX_PER_LATENT, width_px // _PX_PER_LATENT


@overload
def count_tokens(shape: LatentShape) -> int: ...
@overload
def count_tokens(shape: np.ndarray) -> np.ndarray: ...
def count_tokens(shape: LatentShape | np.ndarray) -> int | np.ndarray:
    """Count the tokens of latents: 33,600 for those of 81 frames of 640x640 px.

    Args:
        shape: latent frames, height and width; or [3, n] of n samples, which gives [n].

    Raises:
        LynxError: when a side is not a whole number of patches.
    """
    tokens: int | np.ndarray = 1
    for size, patch in zip(shape, PATCH_SIZE, strict=True):
        if np.any(size % patch) or np.any(size < patch):
            shown = list(shape) if isinstance(shape, tuple) else "these shapes"
            raise LynxError(
                f"a latent of {shown} (frames, height, width) cannot be cut into patches of {list(PATCH_SIZE)}; "
                f"width and height in pixels must be multiples of {PX_PER_TOKEN}"
            )
        tokens = tokens * (size // patch)
    return tokens
