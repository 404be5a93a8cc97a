"""The samples of a packed sequence, and how latents become tokens and back.

Shapes: N samples, S tokens of the packed sequence, C latent channels, T H W latent frames, height and
width, L tokens of a text (at most TEXT_LENGTH), D width of a text.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from einops import rearrange
from torch import Tensor
from torch.nn import functional as F

from ..spec import TEXT_LENGTH, LynxError
from ..tokens import PATCH_SIZE, count_tokens
from .segment_attention import Segments


@dataclass(frozen=True)
class PackedInputs:
    """The samples of a packed sequence.

    Raises:
        LynxError: when the fields do not describe the same number of samples, or references
            come without the text of the reference pass.
    """

    latents: Sequence[Tensor]
    """[C, T, H, W] of each sample: noisy, in model space."""
    timesteps: Tensor
    """[N], 0 to 1000."""
    texts: Sequence[Tensor]
    """[L, D] of each sample, not padded."""
    embeddings: Tensor | None = None
    """[N, EMBEDDING_DIM]; zeros are the null identity. None: no identity at all."""
    reference_latents: Sequence[Tensor | None] | None = None
    """[C, 1, H, W] of each sample, None for a sample without a reference."""
    reference_text: Tensor | None = None
    """[L, D]: REFERENCE_PROMPT, encoded."""

    def __post_init__(self) -> None:
        counts = {
            name: len(value)
            for name in ("latents", "timesteps", "texts", "embeddings", "reference_latents")
            if (value := getattr(self, name)) is not None
        }
        if len(set(counts.values())) != 1 or not self.latents:
            raise LynxError(f"a packed sequence needs one entry for each sample in every field, got {counts}")
        if self.reference_latents is not None and self.reference_text is None:
            raise LynxError("reference_latents need reference_text, the encoded prompt of the reference pass")


def count_latent_tokens(latents: Sequence[Tensor | None]) -> Segments:
    """Count the tokens of each latent [C, T, H, W]; 0 for None.

    Raises:
        LynxError: when a side is not a whole number of patches.
    """
    shapes = [None if latent is None else latent.shape[1:] for latent in latents]
    return Segments(tuple(count_tokens((s[0], s[1], s[2])) if s else 0 for s in shapes))


def patchify(latents: Sequence[Tensor]) -> Tensor:
    """Lay the patches of all samples in one sequence, [tokens, channels * patch volume]."""
    pt, ph, pw = PATCH_SIZE
    pattern = "c (t pt) (h ph) (w pw) -> (t h w) (c pt ph pw)"
    return torch.cat([rearrange(latent, pattern, pt=pt, ph=ph, pw=pw) for latent in latents])


def unpatchify(patches: Tensor, tokens: Segments, like: Sequence[Tensor]) -> list[Tensor]:
    """Turn a sequence of predicted patches into one latent for each sample, shaped as in `like`.

    The model's head puts the channels last in a patch: [tokens, patch volume * channels].
    """
    pt, ph, pw = PATCH_SIZE
    pattern = "(t h w) (pt ph pw c) -> c (t pt) (h ph) (w pw)"
    return [
        rearrange(piece, pattern, pt=pt, ph=ph, pw=pw, h=latent.shape[2] // ph, w=latent.shape[3] // pw)
        for piece, latent in zip(tokens.split(patches), like, strict=True)
    ]


def index_text(texts: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Lay out texts padded with zeros to TEXT_LENGTH tokens, with the padding stored once.

    All padding gives the same key and value, so it need not be projected 500 times a text.

    Args:
        texts: [at most 512, text_dim] each.

    Returns:
        Distinct tokens [tokens + 1, text_dim], the last of them zeros, and the row of each padded
        token, [len(texts) * TEXT_LENGTH].

    Raises:
        LynxError: when a text is longer.
    """
    num_tokens = sum(len(text) for text in texts)
    rows = torch.full((len(texts), TEXT_LENGTH), num_tokens)
    first = 0
    for row, text in zip(rows, texts, strict=True):
        if len(text) > TEXT_LENGTH:
            raise LynxError(f"a text has {len(text)} tokens, more than {TEXT_LENGTH}; shorten the caption")
        row[: len(text)] = torch.arange(first, first + len(text))
        first += len(text)
    return F.pad(torch.cat(list(texts)), (0, 0, 0, 1)), rows.flatten().to(texts[0].device)
