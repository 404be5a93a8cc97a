"""The network of a small Wan T2V.

It is diffusers' `WanTransformer3DModel` by its parts, over whole batches of one shape: all but a few of a prompt's
512 tokens are zeros, so their key is computed once and weighed by their number, which gives the same attention.

Shapes: N samples, S tokens, L text tokens, D width.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from einops import rearrange
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from lynx_core.spec import TEXT_LENGTH

from ..edition import EDITION
from ..making import Making
from .resumable import write_beside

DIM, HEAD_DIM, FFN_DIM, TEXT_DIM = 256, 128, 512, 4096
NUM_BLOCKS = EDITION.num_blocks
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


RunBlock = Callable[[Any, Tensor, Tensor, Tensor, Tensor, tuple[Tensor, Tensor]], Tensor]
"""`run_plainly`, or what it was compiled to."""


def predict(
    base: Any,
    latents: Tensor,
    timesteps: Tensor,
    texts: Tensor,
    lengths: Tensor,
    run_block: RunBlock | None = None,
    seen: list[Tensor] | None = None,
) -> Tensor:
    """The velocity of a batch of one shape, [N, 16, T, H, W].

    Args:
        latents: [N, 16, T, H, W], noisy.
        timesteps: [N], 0 to 1000.
        texts: [N, L, 4096], zeros from `lengths` on.
        lengths: [N], fewer than there is room for.
        seen: is given what each block makes of the tokens, [N, S, D].
    """
    embedder = base.condition_embedder
    time = embedder.time_embedder(embedder.timesteps_proj(timesteps))
    modulation = embedder.time_proj(F.silu(time)).unflatten(1, (6, -1)).float()
    text = embedder.text_embedder(texts.float())
    weights = _weigh_text(lengths, texts.shape[1])
    rotation = base.rope(latents)
    hidden = base.patch_embedding(latents).flatten(2).transpose(1, 2)
    for block in base.blocks:
        hidden = (run_block or run_plainly)(block, hidden, text, weights, modulation, rotation)
        if seen is not None:
            seen.append(hidden)
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


def run_plainly(
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


def save_base(weights: Mapping[str, Tensor], path: Path) -> None:
    """Write weights as the file for the host, which the trainer opens as well."""
    state = {rename_weight(name): weight.bfloat16().contiguous() for name, weight in weights.items()}
    write_beside(path, lambda beside: save_file(state, beside))


def rename_weight(name: str) -> str:
    """From diffusers' name to that of Wan's own file."""
    if name == "scale_shift_table":
        return "head.modulation"
    name = name.replace("scale_shift_table", "modulation")
    for theirs, wan in _RENAMES.items():
        name = name.replace(theirs, wan)
    return name
