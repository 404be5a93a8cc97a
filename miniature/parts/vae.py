"""Wan's VAE at a sixth of its width, trained on the drawn world.

The network is diffusers' `AutoencoderKLWan`; the file carries the names that ComfyUI reads. Its causal
convolutions see a single frame through their last tap only, so pictures train on plain 2-D convolutions,
and a short second stage on clips teaches the taps of time. The third is in noisy_latents.py; where frames are
larger, it follows once more at their size, for what is sharp without noise is soon learned from small ones.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F

from lynx_core.data.encoders import run_single_frames_in_2d
from lynx_core.rng import numpy_generator

from ..edition import EDITION
from ..encoders import LATENT_CHANNELS, build_vae, rename_vae_weight
from ..making import Making
from ..world.crop import draw_crops
from ..world.draws import draw_training_shot
from .channel_norm import shorten_norms
from .muon import Muon, split_weights
from .noisy_latents import LARGE, SMALL, build_latent_reader, draw_noisy_batch, measure_noisy_loss
from .pixel_signal import to_video_signal
from .resumable import (
    count_done_steps,
    my_rank,
    num_ranks,
    read_part,
    run_steps,
    set_cosine_rate,
    take_step,
    write_beside,
)

IMAGE_STEPS, IMAGE_BATCH = 4200, 16
CLIP_STEPS, CLIP_BATCH = 300, 2
NOISY_STEPS, LARGE_STEPS = 3000, 2000
MUON_RATE, ADAM_RATE = 0.02, 1e-3
KL_WEIGHT = 1e-4
STAGES = {"pictures": (1.0, IMAGE_STEPS), "clips": (0.5, CLIP_STEPS), "noisy": (0.5, NOISY_STEPS)}
"""Share of the learning rates, and steps."""
if EDITION.frame_px > SMALL.frame_px:
    STAGES["large"] = (0.4, LARGE_STEPS)
NOISY_SIZES = {"noisy": SMALL, "large": LARGE}
"""Of the stages with noise in the latents; those before them draw as small as the first."""


def train_vae(making: Making) -> bool:
    """Train on pictures, then on clips, then on both with noise in the latents; whether all is done."""
    vae, readers = build_vae().to(making.device), build_latent_readers().to(making.device)
    run_single_frames_in_2d(vae)
    shorten_norms(vae)
    matrices, rest = split_weights(vae)
    rest += list(readers.parameters())
    muon, adam = Muon(matrices, MUON_RATE), torch.optim.Adam(rest, lr=ADAM_RATE, betas=(0.9, 0.95))
    lengths = count_stages(making)

    def step(number: int, drawn: Any) -> Tensor:
        stage, place = find_stage(number, lengths)
        share, _ = STAGES[stage]
        set_cosine_rate(muon, place, lengths[stage], share * MUON_RATE)
        set_cosine_rate(adam, place, lengths[stage], share * ADAM_RATE)
        with making.autocast():
            if stage in NOISY_SIZES:
                loss = measure_noisy_loss(vae, readers[stage], drawn, place)
            else:
                loss = _reconstruction_loss(vae, to_video_signal(drawn), number * num_ranks() + my_rank())
        return take_step(loss, [*vae.parameters(), *readers.parameters()], muon, adam, max_norm=1.0)

    parts = {"vae": vae, "readers": readers, "muon": muon, "adam": adam}
    return run_steps(making, "vae", parts, sum(lengths.values()), step, partial(draw_step, lengths))


def build_latent_readers() -> torch.nn.ModuleDict:
    """A reader of the latents for each stage that has one."""
    return torch.nn.ModuleDict(
        {
            stage: build_latent_reader(LATENT_CHANNELS, size.frame_px)
            for stage, size in NOISY_SIZES.items()
            if stage in STAGES
        }
    )


def is_vae_trained(making: Making) -> bool:
    """Whether `train_vae` has no step left."""
    return count_done_steps(making, "vae") == sum(count_stages(making).values())


def count_stages(making: Making) -> dict[str, int]:
    """The steps of each stage."""
    return {stage: making.count(length) for stage, (_, length) in STAGES.items()}


def find_stage(number: int, lengths: Mapping[str, int]) -> tuple[str, int]:
    """The stage of a step, and its place there, from the steps of each stage."""
    for name, length in lengths.items():
        if number < length:
            return name, number
        number -= length
    raise ValueError(f"step {number} is beyond the last stage")


def draw_step(lengths: Mapping[str, int], number: int) -> Any:
    """What one step learns from: pictures or clips [N, T, 64, 64, 3] uint8, or a `NoisyBatch`."""
    stage, place = find_stage(number, lengths)
    if stage in NOISY_SIZES:
        return draw_noisy_batch(NOISY_SIZES[stage], place)
    return draw_clip_batch(number) if stage == "clips" else draw_image_batch(number)


def draw_image_batch(step: int, side_px: int = SMALL.frame_px) -> np.ndarray:
    """This process's share of portraits and windows of reference crops, [N, 1, side_px, side_px, 3] uint8."""
    pictures = []
    for index in range(my_rank(), IMAGE_BATCH, num_ranks()):
        number = step * IMAGE_BATCH + index
        rng = numpy_generator("vae", number)
        shot, frame = draw_training_shot(number), int(rng.integers(SMALL.num_frames))
        if rng.uniform() < 0.6:
            pictures.append(shot.draw_frame(frame, side_px, SMALL.num_frames))
        else:
            crop = draw_crops(shot, 0)[1]
            top, left = rng.integers(0, len(crop) - side_px + 1, 2)
            pictures.append(crop[top : top + side_px, left : left + side_px])
    return np.stack(pictures)[:, None]


