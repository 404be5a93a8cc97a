"""What the base learns from: drawings of its own, as latents with their captions.

The adapters' data set has too few people for a base: it learned those by heart. These are drawn and encoded
once, in files of some hundred each, and never lie anywhere as pictures.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional as F

from lynx_core.data.encoders import UMT5TextEncoder
from lynx_core.data.sample import REFERENCE_PROMPT
from lynx_core.data.single_frames import run_single_frames_in_2d
from lynx_core.faces.crops import crop_aligned
from lynx_core.faces.embedding import ArcFaceEmbedder, load_arcface

from ..world.caption import list_captions
from ..world.clip import Shot
from ..world.crop import draw_crops
from ..world.draws import caption_of, draw_training_shot
from ..world.pairs import LANDMARK_ERROR, find_told_frame
from ..world.seeds import make_generator
from .pixel_signal import to_signal
from .resumable import my_rank, num_ranks, write_beside

SIZES = {"images": 24_000, "clips": 9_000, "crops": 1_200}
SHARD_SIZES = {"images": 1_000, "clips": 250, "crops": 100}
FIRST_NUMBERS = {"images": 100_000, "clips": 200_000, "crops": 300_000}
"""Of people and shots; the adapters' people are below, the readers' above."""
EMPTY, REFERENCE = 0, 1
"""Rows of the texts."""
_BATCH = 10


@dataclass(frozen=True)
class EncodedSet:
    """Latents in model space with the number of their caption, by sort of target."""

    latents: dict[str, Tensor]
    """clips [N, 16, 3, 8, 8], images [N, 16, 1, 8, 8], crops [N, 16, 1, 32, 32], float16."""
    captions: dict[str, Tensor]
    """Rows of `texts`, [N]."""
    texts: Tensor
    """[captions, longest + 1, 4096] float16; row 0 is the empty prompt."""
    lengths: Tensor
    """Tokens of each text."""


def encode_drawings(folder: Path, assets: Path, stop_at: float | None = None) -> bool:
    """Draw and encode what is not there yet; whether all is done. Processes share the work.

    Args:
        folder: of the making, with the trainer's folders of VAE and text encoder.
        assets: of the shipped embedder.
        stop_at: time (`time.monotonic`) after which to leave.
    """
    encoder = _Encoder(folder, assets)
    makers: dict[Path, Callable[[], dict[str, Tensor]]] = {
        folder / "drawings" / "texts.safetensors": encoder.encode_texts
    }
    for sort, size in SIZES.items():
        for start in range(0, size, SHARD_SIZES[sort]):
            path = _shard_path(folder, sort, start // SHARD_SIZES[sort])
            makers[path] = partial(encoder.encode_shard, sort, start, SHARD_SIZES[sort])
    for place, (path, make) in enumerate(makers.items()):
        if path.is_file() or place % num_ranks() != my_rank():
            continue
        if stop_at is not None and time.monotonic() > stop_at:
            return False
        tensors = make()
        write_beside(path, partial(save_file, tensors))
        print(f"drawings: {path.stem}", flush=True)
    return True


def load_drawings(folder: Path) -> EncodedSet:
    """Open what `encode_drawings` wrote."""
    shards = {sort: _load_shards(folder, sort) for sort in SIZES}
    texts = load_file(folder / "drawings" / "texts.safetensors")

    def join(name: str) -> dict[str, Tensor]:
        return {sort: torch.cat([shard[name] for shard in found]) for sort, found in shards.items()}

    return EncodedSet(join("latents"), join("captions"), texts["texts"], texts["lengths"])


def load_face_embeddings(folder: Path) -> Tensor:
    """The conditioning embedder's embeddings of the crops, [N, 512]."""
    return torch.cat([shard["embeddings"] for shard in _load_shards(folder, "crops")])


