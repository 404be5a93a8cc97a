"""What the base learns from: drawings of its own, as latents with their captions.

The adapters' data set has too few people for a base: it learned those by heart. These are drawn and encoded
once, in files of some hundred each, and never lie anywhere as pictures.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from lynx_core.faces.analyzer import ArcFaceRecogniser
from lynx_core.faces.arcface import load_arcface
from lynx_core.faces.crops import FaceCrop, crop_aligned
from lynx_core.rng import numpy_generator
from lynx_core.spec import REFERENCE_PROMPT

from ..edition import EDITION
from ..making import Making
from ..world.caption import list_captions, list_duo_captions
from ..world.clip import NUM_FRAMES, Shot
from ..world.crop import draw_crops
from ..world.draws import caption_of, draw_training_shot
from ..world.duo import caption_of_duo, draw_training_duo
from ..world.pairs import LANDMARK_ERROR, find_told_frame
from ..world.scene import Pose
from .channel_norm import shorten_norms
from .drawing_ahead import draw_ahead
from .pixel_signal import to_video_signal
from .resumable import my_rank, num_ranks, write_beside
from .text_encoder import tokenize_texts
from .vae import open_vae

SIZES = {"images": 24_000, "clips": 9_000, "crops": 1_200}
if EDITION.has_duos:
    SIZES |= {"clips": 6_000, "duos": 2_000}
SHARD_SIZES = {"images": 1_000, "clips": 250, "crops": 100, "duos": 100}
FIRST_NUMBERS = {"images": 100_000, "clips": 200_000, "crops": 300_000, "duos": 400_000}
"""Of people and shots; the adapters' people are below, the readers' above."""
EMPTY, REFERENCE = 0, 1
"""Rows of the token ids."""
_CAPTIONS = dict.fromkeys(caption for caption, _ in (*list_captions(), *list_duo_captions()))
_ROWS = {caption: row for row, caption in enumerate(_CAPTIONS, REFERENCE + 1)}
_BATCH = 10
"""Of images and clips, for the VAE; crops are large and go one by one."""


@dataclass(frozen=True)
class EncodedSet:
    """Latents in model space with the number of their caption, by kind of target."""

    latents: dict[str, Tensor]
    """[N, 16, t, h, w] float16: of clips, images, crops (32 x 32), and of duos where there are any."""
    captions: dict[str, Tensor]
    """Rows of `token_ids`, [N]."""
    token_ids: Tensor
    """[captions, longest that is used + 1] int32, as `embed_tokens` takes them; row 0 is the empty prompt."""
    lengths: Tensor
    """Tokens of each text."""

    def to(self, device: torch.device) -> EncodedSet:
        """The same on a device."""
        return EncodedSet(
            {sort: latents.to(device) for sort, latents in self.latents.items()},
            {sort: captions.to(device) for sort, captions in self.captions.items()},
            self.token_ids.to(device),
            self.lengths.to(device),
        )


@dataclass(frozen=True)
class Shard:
    """Drawings of one file."""

    sort: str
    numbers: range
    path: Path


class DrawnShard(NamedTuple):
    """What is in a shard."""

    pixels: np.ndarray
    """[N, T, H, W, 3] uint8."""
    rows: np.ndarray
    """Captions as rows of the token ids, [N]."""
    id_crops: list[np.ndarray]
    """Of crops, [112, 112, 3] uint8 each; of others none."""


def list_shards(making: Making, sizes: Mapping[str, int] = SIZES) -> list[Shard]:
    """All files of drawings."""
    shards = []
    for sort, size in sizes.items():
        first, total = FIRST_NUMBERS[sort], making.count(size)
        for start in range(0, total, SHARD_SIZES[sort]):
            numbers = range(first + start, first + min(start + SHARD_SIZES[sort], total))
            path = making.folder / "drawings" / f"{sort}-{start // SHARD_SIZES[sort]:03d}.safetensors"
            shards.append(Shard(sort, numbers, path))
    return shards


def are_drawings_encoded(making: Making) -> bool:
    """Whether `encode_drawings` has nothing left to do."""
    paths = [find_texts(making), *(shard.path for shard in list_shards(making))]
    return all(path.is_file() for path in paths)


def find_texts(making: Making) -> Path:
    """The file of the captions' tokens."""
    return making.folder / "drawings" / "texts.safetensors"


def encode_drawings(making: Making, sizes: Mapping[str, int] = SIZES) -> bool:
    """Draw and encode what is not there yet; whether all is done. Processes share the work."""
    texts_path = find_texts(making)
    if my_rank() == 0 and not texts_path.is_file():
        write_beside(texts_path, partial(save_file, tokenize_captions()))
    encoder = _Encoder(making)
    mine = list_shards(making, sizes)[my_rank() :: num_ranks()]
    shards = [shard for shard in mine if not shard.path.is_file()]
    drawings = draw_ahead(draw_shard, shards, making.num_drawers)
    for shard, drawn in zip(shards, drawings, strict=False):
        write_beside(shard.path, partial(save_file, encoder.encode_shard(shard.sort, drawn)))
        print(f"drawings: {shard.path.stem}", flush=True)
        if making.is_out_of_time:
            return False
    return True


