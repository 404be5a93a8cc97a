"""One sample as a training step takes it, and the nulls that stand in for what is dropped.

Shape letters: C latent channels, T latent frames, H and W latent height and width, L text tokens,
D width of the text.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import Tensor

from ..tokens import LatentShape, count_tokens


@dataclass(frozen=True, eq=False)
class Sample:
    """A target with all that conditions it."""

    id: str
    kind: str
    caption: str
    latents: Tensor
    """x0 in model space, [C, T, H, W] float32."""
    text: Tensor
    """Tokens of the caption without padding, [L, D]."""
    embedding: Tensor | None
    """Unit identity embedding, [512] float32; the mean over the references."""
    reference_latents: Tensor | None
    """Of the first reference's 256 px crop, [C, 1, 32, 32] float32."""

    @property
    def shape(self) -> LatentShape:
        """Latent frames, height and width."""
        return (self.latents.shape[1], self.latents.shape[2], self.latents.shape[3])

    @property
    def num_tokens(self) -> int:
        """Of the target alone, without text, identity and reference."""
        return count_tokens(self.shape)

    def keep_frames(self, num_latent_frames: int) -> Sample:
        """The first latent frames only: what the VAE, being causal, gives for the shorter clip."""
        if not 1 <= num_latent_frames <= self.shape[0]:
            raise ValueError(
                f"{self.id} has {self.shape[0]} latent frames, asked to keep {num_latent_frames}"
            )
        return replace(self, latents=self.latents[:, :num_latent_frames].contiguous())


@dataclass(frozen=True, eq=False)
class Nulls:
    """What takes the place of a dropped condition, the same as in inference.

    The null identity is not here: it is the resampler's answer to an embedding of zeros.
    """

    empty_text: Tensor
    """Tokens of the empty prompt, [L, D]."""
    reference_text: Tensor
    """Tokens of `REFERENCE_PROMPT`, [L, D]: no null, but the text of every reference pass."""
    grey_reference: Tensor
    """Latents of a mid-grey 256 px image, [C, 1, 32, 32] float32."""
