"""Videos in batches: the arithmetic of the nodes and the trainer, with all that repeats done once.

All videos of a batch have one shape and one timestep, so a pack is a plain batch here. Keys and values of text,
identity and reference do not change from step to step and are computed once. The prompt's padding is many equal
tokens, which attention sees as one whose logit is raised by the logarithm of their number. A test compares the
velocities with those of `PackedWan`.

Letters: B videos, S tokens of a video, L text tokens, R reference tokens, H heads, C head dim, D width.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from lynx_core.models.adapter_modules import AdapterModules
from lynx_core.models.packed_wan import PackedWan
from lynx_core.spec import TEXT_LENGTH
from lynx_core.training.flow_matching import TIMESTEP_SCALE, shift_timestep

from ..parts.pixel_signal import to_pictures, to_video_signal
from ..world.clip import FRAME_PX, NUM_FRAMES

LATENT_SHAPE = (16, 1 + (NUM_FRAMES - 1) // 4, FRAME_PX // 8, FRAME_PX // 8)
"""Of a clip."""

BlockKV = tuple[Tensor, Tensor]
"""[B or 1, H, keys, C] each."""


@dataclass(frozen=True)
class Conditions:
    """What videos are made from; None leaves a part of the adapter out, one entry serves all videos."""

    texts: Sequence[Tensor]
    """B or 1 of [L, text_dim], not padded."""
    embeddings: Tensor | None
    """[B or 1, 512]; zeros are the null identity."""
    features: dict[int, Tensor] | None
    """Block number to what its self-attention saw in the reference pass, [B or 1, R, D]."""


@dataclass(frozen=True)
class SamplingSettings:
    """How noise becomes a video."""

    steps: int = 20
    guidance: float = 3.0
    shift: float = 5.0
    id_scale: float = 1.0
    ref_scale: float = 1.0

    @property
    def sigmas(self) -> list[float]:
        """From 1 to 0: where each step begins, and the last ends."""
        return [shift_timestep(1 - i / self.steps, self.shift) for i in range(self.steps + 1)]


@dataclass(frozen=True)
class _Prepared:
    """Keys and values by block."""

    text: list[BlockKV]
    text_bias: Tensor
    """[B, 1, 1, L]."""
    id: dict[int, BlockKV]
    ref: dict[int, BlockKV]


class BatchSampler:
    """Samples latents from a base and an adapter.

    Args:
        wan: the frozen base.
        adapter: None for the base alone.
        half: multiply in bfloat16; sums stay in float32.
    """

    def __init__(self, wan: PackedWan, adapter: AdapterModules | None, *, half: bool = True) -> None:
        if adapter is not None:
            wan.check_adapter(adapter)
        self.wan, self.adapter, self.half = wan, adapter, half
        self.num_heads: int = wan.config.num_attention_heads
        self.device = find_device(wan.transformer)
        if adapter is not None:
            adapter.to(self.device)
        rotation = wan.compute_rope_freqs([torch.zeros(LATENT_SHAPE, device=self.device)])
        self._rotation = tuple(table.transpose(0, 1) for table in rotation)  # [1, S, C / 2]

    @torch.no_grad()
    def sample(
        self, noise: Tensor, wanted: Conditions, unwanted: Conditions, settings: SamplingSettings
    ) -> Tensor:
        """Euler steps with guidance away from `unwanted`: the empty prompt and the null identity.

        Args:
            noise: [B, 16, t, h, w].

        Returns:
            Latents in model space, [B, 16, t, h, w] float32, on the base's device.
        """
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.half):
            sides = [self.prepare(side) for side in (wanted, unwanted)]
            x = noise.to(self.device)
            for t, after in pairwise(settings.sigmas):
                positive, negative = (self.predict(x, t, side, settings) for side in sides)
                x = x + (after - t) * (negative + settings.guidance * (positive - negative))
        return x

    def prepare(self, conditions: Conditions) -> _Prepared:
        """Compute all keys and values that stay the same over the steps."""
        text, lengths = self._embed_texts(conditions.texts)
        positions = torch.arange(text.shape[1], device=self.device)
        bias = torch.where(positions < lengths[:, None], 0.0, -math.inf)
        bias = torch.where(positions == lengths[:, None], (TEXT_LENGTH - lengths[:, None]).log(), bias)
        blocks: Any = self.wan.transformer.blocks
        return _Prepared(
            text=[self._split(b.attn2.norm_k(b.attn2.to_k(text)), b.attn2.to_v(text)) for b in blocks],
            text_bias=bias[:, None, None],
            id=self._prepare_id(conditions.embeddings),
            ref=self._prepare_ref(conditions.features),
        )

    def _embed_texts(self, texts: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Tokens and one token of padding, [B, longest + 1, D], and lengths [B]."""
        lengths = [len(text) for text in texts]
        padded = torch.stack(
            [F.pad(text.float(), (0, 0, 0, max(lengths) + 1 - len(text))) for text in texts]
        ).to(self.device)
        embed = self.wan.transformer.condition_embedder.text_embedder
        return embed(padded), torch.tensor(lengths, device=self.device)

    def _prepare_id(self, embeddings: Tensor | None) -> dict[int, BlockKV]:
        adapter = self.adapter
        if adapter is None or adapter.resampler is None or embeddings is None:
            return {}
        tokens = adapter.resampler(embeddings.float().to(self.device))
        found = {}
        for index, block in enumerate(self.wan.transformer.blocks):
            layer = adapter.find_id_layer(index)
            if layer is not None:
                key, value = layer(tokens)
                found[index] = self._split(
                    block.attn2.norm_k(key) if layer.key_norm == "block" else key, value
                )
        return found

    def _prepare_ref(self, features: dict[int, Tensor] | None) -> dict[int, BlockKV]:
        if self.adapter is None or features is None:
            return {}
        found = {}
        for index, block in enumerate(self.wan.transformer.blocks):
            layer = self.adapter.find_ref_layer(index)
            if layer is not None:
                key, value = layer(features[index].float())
                found[index] = self._split(block.attn1.norm_k(key), value)
        return found

    def _split(self, *tensors: Tensor) -> Any:
        return tuple(self._heads(tensor) for tensor in tensors)

    def _heads(self, x: Tensor) -> Tensor:
        return rearrange(x.to(torch.bfloat16) if self.half else x, "b s (h c) -> b h s c", h=self.num_heads)

    def predict(self, x: Tensor, t: float, side: _Prepared, settings: SamplingSettings) -> Tensor:
        """The velocity, [B, 16, t, h, w] float32."""
        transformer = self.wan.transformer
        embedder = transformer.condition_embedder
        sinusoids = embedder.timesteps_proj(torch.tensor([t * TIMESTEP_SCALE], device=x.device))
        time = embedder.time_embedder(sinusoids).float()
        modulation = embedder.time_proj(F.silu(time)).float().unflatten(1, (6, -1))
        embedding = transformer.patch_embedding
        patches = rearrange(x, "b c t (h p) (w q) -> b (t h w) (c p q)", p=2, q=2)
        hidden = F.linear(patches, embedding.weight.flatten(1), embedding.bias).float()
        for index, block in enumerate(transformer.blocks):
            hidden = self._run_block(index, block, hidden, modulation, side, settings)
        shift, scale = (transformer.scale_shift_table + time[:, None]).unbind(1)
        out = transformer.proj_out(_normed(hidden) * (1 + scale) + shift).float()
        _, frames, height, width = x.shape[1:]
        return rearrange(
            out,
            "b (t h w) (p q c) -> b c t (h p) (w q)",
            **{"t": frames, "h": height // 2, "w": width // 2, "p": 2, "q": 2},
        )

    def _run_block(
        self,
        index: int,
        block: Any,
        hidden: Tensor,
        modulation: Tensor,
        side: _Prepared,
        settings: SamplingSettings,
    ) -> Tensor:
        shift, scale, gate, shift_ff, scale_ff, gate_ff = (block.scale_shift_table + modulation).unbind(1)
        attention = block.attn1
        seen = _normed(hidden) * (1 + scale) + shift
        query, key = attention.norm_q(attention.to_q(seen)), attention.norm_k(attention.to_k(seen))
        rotated = self._heads(self._rotate(query)), self._heads(self._rotate(key))
        out = F.scaled_dot_product_attention(*rotated, self._heads(attention.to_v(seen)))
        if index in side.ref:
            # As in the release, neither the query nor the reference has a position here.
            out = out + settings.ref_scale * self._look(self._heads(query), side.ref[index])
        hidden = hidden + gate * attention.to_out[0](_join(out)).float()
        attention = block.attn2
        query = self._heads(attention.norm_q(attention.to_q(block.norm2(hidden))))
        bias = side.text_bias.to(query.dtype).expand(len(query), -1, -1, -1)
        out = self._look(query, side.text[index], bias)
        if index in side.id:
            out = out + settings.id_scale * self._look(query, side.id[index])
        hidden = hidden + attention.to_out[0](_join(out)).float()
        return hidden + gate_ff * block.ffn(_normed(hidden) * (1 + scale_ff) + shift_ff).float()

    @staticmethod
    def _look(query: Tensor, key_value: BlockKV, bias: Tensor | None = None) -> Tensor:
        key, value = (tensor.expand(len(query), -1, -1, -1) for tensor in key_value)
        return F.scaled_dot_product_attention(query, key, value, attn_mask=bias)

    def _rotate(self, x: Tensor) -> Tensor:
        cosine, sine = (table.unsqueeze(2) for table in self._rotation)  # [1, S, 1, C / 2]
        first, second = x.float().unflatten(-1, (self.num_heads, -1, 2)).unbind(-1)
        pairs = (first * cosine - second * sine, first * sine + second * cosine)
        return torch.stack(pairs, -1).flatten(2)


def _normed(hidden: Tensor) -> Tensor:
    return F.layer_norm(hidden, hidden.shape[-1:], eps=1e-6)


def _join(x: Tensor) -> Tensor:
    return rearrange(x, "b h s c -> b s (h c)")


def find_device(network: nn.Module) -> torch.device:
    """Where a network computes."""
    return next(network.parameters()).device


def draw_noise(case: int, seed: int) -> Tensor:
    """The noise that a video begins with, [16, t, h, w]: the same for every variant."""
    return torch.randn(LATENT_SHAPE, generator=torch.Generator().manual_seed(1000 * seed + case + 1))


@torch.no_grad()
def record_references(wan: PackedWan, latents: Sequence[Tensor], text: Tensor) -> dict[int, Tensor]:
    """Run the reference pass over B faces [16, 1, 32, 32]; block number to [B, R, D] in bfloat16."""
    device = find_device(wan.transformer)
    parts: list[dict[int, Tensor]] = []
    for first in range(0, len(latents), 8):
        some = [latent.to(device) for latent in latents[first : first + 8]]
        features = wan.record_features(some, text.to(device)).features
        parts.append({i: f.unflatten(0, (len(some), -1)).bfloat16() for i, f in features.items()})
    return {index: torch.cat([part[index] for part in parts]) for index in parts[0]}


@torch.no_grad()
def decode_latents(vae: Any, latents: Tensor) -> np.ndarray:
    """Decode [B, 16, t, h, w] in model space to clips [B, T, H, W, 3] uint8 RGB, in bfloat16 arithmetic."""
    mean, std = (torch.tensor(v).view(-1, 1, 1, 1) for v in (vae.config.latents_mean, vae.config.latents_std))
    device, clips = find_device(vae), []
    for part in (latents.cpu() * std + mean).split(8):
        with torch.autocast(device.type, torch.bfloat16):
            pixels = vae.decode(part.to(device)).sample.float()
        clips.append(to_pictures(pixels.transpose(1, 2)))
    return np.concatenate(clips)


@torch.no_grad()
def reconstruct(vae: Any, clips: np.ndarray, batch_size: int = 1) -> np.ndarray:
    """Clips [B, T, H, W, 3] uint8 RGB through the VAE and back, in bfloat16 arithmetic."""
    device, out = find_device(vae), []
    for part in to_video_signal(clips).split(batch_size):
        with torch.autocast(device.type, torch.bfloat16):
            latents = vae.encode(part.to(device)).latent_dist.mode().float()
            pixels = vae.decode(latents).sample.float()
        out.append(to_pictures(pixels.transpose(1, 2)))
    return np.concatenate(out)
