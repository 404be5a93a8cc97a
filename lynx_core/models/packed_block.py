"""One block of Wan over a packed sequence, with the adapters' extra attentions in it.

The block is diffusers' WanTransformerBlock, taken by its sub-modules. Modulation runs on views of the
sequence, neighbours of equal length together, since six float32 vectors spread over 33,600 tokens
would take 4.1 GB.

Shapes: N samples, S tokens of the packed sequence (where processes share one, of this process), R reference tokens of all samples, L distinct text
tokens of all samples, D model dim, C head dim.
"""

from __future__ import annotations

import contextlib
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..spec import AttentionBackend
from .adapter_modules import AdapterModules
from .segment_attention import Segments, SequenceGroup, attend_segments, attend_shared, find_runs


class PackContext(NamedTuple):
    """What every block needs to know of a packed sequence."""

    tokens: Segments
    """Of each sample; where processes share the sequence, those of this process."""
    freqs_cis: tuple[Tensor, Tensor]
    """Cosine and sine of each token's position, [S, 1, C / 2]."""
    modulation: Tensor
    """[N, 6, D], from the timesteps."""
    text: Tensor
    """[L, D], the distinct tokens."""
    text_rows: Tensor
    """Row of `text` for each token of the padded texts."""
    text_queries: Segments
    """Which queries share a text."""
    text_keys: Segments
    num_heads: int
    backend: AttentionBackend
    sequence: Segments
    """Tokens of the whole sequence."""
    group: SequenceGroup | None = None
    """The processes that share the sequence; None where one has all of it."""

    def share(self, group: SequenceGroup | None) -> PackContext:
        """Give the context of this process's part of the sequence."""
        if group is None:
            return self
        own = group.count_own(self.sequence)
        cosine, sine = self.freqs_cis
        freqs_cis = group.take_own(cosine), group.take_own(sine)
        return self._replace(tokens=own, text_queries=own, freqs_cis=freqs_cis, group=group)


class AdapterInputs(NamedTuple):
    """What an adapter adds to a forward pass."""

    adapter: AdapterModules
    id_tokens: Tensor | None
    """[N, queries, token_dim]."""
    reference: Segments | None
    """Reference tokens of each sample; 0 for one without a reference."""
    id_scale: float
    ref_scale: float


def modulated_input(block: Any, hidden: Tensor, context: PackContext) -> Tensor:
    """Norm and modulate the hidden states: the input of the block's self-attention, [S, D]."""
    shift, scale, *_ = _modulation_of(block, context)
    return modulate(block.norm1, hidden, shift, scale, context.tokens)


def run_block(
    index: int,
    block: Any,
    hidden: Tensor,
    attn_input: Tensor,
    context: PackContext,
    adapter_inputs: AdapterInputs | None = None,
    features: Tensor | None = None,
) -> Tensor:
    """Run a block, given the input of its self-attention.

    Args:
        index: the block's number.
        hidden, attn_input: [S, D], the block's input and `modulated_input` of it.
        features: [R, D], this block's `attn_input` in the reference pass.

    Returns:
        [S, D].
    """
    _, _, gate, shift_ff, scale_ff, gate_ff = _modulation_of(block, context)
    attended = _attend_self(index, block.attn1, attn_input, context, adapter_inputs, features)
    hidden = _add_gated(hidden, attended, gate, context.tokens)
    hidden = hidden + _attend_cross(index, block.attn2, block.norm2(hidden), context, adapter_inputs)
    normed = modulate(block.norm3, hidden, shift_ff, scale_ff, context.tokens)
    return _add_gated(hidden, block.ffn(normed), gate_ff, context.tokens)


def modulate(norm: nn.Module, x: Tensor, shift: Tensor, scale: Tensor, tokens: Segments) -> Tensor:
    """Norm [S, D] in float32, then scale and shift each sample by its own row of [N, D]."""
    runs = find_runs(tokens)
    batches = zip(tokens.split_runs(x, runs), *_split_rows(runs, shift, scale), strict=True)
    done = [torch.addcmul(b, norm(batch.float()), 1 + a).to(x.dtype) for batch, b, a in batches]
    return torch.cat([batch.flatten(0, 1) for batch in done])


def _add_gated(x: Tensor, update: Tensor, gate: Tensor, tokens: Segments) -> Tensor:
    runs = find_runs(tokens)
    batches = zip(
        tokens.split_runs(x, runs), tokens.split_runs(update, runs), *_split_rows(runs, gate), strict=True
    )
    done = [torch.addcmul(batch.float(), u.float(), g).to(x.dtype) for batch, u, g in batches]
    return torch.cat([batch.flatten(0, 1) for batch in done])


