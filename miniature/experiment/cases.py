"""The cases: people, captions and photos that no training saw, and what they become once encoded."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lynx_core.data.encoders import UMT5TextEncoder, WanVideoEncoder
from lynx_core.faces.analyzer import ArcFaceRecogniser
from lynx_core.faces.arcface import load_arcface
from lynx_core.faces.crops import crop_aligned
from lynx_core.hashing import hash_file, hash_values
from lynx_core.spec import REFERENCE_CROP_PX, REFERENCE_PROMPT

from ..parts.pixel_signal import to_signal
from ..parts.resumable import write_beside
from ..world.clip import NUM_FRAMES
from ..world.draws import FIRST_HELD_OUT_IDENTITY, draw_shot
from ..world.identity import draw_identity
from ..world.pairs import Pair, draw_pair

NUM_PEOPLE = 128
FIRST_PERSON = FIRST_HELD_OUT_IDENTITY + 10_000
"""Beyond the held-out people that training validates on."""
GALLERY_PICTURES = 4
"""Of each person, in scenes that are neither the photo's nor the video's."""


@dataclass(frozen=True)
class EncodedCases:
    """What the cases' photos and captions become."""

    texts: list[Tensor]
    """[L, 4096] each."""
    embeddings: Tensor
    """[128, 512], each of length 1."""
    references: Tensor
    """Latents of the face crops, [128, 16, 1, 32, 32]."""
    empty_text: Tensor
    """[L, 4096]."""
    reference_text: Tensor
    """[L, 4096]."""
    grey_reference: Tensor
    """[16, 1, 32, 32]."""
    key: str
    """Equal for equal files of the encoders."""


def draw_cases() -> list[Pair]:
    """A photo of each person in one scene, and a target with a held-out caption in another."""
    return [
        draw_pair(FIRST_PERSON + i, "multi-scene", is_video=True, held_out_captions=True)
        for i in range(NUM_PEOPLE)
    ]


def draw_gallery() -> np.ndarray:
    """Pictures of the people elsewhere, [128, 4, H, W, 3] uint8 RGB."""
    return np.stack(
        [
            [
                draw_shot(draw_identity(FIRST_PERSON + i), 5 * 10**8 + GALLERY_PICTURES * i + k).draw_frame(
                    NUM_FRAMES // 2
                )
                for k in range(GALLERY_PICTURES)
            ]
            for i in range(NUM_PEOPLE)
        ]
    )


def encode_cases(cases: list[Pair], work: Path, assets: Path) -> EncodedCases:
    """Encode as the trainer does; kept in `work`/experiment.

    Raises:
        DataError, FaceError: when an encoder is not there.
    """
    face_path = assets / "lynx" / "faces" / "lynx_mini_arcface.safetensors"
    recogniser = ArcFaceRecogniser(load_arcface(face_path))
    video = WanVideoEncoder(work / "vae")
    text = UMT5TextEncoder(work / "text_encoder", work / "tokenizer")
    key = hash_values([video.fingerprint, text.fingerprint, hash_file(face_path), len(cases)])[:12]
    path = work / "experiment" / f"cases-{key}.pt"
    if not path.is_file():
        photos = [crop_aligned(case.draw_reference()) for case in cases]
        state: dict[str, Any] = {
            "texts": [text.encode(case.caption) for case in cases],
            "embeddings": recogniser.embed([photo.id_crop for photo in photos]),
            "references": torch.stack(
                [video.encode(_to_clip(photo.reference_crop)) for photo in photos]
            ).float(),
            "empty_text": text.encode(""),
            "reference_text": text.encode(REFERENCE_PROMPT),
            "grey_reference": video.encode(torch.zeros(3, 1, REFERENCE_CROP_PX, REFERENCE_CROP_PX)).float(),
        }
        write_beside(path, lambda beside: torch.save(state, beside))
    return EncodedCases(**torch.load(path, weights_only=True), key=key)


def _to_clip(photo: np.ndarray) -> Tensor:
    """[H, W, 3] uint8 -> [3, 1, H, W], -1 to 1."""
    return to_signal(photo)[:, None]
