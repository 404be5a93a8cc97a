"""A small Wan T2V, trained by flow matching on drawings of its own.

The network is diffusers' `WanTransformer3DModel` by its parts, over whole batches of one shape: all but a few
of a prompt's 512 tokens are zeros, so their key is computed once and weighed by their number, which gives
the same attention. A share of the batches are 256 px reference crops, whose features the Ref-adapter reads.

Shapes: N samples, S tokens, L text tokens, D width.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from einops import rearrange
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from lynx_core.rng import numpy_generator
from lynx_core.spec import TEXT_LENGTH

from ..edition import EDITION
from ..making import CPU, Making
from .base_data import EMPTY, EncodedSet
from .muon import Muon, split_weights
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
from .text_encoder import embed_tokens

DIM, HEAD_DIM, FFN_DIM, TEXT_DIM = 256, 128, 512, 4096
NUM_BLOCKS = EDITION.num_blocks
STEPS = 6000
MUON_RATE, ADAM_RATE = 0.02, 2e-3
MEAN_DECAY = 0.998
DROP_TEXT = 0.1
SHIFT = 3.0
"""Of the timesteps in training and in sampling, s t / (1 + (s - 1) t)."""
TURNS = ("clips", "images", "clips", "images", "crops", "clips", "images", "clips")
BATCH_SIZES = {"clips": 40, "images": 96, "crops": 8}
if EDITION.has_duos:
    TURNS = ("clips", "images", "duos", "images", "crops", "clips", "images", "clips")
    BATCH_SIZES = {"clips": 16, "images": 64, "crops": 8, "duos": 8}


@dataclass(frozen=True)
class Course:
    """What a base learns from, by turns, and for how long."""

    name: str
    """Of its file."""
    steps: int
    turns: tuple[str, ...]
    batch_sizes: Mapping[str, int]
    """Of all processes together."""
    rate: float = 1.0
    """Share of the learning rates."""
    start: Mapping[str, Tensor] | None = None
    """Weights of the base that it continues; None for random ones."""

    def sort_of(self, number: int) -> str:
        """What a step learns from."""
        return self.turns[number % len(self.turns)]


COURSE = Course("base", STEPS, TURNS, BATCH_SIZES)
MIN_COMPILED_STEPS = 1000
"""Compiling the blocks takes a minute or two on a CPU, and saves a third of each step."""
_RENAMES = {
    "condition_embedder.time_embedder.linear_1": "time_embedding.0",
    "condition_embedder.time_embedder.linear_2": "time_embedding.2",
    "condition_embedder.text_embedder.linear_1": "text_embedding.0",
    "condition_embedder.text_embedder.linear_2": "text_embedding.2",
    "condition_embedder.time_proj": "time_projection.1",
    "attn1.": "self_attn.",
    "attn2.": "cross_attn.",
    ".to_out.0.": ".o.",
    ".to_q.": ".q.",
    ".to_k.": ".k.",
    ".to_v.": ".v.",
    "ffn.net.0.proj": "ffn.0",
    "ffn.net.2": "ffn.2",
    "norm2": "norm3",
    "proj_out": "head.head",
}


def build_base() -> Any:
    """The network with random weights, whose blocks add nothing at first."""
    from diffusers import WanTransformer3DModel

    torch.manual_seed(3)
    transformer: Any = WanTransformer3DModel(
        num_attention_heads=DIM // HEAD_DIM,
        attention_head_dim=HEAD_DIM,
        text_dim=TEXT_DIM,
        freq_dim=256,
        ffn_dim=FFN_DIM,
        num_layers=NUM_BLOCKS,
    )
    nn.init.zeros_(transformer.proj_out.weight)
    nn.init.zeros_(transformer.proj_out.bias)
    _look_past_padding(transformer)
    return transformer


@torch.no_grad()
def _look_past_padding(transformer: Any) -> None:
    """Let the queries turn away from the text's padding, which outnumbers its tokens 25 to 1.

    Padding is zeros, so without other biases its key is that of to_k, at the length of all keys.
    """
    text_embedder = transformer.condition_embedder.text_embedder
    for layer in (text_embedder.linear_1, text_embedder.linear_2):
        nn.init.zeros_(layer.bias)
    for block in transformer.blocks:
        direction = torch.randn(DIM).sign()
        block.attn2.to_q.bias.copy_(0.5 * direction)
        block.attn2.to_k.bias.copy_(-0.02 * direction)
        nn.init.zeros_(block.attn2.to_v.bias)


def train_base(making: Making, data: EncodedSet, text_encoder: Any, course: Course = COURSE) -> bool:
    """Train it; whether all is done.

    Args:
        text_encoder: as `open_text_encoder` gives it.
    """
    base = build_base()
    if course.start is not None:
        base.load_state_dict(course.start)
    base.to(making.device)
    mean = build_base().to(making.device).requires_grad_(False)
    mean.load_state_dict(base.state_dict())
    inside, rest = split_weights(base.blocks)
    rest += [weight for name, weight in base.named_parameters() if not name.startswith("blocks.")]
    muon, adam = Muon(inside, MUON_RATE), torch.optim.Adam(rest, lr=ADAM_RATE, betas=(0.9, 0.98))
    here = data.to(making.device)
    num_steps = making.count(course.steps)
    is_compiled = making.device == CPU and num_steps >= MIN_COMPILED_STEPS
    run_block = torch.compile(_run_block, dynamic=False) if is_compiled else _run_block

    def step(number: int, drawn: FlowDraws) -> Tensor:
        set_cosine_rate(muon, number, num_steps, course.rate * MUON_RATE)
        set_cosine_rate(adam, number, num_steps, course.rate * ADAM_RATE)
        texts = embed_tokens(text_encoder, here.token_ids[drawn.captions, : drawn.num_tokens])
        # One length for all steps, so that a block is compiled once for each turn.
        texts = F.pad(texts, (0, 0, 0, here.token_ids.shape[1] - drawn.num_tokens))
        with making.autocast():
            loss = _flow_loss(base, here, drawn, course.sort_of(number), texts, run_block)
        loss = take_step(loss, base.parameters(), muon, adam, max_norm=1.0)
        share = 1 - min(MEAN_DECAY, (number + 1) / (number + 10))
        with torch.no_grad():
            for slow, fast in zip(mean.parameters(), base.parameters(), strict=True):
                slow.lerp_(fast, share)
        return loss

    parts = {"base": base, "mean": mean, "muon": muon, "adam": adam}
    alone = replace(making, num_drawers=0)  # all data is in memory, and what is drawn here is little
    return run_steps(alone, course.name, parts, num_steps, step, partial(draw_flow, data, course))


def is_base_trained(making: Making, course: Course = COURSE) -> bool:
    """Whether `train_base` has no step left."""
    return count_done_steps(making, course.name) == making.count(course.steps)


class FlowDraws(NamedTuple):
    """What is drawn for one step."""

    rows: Any
    """Of the latents, [N]."""
    captions: Any
    """Rows of the token ids, [N]."""
    num_tokens: int
    """Of the longest, and one of padding."""
    times: Any
    """[N], 0 to 1."""
    noise: Any
    """[N, 16, T, H, W]."""


def draw_flow(data: EncodedSet, course: Course, number: int) -> FlowDraws:
    """This process's share of one step."""
    sort = course.sort_of(number)
    rng = numpy_generator("base", number, my_rank())
    size = course.batch_sizes[sort] // num_ranks()
    latents = data.latents[sort]
    rows = rng.integers(len(latents), size=size)
    captions = data.captions[sort].numpy()[rows]
    captions = np.where(rng.uniform(size=size) >= DROP_TEXT, captions, EMPTY)
    uniform = rng.uniform(size=size).astype(np.float32)
    times = SHIFT * uniform / (1 + (SHIFT - 1) * uniform)
    if sort == "crops":  # the reference pass sees them without noise
        times = times * (rng.uniform(size=size) < 0.7)
    noise = rng.standard_normal((size, *latents.shape[1:]), dtype="float32")
    return FlowDraws(rows, captions, int(data.lengths.numpy()[captions].max()) + 1, times, noise)


