"""Where in the picture a person is: a mask, from pixels to the tokens of the video."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

PIXELS_PER_LATENT_FRAME = 4
"""Wan's VAE: latent frame 0 is pixel frame 0, every later one stands for four."""

LATENT_DIMS = 5
"""Of a video's latent: batch, channels, frames, height, width."""

PIXELS_PER_TOKEN = 16
"""Of Wan 14B, along each side."""

MAX_ASPECT_DIFFERENCE = 0.05

MIN_WEIGHT = 0.1
"""Where a mask weighs a person nowhere more, nothing of the person shows."""


def count_frames(num_latent_frames: int) -> int:
    """Count the frames of the video that a latent becomes."""
    return PIXELS_PER_LATENT_FRAME * (num_latent_frames - 1) + 1


@dataclass(frozen=True)
class LatentPart:
    """The part of a video's latent that the rows of one call show: a context window, an area, or all of it."""

    frames: Sequence[int]
    """Numbers of its latent frames in the whole video."""
    lines: Sequence[int]
    columns: Sequence[int]
    """The same of what is in each frame."""
    size: tuple[int, int]
    """Height and width of the whole latent."""
    patch: tuple[int, int]
    """Height and width of a token, in the latent."""

    @property
    def height(self) -> int:
        """Tokens from top to bottom."""
        return math.ceil(len(self.lines) / self.patch[0])

    @property
    def width(self) -> int:
        """Tokens from left to right."""
        return math.ceil(len(self.columns) / self.patch[1])


class Region:
    """A mask of one person.

    Args:
        mask: [frames, height, width] in 0 to 1, one image for the whole video or one for each of its frames.
        leading_frames: latent frames in front of the video that the mask does not count (VACE's reference frames);
            the first frame's mask holds in them.

    Raises:
        ValueError: when it is no mask, not finite, or empty.
    """

    def __init__(self, mask: Tensor, leading_frames: int = 0) -> None:
        if mask.ndim == 2:
            mask = mask[None]
        if mask.ndim != 3 or not mask.numel():
            raise ValueError(f"a mask is [frames, height, width], got {list(mask.shape)}")
        mask = mask.detach().to("cpu", torch.float32)
        if not mask.isfinite().all():
            raise ValueError("the mask holds NaN or infinite values; look at the node that made it")
        self.mask = mask.clamp(0.0, 1.0)
        if not self.mask.any():
            raise ValueError(
                "the mask is empty (0 everywhere), so this person would be nowhere in the video. Paint where the person "
                "is in white, or invert the mask; to leave the person out, bypass this node."
            )
        self.leading_frames = leading_frames
        self._latents: dict[tuple[int, int], Tensor] = {}

    @property
    def num_frames(self) -> int:
        return len(self.mask)

    def describe(self) -> str:
        """Say in one line where the person is."""
        frames = "the same in every frame" if self.num_frames == 1 else f"{self.num_frames} frames"
        if self.is_uniform:
            return f"mask: one grey all over each frame, {frames}"
        share = f"{float(self.mask.mean()):.1%}".replace(".0%", "%")
        return f"mask: white in {share} of the picture, {frames}"

    @property
    def is_uniform(self) -> bool:
        """Whether it says when the person is there, and not where, as a fade does."""
        return self.mask.shape[1:] == (1, 1)

    def list_remarks(self) -> list[str]:
        """Say where a mask lets a person act next to nothing, or not at all."""
        height, width = self.mask.shape[1:]
        grid = (max(height // PIXELS_PER_TOKEN, 1), max(width // PIXELS_PER_TOKEN, 1))
        strongest = F.interpolate(self.mask[:, None], grid, mode="area").flatten(1).amax(1)
        weight = float(strongest.max())
        if weight < MIN_WEIGHT:
            return [
                f"The mask is nearly black: nowhere does the person act with more than {weight:.1%}. Paint where the person is "
                "in white, larger than 16 px."
            ]
        black = int((strongest < MIN_WEIGHT).sum())
        if black and not self.is_uniform:
            return [
                f"The mask is black or nearly so in {black} of its {self.num_frames} frames: no person there."
            ]
        return []

    def check_frames(self, num_latent_frames: int) -> None:
        """Refuse a mask of another length than the video.

        Raises:
            ValueError: with both numbers of frames.
        """
        expected = count_frames(num_latent_frames - self.leading_frames)
        if self.num_frames in (1, expected):
            return
        leading = self.leading_frames
        not_counted = f" without the {leading} latent frames of vace_reference_frames" if leading else ""
        hint = (
            " If the latent begins with VACE's own reference images, connect trim_latent of WanVaceToVideo to "
            "vace_reference_frames: the mask does not count those."
            if not leading and self.num_frames < expected
            else " Is vace_reference_frames the trim_latent of WanVaceToVideo?"
            if leading
            else ""
        )
        raise ValueError(
            f"The mask of a Lynx Apply has {self.num_frames} frames, the video has {expected}{not_counted}: connect one "
            f"image, or one for each frame.{hint}"
        )

    def find_stretch(self, height: int, width: int) -> str | None:
        """Say that a mask has another shape than a video of this latent size; None when it has the same, or none."""
        if self.is_uniform:
            return None
        mask_height, mask_width = self.mask.shape[1:]
        if abs((mask_width / mask_height) / (width / height) - 1) <= MAX_ASPECT_DIFFERENCE:
            return None
        return (
            f"The mask of a Lynx Apply is {mask_width}x{mask_height} px, the video {8 * width}x{8 * height} px: the mask is "
            "stretched over it."
        )

    def to_tokens(self, part: LatentPart, device: torch.device) -> Tensor:
        """Give the weight of every token of a part of the video, [frames * height * width].

        Beyond the mask's own frames, its last one counts.
        """
        latent = self._to_latent(part.size)
        frames = [min(max(frame - self.leading_frames, 0), len(latent) - 1) for frame in part.frames]
        cut = latent[frames][:, part.lines][:, :, part.columns]
        # The host fills up the last token of an odd side; what it fills in is not seen.
        padding = (0, -cut.shape[2] % part.patch[1], 0, -cut.shape[1] % part.patch[0])
        tokens = F.avg_pool2d(F.pad(cut[:, None], padding, mode="replicate"), part.patch)
        return tokens.flatten().to(device)

    def _to_latent(self, size: tuple[int, int]) -> Tensor:
        """Give the weight of every place of a latent of this height and width, [latent frames, height, width]."""
        if size not in self._latents:
            small = F.interpolate(self.mask[:, None], size, mode="area")[:, 0]
            # Each latent frame gets the mean of its pixel frames.
            later = small[1:]
            groups = later.split(PIXELS_PER_LATENT_FRAME) if len(later) else ()
            self._latents[size] = torch.stack([small[0], *(group.mean(0) for group in groups)])
        return self._latents[size]


def share_overlaps(weights: Sequence[Tensor]) -> list[Tensor]:
    """Let people share the tokens on which their weights add up to more than 1; each [tokens]."""
    total = torch.stack(list(weights)).sum(0).clamp(min=1.0)
    return [weight / total for weight in weights]
