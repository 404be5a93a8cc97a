"""Facts that every part of the pack shares, each written down here and nowhere else."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from torch import Tensor

REFERENCE_PROMPT = "image of a face"
"""Text of the reference pass, fixed by the release."""

TEXT_LENGTH = 512
"""Prompts are padded to this many tokens with zeros and attended in full, as in inference."""

ID_CROP_PX = 112
"""Side of the ArcFace crop, which the recogniser sees."""

REFERENCE_CROP_PX = 256
"""Side of the wider crop, which the Ref-adapter sees."""

EMBEDDING_DIM = 512
"""Width of a face embedding, of both recognisers below."""

# Embeddings of different recognisers are not interchangeable: the wrong one gives a wrong person. No
# published adapter file names its recogniser, so it follows from the layout (InstantID's resampler sits
# under `image_proj.`); only this pack's own single file stores it.

RELEASE_RECOGNISER = "facexlib/arcface_ir_se50"
"""The recogniser of the Lynx release: facexlib's ArcFace IR-SE50."""

INSTANTID_RECOGNISER = "insightface/antelopev2/glintr100"
"""The recogniser of InstantID's resampler. Other model packs are named likewise: insightface/<pack>/<model>."""

Variant = Literal["full", "id_only", "ref_only", "lite"]
"""full: ID and reference; id_only, ref_only: one of them; lite: ID in every second block."""

Quantisation = Literal["none", "fp8", "int8"]
"""Weight-only storage of the base's linear layers."""

AttentionBackend = Literal["loop", "varlen", "flash"]
"""Kernels of attention inside each sample of a packed sequence. `loop`: SDPA for each run of equal samples;
`varlen`: torch.nn.attention.varlen; `flash`: the package flash-attn (version 3 if there, else 2)."""

NULL_GREY = 0.5
"""Mid-grey in 0 to 1, which is 0 in the VAE's -1 to 1: the null image, and what lies behind transparency."""


class LynxError(ValueError):
    """Base of all errors of the pack. The message names the thing, the value seen and the way out."""


def null_embedding() -> Tensor:
    """Make the null identity, [EMBEDDING_DIM] zeros; the resampler turns it into null tokens."""
    import torch  # not at the top: comfy-lynx doctor tells when torch is missing

    return torch.zeros(EMBEDDING_DIM)


def null_image() -> Tensor:
    """Make the null reference, [REFERENCE_CROP_PX, REFERENCE_CROP_PX, 3] mid-grey in 0 to 1."""
    import torch

    return torch.full((REFERENCE_CROP_PX, REFERENCE_CROP_PX, 3), NULL_GREY)


def first_line(error: BaseException) -> str:
    """Cut an error's text to its first line, for a message that has to stay short."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
