"""From frames and pixels to latents and tokens: the arithmetic of Wan's VAE and patches.

The VAE takes 4 frames to one latent frame (the first frame stands alone, hence 4k+1 frames) and 8x8
pixels to one latent pixel; a patch of the transformer is 1x2x2 latents. So a token covers 16x16
pixels of 4 frames, and 81 frames of 640x640 are 21 * 40 * 40 = 33,600 tokens.
"""

from __future__ import annotations

FRAMES_PER_LATENT = 4
PX_PER_LATENT = 8
PATCH_LATENTS = 2
PX_PER_TOKEN = PX_PER_LATENT * PATCH_LATENTS

LatentShape = tuple[int, int, int]
"""Latent frames, latent height, latent width."""


def latent_shape(num_frames: int, height_px: int, width_px: int) -> LatentShape:
    """What the VAE makes of a clip.

    Raises:
        ValueError: when the frames are not 4k+1, or a side is no multiple of 16 px.
    """
    if num_frames < 1 or num_frames % FRAMES_PER_LATENT != 1:
        raise ValueError(f"a clip has 4k+1 frames (1, 5, 9, ... 81), got {num_frames}")
    for name, size_px in (("height", height_px), ("width", width_px)):
        if size_px < PX_PER_TOKEN or size_px % PX_PER_TOKEN:
            raise ValueError(f"the {name} of a clip is a multiple of {PX_PER_TOKEN} px, got {size_px}")
    num_latent_frames = (num_frames - 1) // FRAMES_PER_LATENT + 1
    return num_latent_frames, height_px // PX_PER_LATENT, width_px // PX_PER_LATENT


def tokens_per_frame(shape: LatentShape) -> int:
    """Tokens of one latent frame."""
    return (shape[1] // PATCH_LATENTS) * (shape[2] // PATCH_LATENTS)


def count_latent_tokens(shape: LatentShape) -> int:
    """Tokens of a clip's latents."""
    return shape[0] * tokens_per_frame(shape)


def count_tokens(num_frames: int, height_px: int, width_px: int) -> int:
    """Tokens of a clip; an image is a clip of one frame. 81 frames of 640x640 px are 33,600.

    Raises:
        ValueError: as `latent_shape`.
    """
    return count_latent_tokens(latent_shape(num_frames, height_px, width_px))
