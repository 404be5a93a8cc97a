"""The VAE's last stage: latents that can be read through noise.

A VAE that is asked for pixels alone packs every edge into digits that a little noise wipes out, and a base that
learns to take noise away learns those digits first and faces last. Here the decoder gets latents with the noise
of sampling in them (latent denoising, l-DeTok, Yang et al., 2025), and a linear layer must read person, pose and
place in the same latents (as VA-VAE aligns latents with features, Yao and Wang, 2025). So what tells people apart
fills more of the latents, and survives more noise.

Letters: N samples, F latent frames.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from einops import rearrange
from torch import Tensor, nn

from lynx_core.rng import numpy_generator

from ..world.clip import Shot
from ..world.crop import draw_crops
from ..world.draws import draw_training_shot
from ..world.labels import LABEL_SIZES, label_picture, stack_labels
from ..world.portrait import draw_portrait
from ..world.scene import Pose
from .picture_labels import picture_loss, split_reading
from .pixel_signal import to_video_signal
from .resumable import my_rank, num_ranks

TURNS = ("pictures", "clips", "pictures", "crops", "pictures", "clips", "pictures", "pictures")
MAX_NOISE = 1.0
"""Standard deviations of a latent channel."""
FACE_WEIGHT = 2.0
"""What a pixel of the face counts beyond any other."""
READING_WEIGHT, SIZE_WEIGHT = 0.02, 1e-4
FRAMES_PER_LATENT = 4


@dataclass(frozen=True)
class BatchSize:
    """What a step learns from, of all processes together."""

    frame_px: int
    num_frames: int
    """Of a clip."""
    pictures: int
    clips: int
    crops: int = 2


SMALL = BatchSize(64, 9, pictures=32, clips=4)
LARGE = BatchSize(128, 9, pictures=12, clips=2)


def build_latent_reader(channels: int, frame_px: int) -> nn.Linear:
    """From one latent frame of a picture to all labels; for training alone."""
    torch.manual_seed(11)
    return nn.Linear(channels * (frame_px // 8) ** 2, sum(LABEL_SIZES.values()))


class NoisyBatch(NamedTuple):
    """What one step learns from: arrays when drawn, tensors in the step."""

    clips: Any
    """[N, T, H, W, 3] uint8."""
    face_weights: Any
    """[N, 1, T, H, W], or ones of no size: faces count more, and a crop is all face."""
    labels: dict[str, Any]
    """Of the frame that each latent frame ends with; none for crops."""


def draw_noisy_batch(size: BatchSize, number: int) -> NoisyBatch:
    """This process's share of one step."""
    sort = TURNS[number % len(TURNS)]
    first, count = number * size.pictures, getattr(size, sort)
    shots = [draw_training_shot(first + index) for index in range(my_rank(), count, num_ranks())]
    if sort == "crops":
        clips = np.stack([draw_crops(shot, 0)[1][None] for shot in shots])
        return NoisyBatch(clips, np.ones((1, 1, 1, 1, 1), np.float32), {})
    rng = numpy_generator("latent frames", number, my_rank())
    poses = [_choose_poses(rng, shot, sort, size.num_frames) for shot in shots]
    clips = np.stack(
        [
            np.stack([draw_portrait(shot.identity, shot.scene, pose, size.frame_px) for pose in each])
            for shot, each in zip(shots, poses, strict=True)
        ]
    )
    return NoisyBatch(clips, _weigh_faces(poses, size.frame_px), label_latent_frames(shots, poses))


def measure_noisy_loss(vae: Any, reader: nn.Module, batch: NoisyBatch, number: int) -> Tensor:
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
    loss = _picture_distance(decoded, pixels, face_weights)
    loss = loss + SIZE_WEIGHT * mean.square().mean()
    if labels:
        numbers = reader(rearrange(noisy / spread, "n c f h w -> (n f) (c h w)"))
        loss = loss + READING_WEIGHT * picture_loss(split_reading(numbers), labels)
    return loss


def _add_noise(mean: Tensor, spread: Tensor, number: int) -> Tensor:
    """Noise of a size of its own for each sample, in shares of each channel's spread."""
    generator = torch.Generator().manual_seed(number * num_ranks() + my_rank())
    sizes = MAX_NOISE * torch.rand(len(mean), 1, 1, 1, 1, generator=generator)
    noise = torch.randn(mean.shape, generator=generator)
    return mean + sizes.to(mean.device) * spread * noise.to(mean.device)


def _choose_poses(rng: np.random.Generator, shot: Shot, sort: str, num_frames: int) -> list[Pose]:
    frames = range(num_frames) if sort == "clips" else [int(rng.integers(num_frames))]
    return [shot.pose_at(frame, num_frames) for frame in frames]


def _weigh_faces(poses: list[list[Pose]], frame_px: int) -> np.ndarray:
    """[N, 1, T, H, W]."""
    middles = (torch.arange(frame_px) + 0.5) / frame_px
    maps = []
    for pose in (pose for each in poses for pose in each):
        away = ((middles - pose.x) ** 2 + (middles[:, None] - pose.y) ** 2) / (1.2 * pose.scale) ** 2
        maps.append(1 + FACE_WEIGHT * torch.exp(-(away**2)))
    return rearrange(torch.stack(maps), "(n t) h w -> n 1 t h w", n=len(poses)).numpy()


def _picture_distance(decoded: Tensor, pixels: Tensor, weights: Tensor) -> Tensor:
    error = decoded - pixels
    loss = (weights * (error.abs() + 0.5 * error.square())).mean()
    for axis in (-1, -2):
        size = min(weights.shape[axis], error.shape[axis] - 1)
        loss = loss + 0.5 * (weights.narrow(axis, 0, size) * error.diff(dim=axis).abs()).mean()
    return loss / weights.mean()


def label_latent_frames(shots: Sequence[Shot], poses: Sequence[Sequence[Pose]]) -> dict[str, np.ndarray]:
    """What each latent frame shows in its last picture, [N F, ...] by name.

    Args:
        poses: of every picture of each shot.
    """
    rows = [
        label_picture(shot.identity, shot.scene, pose)
        for shot, each in zip(shots, poses, strict=True)
        for pose in each[::FRAMES_PER_LATENT]
    ]
    return stack_labels(rows)
