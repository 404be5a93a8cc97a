"""From latents to a video file."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor


class LatentDecoder:
    """Wan's VAE through diffusers, opened for each use, so that it takes no memory while training."""

    def __init__(self, folder: Path, device: torch.device) -> None:
        self.folder = folder
        self.device = device

    @torch.no_grad()
    def decode(self, latents: Tensor) -> list[np.ndarray]:
        """Decode [16, t, h, w] in model space.

        Returns:
            A frame each, [H, W, 3] uint8 RGB.
        """
        from diffusers import AutoencoderKLWan

        vae: Any = AutoencoderKLWan.from_pretrained(str(self.folder), local_files_only=True)
        vae = vae.to(self.device).eval()
        mean, std = (
            torch.tensor(values, device=self.device).view(-1, 1, 1, 1)
            for values in (vae.config.latents_mean, vae.config.latents_std)
        )
        pixels_CTHW = vae.decode((latents.to(self.device) * std + mean)[None]).sample[0]
        bytes_THWC = ((pixels_CTHW.clamp(-1, 1) + 1) * 127.5).round().byte().permute(1, 2, 3, 0)
        return list(bytes_THWC.cpu().numpy())


def write_video(frames: list[np.ndarray], path: Path, fps: float) -> None:
    """Write frames [H, W, 3] uint8 as H.264; sides must be even."""
    import av

    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=Fraction(fps).limit_denominator(1000))
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = "yuv420p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