def _flow_loss(
    base: Any, data: EncodedSet, drawn: FlowDraws, sort: str, texts: Tensor, run_block: RunBlock
) -> Tensor:
    clean = data.latents[sort][drawn.rows].float()
    share = drawn.times.view(-1, 1, 1, 1, 1)
    noisy, lengths = clean.lerp(drawn.noise, share), data.lengths[drawn.captions]
    velocity = predict(base, noisy, 1000 * drawn.times, texts, lengths, run_block)
    return F.mse_loss(velocity.float(), drawn.noise - clean)


RunBlock = Callable[[Any, Tensor, Tensor, Tensor, Tensor, tuple[Tensor, Tensor]], Tensor]
"""`_run_block`, or what it was compiled to."""


def predict(
    base: Any,
    latents: Tensor,
    timesteps: Tensor,
    texts: Tensor,
    lengths: Tensor,
    run_block: RunBlock | None = None,
) -> Tensor:
    """The velocity of a batch of one shape, [N, 16, T, H, W].

    Args:
        latents: [N, 16, T, H, W], noisy.
        timesteps: [N], 0 to 1000.
        texts: [N, L, 4096], zeros from `lengths` on.
        lengths: [N], fewer than there is room for.
    """
    embedder = base.condition_embedder
    time = embedder.time_embedder(embedder.timesteps_proj(timesteps))
    modulation = embedder.time_proj(F.silu(time)).unflatten(1, (6, -1)).float()
    text = embedder.text_embedder(texts.float())
    weights = _weigh_text(lengths, texts.shape[1])
    rotation = base.rope(latents)
    hidden = base.patch_embedding(latents).flatten(2).transpose(1, 2)
    for block in base.blocks:
        hidden = (run_block or _run_block)(block, hidden, text, weights, modulation, rotation)
    shift, scale = (base.scale_shift_table + time[:, None].float()).chunk(2, 1)
    out = base.proj_out(base.norm_out(hidden.float()) * (1 + scale) + shift)
    _, _, frames, height, width = latents.shape
    return rearrange(
        out,
        "n (t h w) (p q c) -> n c t (h p) (w q)",
        t=frames, h=height // 2, w=width // 2, p=2, q=2,
    )  # fmt: skip