def tokenize_captions() -> dict[str, Tensor]:
    """Every caption there is, after the empty prompt and that of references."""
    token_ids, lengths = tokenize_texts(("", REFERENCE_PROMPT, *_ROWS))
    return {"token_ids": token_ids, "lengths": lengths}


def draw_shard(shard: Shard) -> DrawnShard:
    """Draw new people, each in a shot of its own."""
    sort, numbers = shard.sort, shard.numbers
    if sort == "duos":
        duos = [draw_training_duo(number) for number in numbers]
        rows = [_ROWS[caption_of_duo(duo, number)] for duo, number in zip(duos, numbers, strict=True)]
        return DrawnShard(np.stack([duo.draw_clip() for duo in duos]), np.array(rows), [])
    shots = [draw_training_shot(number) for number in numbers]
    if sort == "crops":
        crops = [_draw_crop(shot, number) for shot, number in zip(shots, numbers, strict=True)]
        pixels = np.stack([crop.reference_crop[None] for crop in crops])
        return DrawnShard(pixels, np.full(len(shots), REFERENCE), [crop.id_crop for crop in crops])
    rows = [_ROWS[caption_of(shot, number)] for shot, number in zip(shots, numbers, strict=True)]
    draw = Shot.draw_clip if sort == "clips" else _draw_told_frame
    return DrawnShard(np.stack([draw(shot) for shot in shots]), np.array(rows), [])


def _draw_crop(shot: Shot, number: int) -> FaceCrop:
    rng = numpy_generator("landmark error", number)
    return crop_aligned(draw_crops(shot, 0, rng.normal(0, LANDMARK_ERROR, (5, 2)))[1])


def load_drawings(making: Making, sizes: Mapping[str, int] = SIZES) -> EncodedSet:
    """Open what `encode_drawings` wrote."""
    texts = load_file(find_texts(making))
    shards = {sort: _load_shards(making, sort, sizes) for sort in sizes}

    def join(name: str) -> dict[str, Tensor]:
        return {sort: torch.cat([shard[name] for shard in found]) for sort, found in shards.items()}

    captions, lengths = join("captions"), texts["lengths"]
    longest = max(int(lengths[rows].max()) for rows in captions.values())
    return EncodedSet(join("latents"), captions, texts["token_ids"][:, : longest + 1], lengths)


def load_face_embeddings(making: Making) -> Tensor:
    """The conditioning recogniser's embeddings of the crops, [N, 512]."""
    return torch.cat([shard["embeddings"] for shard in _load_shards(making, "crops")])


def _load_shards(making: Making, sort: str, sizes: Mapping[str, int] = SIZES) -> list[dict[str, Tensor]]:
    return [load_file(shard.path) for shard in list_shards(making, sizes) if shard.sort == sort]


class _Encoder:
    """Opens each network when it is first used."""

    def __init__(self, making: Making) -> None:
        self.making = making

    @cached_property
    def _vae(self) -> Any:
        vae = open_vae(self.making.folder, torch.bfloat16).to(self.making.device)
        shorten_norms(vae)
        return vae

    @cached_property
    def _faces(self) -> ArcFaceRecogniser:
        path = self.making.assets / "lynx" / "faces" / "lynx_mini_arcface.safetensors"
        return ArcFaceRecogniser(load_arcface(path))

    def encode_shard(self, sort: str, drawn: DrawnShard) -> dict[str, Tensor]:
        """What the file of a shard holds."""
        size = 1 if sort == "crops" else _BATCH
        parts = torch.from_numpy(drawn.pixels).split(size)
        latents = torch.cat([self._encode_pixels(part) for part in parts])
        encoded = {"latents": latents, "captions": torch.from_numpy(drawn.rows)}
        if drawn.id_crops:
            encoded["embeddings"] = torch.cat([self._faces.embed([crop]) for crop in drawn.id_crops])
        return encoded

    @torch.no_grad()
    def _encode_pixels(self, pixels: Tensor) -> Tensor:
        """[N, T, H, W, 3] uint8 -> [N, 16, t, h, w] float16 in model space."""
        config = self._vae.config
        mean, std = (torch.tensor(v).view(-1, 1, 1, 1) for v in (config.latents_mean, config.latents_std))
        signal = to_video_signal(pixels.to(self.making.device))
        found = self._vae.encode(signal.bfloat16()).latent_dist.mode().float().cpu()
        return ((found - mean) / std).half().contiguous()


def list_drawn_poses(sort: str, row: int) -> tuple[Shot, list[Pose]]:
    """The shot of an image or a clip, and its pose in every picture."""
    shot = draw_training_shot(FIRST_NUMBERS[sort] + row)
    frames = [find_told_frame(shot.action)] if sort == "images" else range(NUM_FRAMES)
    return shot, [shot.pose_at(frame) for frame in frames]


def _draw_told_frame(shot: Shot) -> np.ndarray:
    """The frame that shows the action best, [1, H, W, 3]."""
    return shot.draw_frame(find_told_frame(shot.action))[None]