def _load_shards(folder: Path, sort: str) -> list[dict[str, Tensor]]:
    return [load_file(_shard_path(folder, sort, place)) for place in range(SIZES[sort] // SHARD_SIZES[sort])]


def _shard_path(folder: Path, sort: str, place: int) -> Path:
    return folder / "drawings" / f"{sort}-{place:03d}.safetensors"


class _Encoder:
    """Opens each network when it is first used."""

    def __init__(self, folder: Path, assets: Path) -> None:
        self.folder, self.assets = folder, assets
        self._rows = {caption: row for row, (caption, _) in enumerate(list_captions(), REFERENCE + 1)}

    @cached_property
    def _vae(self) -> Any:
        from diffusers import AutoencoderKLWan

        vae: Any = AutoencoderKLWan.from_pretrained(
            str(self.folder / "vae"), local_files_only=True, torch_dtype=torch.bfloat16
        )
        run_single_frames_in_2d(vae)
        return vae.eval().requires_grad_(False)

    @cached_property
    def _faces(self) -> ArcFaceEmbedder:
        return ArcFaceEmbedder(load_arcface(self.assets / "lynx" / "faces" / "lynx_mini_arcface.safetensors"))

    def encode_texts(self) -> dict[str, Tensor]:
        """Every caption there is, after the empty prompt and that of references."""
        encoder = UMT5TextEncoder(self.folder / "text_encoder", self.folder / "tokenizer")
        texts = [encoder.encode(caption) for caption in ("", REFERENCE_PROMPT, *self._rows)]
        lengths = torch.tensor([len(text) for text in texts])
        room = int(lengths.max()) + 1
        padded = [F.pad(text, (0, 0, 0, room - len(text))).half() for text in texts]
        return {"texts": torch.stack(padded), "lengths": lengths}

    def encode_shard(self, sort: str, start: int, count: int) -> dict[str, Tensor]:
        """Drawings of new people from the `start`-th of a sort on."""
        numbers = range(FIRST_NUMBERS[sort] + start, FIRST_NUMBERS[sort] + start + count)
        shots = [draw_training_shot(number) for number in numbers]
        if sort == "crops":
            return self._encode_crops(shots, numbers)
        draw = Shot.draw_clip if sort == "clips" else _draw_told_frame
        latents = [
            self._encode_pixels(np.stack([draw(shot) for shot in shots[at : at + _BATCH]]))
            for at in range(0, count, _BATCH)
        ]
        rows = [self._rows[caption_of(shot, number)] for shot, number in zip(shots, numbers, strict=True)]
        return {"latents": torch.cat(latents), "captions": torch.tensor(rows)}

    def _encode_crops(self, shots: list[Shot], numbers: range) -> dict[str, Tensor]:
        latents, embeddings = [], []
        for shot, number in zip(shots, numbers, strict=True):
            rng = make_generator("landmark error", number)
            crop = crop_aligned(draw_crops(shot, 0, rng.normal(0, LANDMARK_ERROR, (5, 2)))[1])
            latents.append(self._encode_pixels(crop.reference_crop[None, None]))
            embeddings.append(self._faces.embed([crop.id_crop]))
        captions = torch.full((len(shots),), REFERENCE)
        return {"latents": torch.cat(latents), "captions": captions, "embeddings": torch.cat(embeddings)}

    @torch.no_grad()
    def _encode_pixels(self, pixels: np.ndarray) -> Tensor:
        """[N, T, H, W, 3] uint8 -> [N, 16, t, h, w] float16 in model space."""
        config = self._vae.config
        mean, std = (torch.tensor(v).view(-1, 1, 1, 1) for v in (config.latents_mean, config.latents_std))
        signal = to_signal(pixels).transpose(1, 2)
        found = self._vae.encode(signal.bfloat16()).latent_dist.mode().float()
        return ((found - mean) / std).half().contiguous()


def _draw_told_frame(shot: Shot) -> np.ndarray:
    """The frame that shows the action best, [1, 64, 64, 3]."""
    return shot.draw_frame(find_told_frame(shot.action))[None]
