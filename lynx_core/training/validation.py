"""Held-out loss, and short videos with their likeness, on a schedule.

Measured are the weights that are exported: with an EMA, the averages. The people are in no training pair,
and noise and timesteps are the same each time, so two figures of one run can be compared. The videos take
the triple guidance of inference; its three predictions are one pack of three samples.
"""

from __future__ import annotations

import contextlib
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..data.dataset import PairDataset
from ..data.sample import Nulls, Sample
from ..evaluation.face_scores import measure_similarity
from ..models.adapter_configs import AdapterConfigs
from ..rng import RNGKey, torch_generator
from ..spec import null_embedding
from .assembly import make_analyzer
from .configuration import TrainingConfig
from .distributed import DistributedContext
from .estimate import VALIDATION_FOLDER
from .flow_matching import assemble_inputs, make_batch, sample_losses, shift_timestep
from .optimizer import EMA

_NUM_DRAWS = 4
"""Timesteps at which the loss of each held-out sample is measured."""


def load_held_out(source: PairDataset | None, num_samples: int) -> list[Sample]:
    """Load the first held-out samples, and release the encoders.

    Called at the start, so that an unusable held-out file or encoder shows before step 5,000 does.

    Args:
        source: None for a run without validation.

    Raises:
        DataError: when no held-out pair can be read.
    """
    if source is None:
        return []
    samples = source.load_pack(range(min(num_samples, len(source))))
    source.features.encoders.text.release()
    source.features.encoders.video.release()
    return samples


class Validation:
    """Validates on held-out pairs.

    Every process does the same, since sharded weights need all of them; the main one writes.

    Args:
        ema: the EMA that is exported; None where the weights themselves are.
        samples: that are held out; none for a run without validation.
    """

    def __init__(
        self,
        config: TrainingConfig,
        context: DistributedContext,
        model: nn.Module,
        parts: AdapterConfigs,
        nulls: Nulls,
        ema: EMA | None,
        samples: list[Sample],
    ) -> None:
        self.config, self.context, self.model = config, context, model
        self.parts, self.nulls, self.ema = parts, nulls, ema
        self.samples = samples
        self._decoder = LatentDecoder(config.data.vae, context.device)

    @torch.no_grad()
    def run(self, step: int) -> dict[str, float]:
        """Compute the figures, by name, and write the videos."""
        with self.ema.swapped_in() if self.ema else contextlib.nullcontext():
            figures = {"loss": self._measure_loss(self.samples)}
            scores = []
            for sample in self.samples[: self.config.validation.video_samples]:
                latents = self.sample_video(sample)
                if self.context.is_main:
                    scores.append(self._write(sample, latents, step))
        found = [score for score in scores if score is not None]
        if found:
            figures["face_similarity"] = sum(found) / len(found)
        return figures

    def _measure_loss(self, samples: list[Sample]) -> float:
        """Mean over samples and fixed draws; nothing is dropped."""
        objective = replace(
            self.config.objective,
            text_dropout=0.0,
            identity_dropout=0.0,
            id_dropout=0.0,
            reference_dropout=0.0,
        )
        losses = []
        for sample in samples:
            for draw in range(_NUM_DRAWS):
                key = RNGKey(self.config.run.seed, "validation", 0, sample.id, draw)
                batch = make_batch([sample], [key], self.nulls, objective, self.parts, self.context.device)
                losses.append(sample_losses(self.model(batch.inputs), batch.targets))
        return float(torch.cat(losses).mean())

    @torch.no_grad()
    def sample_video(self, sample: Sample) -> Tensor:
        """Sample latents of a pair's shape from noise: Euler steps with triple guidance.

        Returns:
            [16, frames, height, width], float32.
        """
        config, device = self.config.validation, self.context.device
        generator = torch_generator(self.config.run.seed, "validation video", sample.id)
        x = torch.randn(sample.latents.shape, generator=generator).to(device)
        times = [shift_timestep(1 - i / config.video_steps, config.shift) for i in range(config.video_steps)]
        for t, next_t in zip(times, [*times[1:], 0.0], strict=True):
            null, identity, prompt = self._predict(x, t, sample)
            velocity = (
                null + config.identity_guidance * (identity - null) + config.guidance * (prompt - identity)
            )
            x = x + (next_t - t) * velocity
        return x

    def _predict(self, x: Tensor, t: float, sample: Sample) -> list[Tensor]:
        """Velocities: nothing given, identity given, identity and prompt given."""
        empty, grey = self.nulls.empty_text, self.nulls.grey_reference
        inputs = assemble_inputs(
            [x, x, x],
            [t, t, t],
            [empty, empty, sample.text],
            [null_embedding(), sample.embedding, sample.embedding],
            [grey, sample.reference_latents, sample.reference_latents],
            self.nulls,
            self.parts,
            self.context.device,
        )
        return [velocity.float() for velocity in self.model(inputs)]

    def _write(self, sample: Sample, latents: Tensor, step: int) -> float | None:
        """Write the video; give its likeness where a detector is configured."""
        frames = self._decoder.decode(latents)
        folder = self.config.run.output / VALIDATION_FOLDER
        write_video(frames, folder / f"step-{step:08d}-{_safe_name(sample.id)}.mp4", self._fps())
        if self.config.data.face_models is None:
            return None
        analyzer = make_analyzer(self.config.data)
        return measure_similarity(np.stack(frames), sample.embedding, analyzer).mean_all

    def _fps(self) -> float:
        return self.config.decoding.fps or 16.0


def _safe_name(sample_id: str) -> str:
    return "".join(letter if letter.isalnum() or letter in "-_" else "_" for letter in sample_id)[:80]


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