def draw_clip_batch(step: int) -> np.ndarray:
    """This process's share of clips, [N, 9, 64, 64, 3] uint8."""
    numbers = range(step * CLIP_BATCH + my_rank(), (step + 1) * CLIP_BATCH, num_ranks())
    shots = map(draw_training_shot, numbers)
    return np.stack([shot.draw_clip(SMALL.frame_px, SMALL.num_frames) for shot in shots])


def _reconstruction_loss(vae: Any, pixels: Tensor, step: int) -> Tensor:
    posterior = vae.encode(pixels).latent_dist
    noise = torch.randn(posterior.mean.shape, generator=torch.Generator().manual_seed(step))
    latents = posterior.mean.float() + posterior.std.float() * noise.to(pixels.device)
    decoded = vae.decode(latents).sample.float()
    loss = F.l1_loss(decoded, pixels) + 0.5 * F.mse_loss(decoded, pixels)
    for axis in (-1, -2):
        loss = loss + 0.5 * F.l1_loss(decoded.diff(dim=axis), pixels.diff(dim=axis))
    return loss + KL_WEIGHT * posterior.kl().mean() / posterior.mean[0].numel()


def load_trained_vae(folder: Path) -> Any:
    """The trained network with its latents scaled as Wan's own, so that the host's constants are right."""
    vae = build_vae()
    vae.load_state_dict(read_part(folder / "vae.pt", "vae"))
    vae.eval().requires_grad_(False)
    run_single_frames_in_2d(vae)
    _match_wan_statistics(vae)
    return vae


@torch.no_grad()
def _match_wan_statistics(vae: Any) -> None:
    """Give every latent channel Wan's mean and deviation, by the two 1x1x1 convolutions round the latents."""
    pictures = (to_video_signal(draw_image_batch(10**6 + i, EDITION.frame_px)) for i in range(24))
    latents = torch.cat([vae.encode(pixels).latent_dist.mean for pixels in pictures])
    mean, std = latents.mean((0, 2, 3, 4)), latents.std((0, 2, 3, 4))
    wanted_mean, wanted_std = torch.tensor(vae.config.latents_mean), torch.tensor(vae.config.latents_std)
    scale = wanted_std / std
    into, out = vae.quant_conv, vae.post_quant_conv
    into.weight[:LATENT_CHANNELS] *= scale.view(-1, 1, 1, 1, 1)
    into.bias[:LATENT_CHANNELS] = into.bias[:LATENT_CHANNELS] * scale + wanted_mean - mean * scale
    into.bias[LATENT_CHANNELS:] += 2 * scale.log()
    out.bias += (out.weight[..., 0, 0, 0] * (mean - wanted_mean / scale)).sum(1)
    out.weight /= scale.view(1, -1, 1, 1, 1)


def open_vae(folder: Path, dtype: torch.dtype = torch.float32) -> Any:
    """The exported network as the trainer opens it, frozen."""
    from diffusers import AutoencoderKLWan

    vae: Any = AutoencoderKLWan.from_pretrained(str(folder / "vae"), local_files_only=True, torch_dtype=dtype)
    run_single_frames_in_2d(vae)
    return vae.eval().requires_grad_(False)


def export_vae(making: Making) -> None:
    """Write the file for the host, and the diffusers folder for the trainer, which holds the same numbers."""
    vae = load_trained_vae(making.folder).half()
    state = {rename_vae_weight(name): weight.contiguous() for name, weight in vae.state_dict().items()}
    path = making.assets / "vae" / "lynx_mini_vae.safetensors"
    write_beside(path, lambda beside: save_file(state, beside))
    vae.float().save_pretrained(making.folder / "vae")