def _split_rows(runs: tuple[int, ...], *rows: Tensor) -> list[tuple[Tensor, ...]]:
    """Split each [N, D] into [samples, 1, D] for each run."""
    return [row[:, None].split(runs) for row in rows]


def _modulation_of(block: Any, context: PackContext) -> tuple[Tensor, ...]:
    """Give shift, scale and gate of attention, then of the feed-forward: six of [N, D], float32."""
    return (block.scale_shift_table + context.modulation.float()).unbind(1)


def _attend_self(
    index: int,
    attention: Any,
    attn_input: Tensor,
    context: PackContext,
    adapter_inputs: AdapterInputs | None,
    features: Tensor | None,
) -> Tensor:
    query, key = attention.norm_q(attention.to_q(attn_input)), attention.norm_k(attention.to_k(attn_input))
    out = _attend_sequence(
        apply_rope(query, context), apply_rope(key, context), attention.to_v(attn_input), context
    )
    layer = adapter_inputs.adapter.find_ref_layer(index) if adapter_inputs else None
    if adapter_inputs and adapter_inputs.reference and layer and features is not None:
        with _autocast(attn_input):
            ref_key, ref_value = layer(features)
        ref_key, ref_value = attention.norm_k(ref_key.to(attn_input.dtype)), ref_value.to(attn_input.dtype)
        # The reference has no position: query and key stay as they are before RoPE.
        found = _attend(query, ref_key, ref_value, context.tokens, adapter_inputs.reference, context)
        out = out + adapter_inputs.ref_scale * found
    return attention.to_out[0](out)


def _attend_cross(
    index: int, attention: Any, normed: Tensor, context: PackContext, adapter_inputs: AdapterInputs | None
) -> Tensor:
    query = attention.norm_q(attention.to_q(normed))
    key, value = attention.norm_k(attention.to_k(context.text)), attention.to_v(context.text)
    key, value = key[context.text_rows], value[context.text_rows]
    out = _attend(query, key, value, context.text_queries, context.text_keys, context)
    layer = adapter_inputs.adapter.find_id_layer(index) if adapter_inputs else None
    if adapter_inputs and layer and adapter_inputs.id_tokens is not None:
        with _autocast(normed):
            id_key, id_value = layer(adapter_inputs.id_tokens)
        id_key, id_value = id_key.to(normed.dtype), id_value.to(normed.dtype)
        if layer.key_norm == "block":
            id_key = attention.norm_k(id_key)
        segments = Segments((id_key.shape[1],) * len(id_key))
        id_key, id_value = id_key.flatten(0, 1), id_value.flatten(0, 1)
        out = out + adapter_inputs.id_scale * _attend(
            query, id_key, id_value, context.tokens, segments, context
        )
    return attention.to_out[0](out)


def _attend_sequence(query: Tensor, key: Tensor, value: Tensor, context: PackContext) -> Tensor:
    """Attend inside each sample of the whole sequence; [S, D] in and out."""
    if context.group is None:
        return _attend(query, key, value, context.sequence, context.sequence, context)
    query, key, value = (t.unflatten(-1, (context.num_heads, -1)) for t in (query, key, value))
    return attend_shared(query, key, value, context.sequence, context.group, context.backend).flatten(1)


def _attend(
    query: Tensor, key: Tensor, value: Tensor, queries: Segments, keys: Segments, context: PackContext
) -> Tensor:
    """Let the queries of each sample attend to its keys, which every process has; [S, D] in and out."""
    query, key, value = (t.unflatten(-1, (context.num_heads, -1)) for t in (query, key, value))
    return attend_segments(query, key, value, queries, keys, context.backend).flatten(1)


def apply_rope(x: Tensor, context: PackContext) -> Tensor:
    """Apply RoPE in float32 to adjacent pairs of each head; [S, D] in and out."""
    cosine, sine = context.freqs_cis
    first, second = x.float().unflatten(-1, (context.num_heads, -1, 2)).unbind(-1)
    rotated = torch.stack((first * cosine - second * sine, first * sine + second * cosine), dim=-1)
    return rotated.flatten(1).to(x.dtype)


def _autocast(like: Tensor) -> contextlib.AbstractContextManager[Any]:
    """Autocast float32 adapter weights to the base's half precision."""
    if like.dtype in (torch.float16, torch.bfloat16):
        return torch.autocast(like.device.type, like.dtype)
    return contextlib.nullcontext()
