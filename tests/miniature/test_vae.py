"""The shipped VAE keeps who somebody is, also in latents that a sampler got slightly wrong."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from miniature.encoders import LATENT_CHANNELS, build_vae, unpack_vae
from miniature.experiment.readers import load_readers
from miniature.making import CPU
from miniature.parts.channel_norm import shorten_norms
from miniature.parts.drawing_ahead import send_drawn
from miniature.parts.noisy_latents import (
    SMALL,
    TURNS,
    build_latent_reader,
    draw_noisy_batch,
    measure_noisy_loss,
)
from miniature.parts.pixel_signal import to_signal
from miniature.parts.vae import STAGES, find_stage
from miniature.world.draws import FIRST_HELD_OUT_IDENTITY, draw_shot
from miniature.world.identity import draw_identity

ASSETS = Path(__file__).parents[2] / "assets" / "mini"
NUM_PEOPLE = 32


@pytest.fixture(scope="module")
def vae(tmp_path_factory: pytest.TempPathFactory) -> Any:
    from diffusers import AutoencoderKLWan

    folder = tmp_path_factory.mktemp("vae")
    unpack_vae(ASSETS, folder)
    return AutoencoderKLWan.from_pretrained(str(folder / "vae")).eval().requires_grad_(False)


def test_encoders_unpack_without_what_draws() -> None:
    """The guide's first commands install what training needs, and the drawing packages are no part of that."""
    code = "import sys; import miniature.encoders; sys.exit('skia' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ASSETS.parents[1], check=False).returncode == 0


@pytest.mark.parametrize("noise", [0.0, 0.6])
def test_people_are_told_apart_after_the_vae(vae: Any, noise: float) -> None:
    """`noise` in standard deviations of each latent channel; a VAE trained on pixels alone keeps six in ten at 0.6."""
    people = [draw_identity(FIRST_HELD_OUT_IDENTITY + 70_000 + number) for number in range(NUM_PEOPLE)]
    pictures = np.stack([draw_shot(p, 6 * 10**8 + i).draw_frame(4) for i, p in enumerate(people)])
    elsewhere = np.stack([draw_shot(p, 61 * 10**7 + i).draw_frame(0) for i, p in enumerate(people)])
    latents = vae.encode(to_signal(pictures)[:, :, None]).latent_dist.mode()
    spread = latents.std((0, 2, 3, 4), keepdim=True)
    generator = torch.Generator().manual_seed(1)
    latents = latents + noise * spread * torch.randn(latents.shape, generator=generator)
    pixels = vae.decode(latents).sample[:, :, 0].clamp(-1, 1)
    decoded = ((pixels + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy()
    readers = load_readers(ASSETS / "readers.safetensors")
    nearest = (readers.embed(decoded) @ readers.embed(elsewhere).T).argmax(1)
    assert (nearest == np.arange(NUM_PEOPLE)).mean() >= 0.85


def test_latents_have_the_statistics_that_the_host_expects(vae: Any) -> None:
    """Else the base would be trained on latents of another size than the host samples."""
    shots = [draw_shot(draw_identity(number), number) for number in range(24)]
    latents = vae.encode(to_signal(np.stack([s.draw_frame(0) for s in shots]))[:, :, None]).latent_dist.mode()
    mean, std = latents.mean((0, 2, 3, 4)), latents.std((0, 2, 3, 4))
    wanted_mean, wanted_std = (torch.tensor(v) for v in (vae.config.latents_mean, vae.config.latents_std))
    assert ((mean - wanted_mean) / wanted_std).abs().max() < 0.5
    assert (std / wanted_std).min() > 0.7 and (std / wanted_std).max() < 1.4


def test_every_turn_of_the_last_stage_teaches_all_of_the_vae() -> None:
    vae, reader = build_vae(), build_latent_reader(LATENT_CHANNELS, SMALL.frame_px)
    for number in range(len(TURNS)):
        vae.zero_grad()
        batch = send_drawn(draw_noisy_batch(SMALL, number), CPU)
        measure_noisy_loss(vae, reader, batch, number).backward()
        silent = [name for name, weight in vae.named_parameters() if weight.grad is None]
        assert silent == [] or TURNS[number] != "clips", silent
    assert reader.weight.grad is not None and float(reader.weight.grad.abs().sum()) > 0


def test_a_short_norm_is_that_of_diffusers_and_learns_alike() -> None:
    torch.manual_seed(0)
    found = []
    for shorten in (False, True):
        vae = build_vae()
        if shorten:
            shorten_norms(vae)
        clip = torch.linspace(-1, 1, 3 * 5 * 32 * 32).view(1, 3, 5, 32, 32).requires_grad_()
        mean = vae.encode(clip).latent_dist.mean
        (mean.square().sum() + vae.decode(mean).sample.square().sum()).backward()
        weights = [weight.grad for weight in vae.parameters() if weight.grad is not None]
        found.append([mean.detach(), clip.grad, *weights])
    for plain, short in zip(*found, strict=True):
        assert torch.allclose(plain, short, atol=1e-3 * float(plain.abs().max()) + 1e-7)


def test_stages_follow_each_other() -> None:
    lengths = {"pictures": 5, "clips": 2, "noisy": 3}
    assert list(lengths) == list(STAGES)
    assert find_stage(0, lengths) == ("pictures", 0)
    assert find_stage(4, lengths) == ("pictures", 4)
    assert find_stage(5, lengths) == ("clips", 0)
    assert find_stage(7, lengths) == ("noisy", 0)
    with pytest.raises(ValueError, match="beyond the last stage"):
        find_stage(10, lengths)
