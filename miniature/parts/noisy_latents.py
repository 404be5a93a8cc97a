"""The VAE's last stage: latents that can be read through noise.

A VAE that is asked for pixels alone packs every edge into digits that a little noise wipes out, and a base that
learns to take noise away learns those digits first and faces last. Here the decoder gets latents with the noise
of sampling in them (latent denoising, l-DeTok, Yang et al., 2025), and a linear layer must read person, pose and
place in the same latents (as VA-VAE aligns latents with features, Yao and Wang, 2025). So what tells people apart
fills more of the latents, and survives more noise.

Letters: N samples, F latent frames.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from einops import rearrange
from torch import Tensor, nn

from lynx_core.rng import numpy_generator

from ..world.clip import FRAME_PX, NUM_FRAMES, Shot
from ..world.crop import draw_crops
from ..world.draws import draw_training_shot
from ..world.labels import LABEL_SIZES, label_picture, stack_labels
from .picture_labels import picture_loss, split_reading
from .pixel_signal import to_video_signal
from .resumable import my_rank, num_ranks

TURNS = ("pictures", "clips", "pictures", "crops", "pictures", "clips", "pictures", "pictures")
BATCH_SIZES = {"pictures": 32, "clips": 4, "crops": 2}
"""Of all processes together."""
MAX_NOISE = 1.0
"""Standard deviations of a latent channel."""
FACE_WEIGHT = 2.0
"""What a pixel of the face counts beyond any other."""
READING_WEIGHT, SIZE_WEIGHT = 0.02, 1e-4
FRAMES_PER_LATENT = 4


def build_latent_reader(channels: int) -> nn.Linear:
    """From one latent frame of 64 px to all labels; for training alone."""
    torch.manual_seed(11)
    return nn.Linear(channels * (FRAME_PX // 8) ** 2, sum(LABEL_SIZES.values()))


class NoisyBatch(NamedTuple):
    """What one step learns from."""

    clips: np.ndarray
    """[N, T, H, W, 3] uint8."""
    face_weights: np.ndarray
    """[N, 1, T, H, W], or ones of no size: faces count more, and a crop is all face."""
    labels: dict[str, np.ndarray]
    """Of the frame that each latent frame ends with; none for crops."""


def draw_noisy_batch(number: int) -> NoisyBatch:
    """This process's share of one step."""
    sort = TURNS[number % len(TURNS)]
    first = number * max(BATCH_SIZES.values())
    shots = [draw_training_shot(first + index) for index in range(my_rank(), BATCH_SIZES[sort], num_ranks())]
    if sort == "crops":
        clips = np.stack([draw_crops(shot, 0)[1][None] for shot in shots])
        return NoisyBatch(clips, np.ones((1, 1, 1, 1, 1), np.float32), {})
    frames = _choose_frames(shots, sort, number)
    clips = np.stack(
        [np.stack([shot.draw_frame(f) for f in each]) for shot, each in zip(shots, frames, strict=True)]
    )
    return NoisyBatch(clips, _weigh_faces(shots, frames), _label(shots, frames))


def measure_noisy_loss(vae: Any, reader: nn.Linear, batch: NoisyBatch, number: int) -> Tensor:
    """Of one step: what the decoder gets wrong from noisy latents, and the reader in them.

    Args:
        batch: of the step, as tensors.
    """
    clips, face_weights, labels = batch
    pixels = to_video_signal(clips)
    mean = vae.encode(pixels).latent_dist.mean.float()
    spread = mean.detach().std((0, 2, 3, 4), keepdim=True)
    noisy = _add_noise(mean, spread, number)
    decoded = vae.decode(noisy).sample.float()
    loss = _picture_distance(decoded, pixels, torch.as_tensor(face_weights))
    loss = loss + SIZE_WEIGHT * mean.square().mean()
    if labels:
        numbers = reader(rearrange(noisy / spread, "n c f h w -> (n f) (c h w)"))
        loss = loss + READING_WEIGHT * picture_loss(split_reading(numbers), labels)
    return loss


def _choose_frames(shots: list[Shot], sort: str, number: int) -> list[list[int]]:
    if sort == "clips":
        return [list(range(NUM_FRAMES)) for _ in shots]
    rng = numpy_generator("latent frames", number, my_rank())
    return [[int(rng.integers(NUM_FRAMES))] for _ in shots]


def _add_noise(mean: Tensor, spread: Tensor, number: int) -> Tensor:
    """Noise of a size of its own for each sample, in shares of each channel's spread."""
    generator = torch.Generator().manual_seed(number * num_ranks() + my_rank())
    sizes = MAX_NOISE * torch.rand(len(mean), 1, 1, 1, 1, generator=generator)
    noise = torch.randn(mean.shape, generator=generator)
    return mean + sizes.to(mean.device) * spread * noise.to(mean.device)


def _weigh_faces(shots: list[Shot], frames: list[list[int]]) -> np.ndarray:
    """[N, 1, T, H, W]."""
    middles = (torch.arange(FRAME_PX) + 0.5) / FRAME_PX
    maps = []
    for shot, each in zip(shots, frames, strict=True):
        for pose in (shot.pose_at(frame) for frame in each):
            away = ((middles - pose.x) ** 2 + (middles[:, None] - pose.y) ** 2) / (1.2 * pose.scale) ** 2
            maps.append(1 + FACE_WEIGHT * torch.exp(-(away**2)))
    return rearrange(torch.stack(maps), "(n t) h w -> n 1 t h w", n=len(shots)).numpy()


def _picture_distance(decoded: Tensor, pixels: Tensor, weights: Tensor) -> Tensor:
    error = decoded - pixels
    loss = (weights * (error.abs() + 0.5 * error.square())).mean()
    for axis in (-1, -2):
        size = min(weights.shape[axis], error.shape[axis] - 1)
        loss = loss + 0.5 * (weights.narrow(axis, 0, size) * error.diff(dim=axis).abs()).mean()
    return loss / weights.mean()


def _label(shots: list[Shot], frames: list[list[int]]) -> dict[str, np.ndarray]:
    rows = [
        label_picture(shot.identity, shot.scene, shot.pose_at(frame))
        for shot, each in zip(shots, frames, strict=True)
        for frame in each[::FRAMES_PER_LATENT]
    ]
    return stack_labels(rows)