def _weigh_text(lengths: Tensor, num_tokens: int) -> Tensor:
    """Logits to add, [N, 1, 1, L]: the first token of padding stands for all of it, the others are unseen."""
    places = torch.arange(num_tokens, device=lengths.device)
    padding = (TEXT_LENGTH - lengths).float().log()[:, None]
    logits = torch.where(places == lengths[:, None], padding, 0.0)
    return logits.masked_fill(places > lengths[:, None], -math.inf)[:, None, None]


def _run_block(
    block: Any,
    hidden: Tensor,
    text: Tensor,
    weights: Tensor,
    modulation: Tensor,
    rotation: tuple[Tensor, Tensor],
) -> Tensor:
    table = (block.scale_shift_table + modulation).chunk(6, 1)
    shift, scale, gate, shift_ff, scale_ff, gate_ff = table
    seen = block.norm1(hidden.float()) * (1 + scale) + shift
    self_attn, cross_attn = block.attn1, block.attn2
    query = _rotate(_heads(self_attn.norm_q(self_attn.to_q(seen))), rotation)
    key = _rotate(_heads(self_attn.norm_k(self_attn.to_k(seen))), rotation)
    found = _attend(query, key, _heads(self_attn.to_v(seen)))
    hidden = hidden + gate * self_attn.to_out[0](found.transpose(1, 2).flatten(2))
    query = _heads(cross_attn.norm_q(cross_attn.to_q(block.norm2(hidden.float()))))
    key = _heads(cross_attn.norm_k(cross_attn.to_k(text)))
    value = _heads(cross_attn.to_v(text))
    found = _attend(query, key, value, weights)
    hidden = hidden + cross_attn.to_out[0](found.transpose(1, 2).flatten(2))
    return hidden + gate_ff * block.ffn(block.norm3(hidden.float()) * (1 + scale_ff) + shift_ff)


def _attend(query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None = None) -> Tensor:
    """Attention by its formula: for so few keys it is faster on a CPU than the fused one."""
    logits = (query @ key.transpose(-1, -2)).float() * HEAD_DIM**-0.5
    if bias is not None:
        logits = logits + bias
    return logits.softmax(-1).to(value.dtype) @ value


def _heads(x: Tensor) -> Tensor:
    return x.unflatten(-1, (-1, HEAD_DIM)).transpose(1, 2)


def _rotate(x: Tensor, rotation: tuple[Tensor, Tensor]) -> Tensor:
    cosine, sine = (table.transpose(1, 2)[..., ::2] for table in rotation)
    first, second = x.float().unflatten(-1, (-1, 2)).unbind(-1)
    turned = torch.stack((first * cosine - second * sine, first * sine + second * cosine), dim=-1)
    return turned.flatten(-2).to(x.dtype)


def find_base(making: Making) -> Path:
    """The file for the host."""
    return making.assets / "diffusion_models" / "lynx_mini_wan_t2v.safetensors"


def export_base(making: Making, course: Course = COURSE, path: Path | None = None) -> None:
    """Write the EMA as the file for the host, which the trainer opens as well."""
    weights = read_part(making.folder / f"{course.name}.pt", "mean")
    state = {rename_weight(name): weight.bfloat16().contiguous() for name, weight in weights.items()}
    path = path or find_base(making)
    write_beside(path, lambda beside: save_file(state, beside))


def rename_weight(name: str) -> str:
    """From diffusers' name to that of Wan's own file."""
    if name == "scale_shift_table":
        return "head.modulation"
    name = name.replace("scale_shift_table", "modulation")
    for theirs, wan in _RENAMES.items():
        name = name.replace(theirs, wan)
    return name
