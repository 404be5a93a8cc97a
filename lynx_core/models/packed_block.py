"""One block of Wan over a packed sequence, with the adapters' extra attentions in it.

The block is diffusers' WanTransformerBlock, taken by its sub-modules. Modulation runs on views of the
sequence, neighbours of equal length together, since six float32 vectors spread over 33,600 tokens
would take 4.1 GB. `torch.compile` spreads them without keeping them: what works token by token can be compiled for
one padded length, and what looks at the samples runs as it is between.

Shapes: N samples, S tokens of the packed sequence (where processes share one, of this process), R reference tokens of all samples, L distinct text
tokens of all samples, D model dim, C head dim.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..spec import AttentionBackend
from .adapter_modules import AdapterModules
from .adapters import IDAdapterLayer, RefAdapterLayer
from .segment_attention import Segments, SequenceGroup, attend_segments, attend_shared, find_runs

_ROWS = 32
"""Samples of a compiled block: their number is padded to a multiple."""


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
    rows: Tensor | None = None
    """Of a compiled block: the sample of each token, padded, [S]. The hidden states are as long."""

    def share(self, group: SequenceGroup | None) -> PackContext:
        """Give the context of this process's part of the sequence."""
        if group is None:
            return self
        own = group.count_own(self.sequence)
        cosine, sine = self.freqs_cis
        freqs_cis = group.take_own(cosine), group.take_own(sine)
        return self._replace(tokens=own, text_queries=own, freqs_cis=freqs_cis, group=group)

    def pad(self, num_tokens: int) -> PackContext:
        """Give the context of a compiled block, whose sequence is padded with tokens that nothing attends to."""
        device, num_samples = self.modulation.device, len(self.tokens)
        rows = torch.arange(num_samples).repeat_interleave(torch.tensor(self.tokens.lengths))
        rows = pad_rows(rows, num_tokens).to(device, non_blocking=True)
        cosine, sine = (pad_rows(table, num_tokens) for table in self.freqs_cis)
        # Of few sizes, so that packs of other numbers of samples are no new case to the compiler.
        modulation = pad_rows(self.modulation, -(-num_samples // _ROWS) * _ROWS)
        return self._replace(rows=rows, freqs_cis=(cosine, sine), modulation=modulation)


class AdapterLayers(NamedTuple):
    """The adapter's layers in one block, if it has any there."""

    id: IDAdapterLayer | None = None
    ref: RefAdapterLayer | None = None


class AdapterInputs(NamedTuple):
    """What an adapter adds to a forward pass."""

    adapter: AdapterModules
    id_tokens: Tensor | None
    """[N, queries, token_dim]."""
    reference: Segments | None
    """Reference tokens of each sample; 0 for one without a reference."""
    id_scale: float
    ref_scale: float


def pad_rows(x: Tensor, num_rows: int) -> Tensor:
    """Pad [S, ...] with zeros to [num_rows, ...]; as it is where it has as many."""
    if len(x) == num_rows:
        return x
    return torch.cat([x, x.new_zeros((num_rows - len(x), *x.shape[1:]))])


def modulated_input(block: Any, hidden: Tensor, context: PackContext) -> Tensor:
    """Norm and modulate the hidden states: the input of the block's self-attention, [S, D]."""
    shift, scale, *_ = _modulation_of(block, context)
    return modulate(block.norm1, hidden, shift, scale, context)


def run_block(
    block: Any,
    layers: AdapterLayers,
    hidden: Tensor,
    attn_input: Tensor,
    context: PackContext,
    adapter_inputs: AdapterInputs | None = None,
    features: Tensor | None = None,
) -> Tensor:
    """Run a block, given the input of its self-attention.

    Args:
        layers: the adapter's in this block.
        hidden, attn_input: [S, D], the block's input and `modulated_input` of it.
        features: [R, D], this block's `attn_input` in the reference pass.

    Returns:
        [S, D].
    """
    _, _, gate, shift_ff, scale_ff, gate_ff = _modulation_of(block, context)
    attended = _attend_self(block.attn1, layers.ref, attn_input, context, adapter_inputs, features)
    hidden = _add_gated(hidden, attended, gate, context)
    hidden = hidden + _attend_cross(block.attn2, layers.id, block.norm2(hidden), context, adapter_inputs)
    normed = modulate(block.norm3, hidden, shift_ff, scale_ff, context)
    return _add_gated(hidden, _run_tokens(_feed_forward, context, block.ffn, normed), gate_ff, context)


def modulate(norm: nn.Module, x: Tensor, shift: Tensor, scale: Tensor, context: PackContext) -> Tensor:
    """Norm [S, D] in float32, then scale and shift each sample by its own row of [N, D]."""
    if context.rows is not None:
        return _compile(_modulate_rows)(norm, x, shift, scale, context.rows)
    tokens = context.tokens
    runs = find_runs(tokens)
    batches = zip(tokens.split_runs(x, runs), *_split_rows(runs, shift, scale), strict=True)
    done = [torch.addcmul(b, norm(batch.float()), 1 + a).to(x.dtype) for batch, b, a in batches]
    return torch.cat([batch.flatten(0, 1) for batch in done])


def _add_gated(x: Tensor, update: Tensor, gate: Tensor, context: PackContext) -> Tensor:
    if context.rows is not None:
        return _compile(_add_gated_rows)(x, update, gate, context.rows)
    tokens = context.tokens
    runs = find_runs(tokens)
    batches = zip(
        tokens.split_runs(x, runs), tokens.split_runs(update, runs), *_split_rows(runs, gate), strict=True
    )
    done = [torch.addcmul(batch.float(), u.float(), g).to(x.dtype) for batch, u, g in batches]
    return torch.cat([batch.flatten(0, 1) for batch in done])


def _modulate_rows(norm: nn.Module, x: Tensor, shift: Tensor, scale: Tensor, rows: Tensor) -> Tensor:
    return torch.addcmul(shift[rows], norm(x.float()), 1 + scale[rows]).to(x.dtype)


def _add_gated_rows(x: Tensor, update: Tensor, gate: Tensor, rows: Tensor) -> Tensor:
    return torch.addcmul(x.float(), update.float(), gate[rows]).to(x.dtype)


@cache
def _compile(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile a function of tensors and modules: once for all blocks, which are of one shape."""
    return torch.compile(function)


def _run_tokens(function: Callable[..., Any], context: PackContext, *arguments: Any) -> Any:
    """Run a function that works token by token, compiled where the context is padded for that."""
    return (function if context.rows is None else _compile(function))(*arguments)


def _split_rows(runs: tuple[int, ...], *rows: Tensor) -> list[tuple[Tensor, ...]]:
    """Split each [N, D] into [samples, 1, D] for each run."""
    return [row[:, None].split(runs) for row in rows]


def _modulation_of(block: Any, context: PackContext) -> tuple[Tensor, ...]:
    """Give shift, scale and gate of attention, then of the feed-forward: six of [N, D], float32."""
    return (block.scale_shift_table + context.modulation.float()).unbind(1)


def _attend_self(
    attention: Any,
    layer: RefAdapterLayer | None,
    attn_input: Tensor,
    context: PackContext,
    adapter_inputs: AdapterInputs | None,
    features: Tensor | None,
) -> Tensor:
    cosine, sine = context.freqs_cis
    projected = _run_tokens(_project, context, attention, attn_input, cosine, sine, context.num_heads)
    query, rotated_query, rotated_key, value = projected
    out = _attend_sequence(rotated_query, rotated_key, value, context)
    if adapter_inputs is not None and layer is not None and features is not None:
        # The reference has no position: query and key stay as they are before RoPE.
        found = _attend_reference(attention, layer, query, features, context, adapter_inputs)
        out = out + adapter_inputs.ref_scale * found
    return attention.to_out[0](out)


def _project(attention: Any, x: Tensor, cosine: Tensor, sine: Tensor, num_heads: int) -> tuple[Tensor, ...]:
    """Query before RoPE; query and key after it; value. [S, D] each."""
    query, key = _project_query(attention, x), attention.norm_k(attention.to_k(x))
    rotated = (apply_rope(part, cosine, sine, num_heads) for part in (query, key))
    return query, *rotated, attention.to_v(x)


def _project_query(attention: Any, x: Tensor) -> Tensor:
    return attention.norm_q(attention.to_q(x))


def _feed_forward(ffn: nn.Module, x: Tensor) -> Tensor:
    return ffn(x)


def _attend_cross(
    attention: Any,
    layer: IDAdapterLayer | None,
    normed: Tensor,
    context: PackContext,
    adapter_inputs: AdapterInputs | None,
) -> Tensor:
    query = _run_tokens(_project_query, context, attention, normed)
    out = _attend_text(attention, query, context)
    if adapter_inputs is not None and layer is not None and adapter_inputs.id_tokens is not None:
        found = _attend_identity(attention, layer, query, context, adapter_inputs)
        out = out + adapter_inputs.id_scale * found
    return attention.to_out[0](out)


def _attend_sequence(query: Tensor, key: Tensor, value: Tensor, context: PackContext) -> Tensor:
    """Attend inside each sample of the whole sequence; [S, D] in and out."""
    if context.group is None:
        return _attend(query, key, value, context.sequence, context.sequence, context)
    own = context.tokens.total
    q, k, v = (t[:own].unflatten(-1, (context.num_heads, -1)) for t in (query, key, value))
    found = attend_shared(q, k, v, context.sequence, context.group, context.backend)
    return pad_rows(found.flatten(1), len(query))


def _attend_reference(
    attention: Any,
    layer: RefAdapterLayer,
    query: Tensor,
    features: Tensor,
    context: PackContext,
    adapter_inputs: AdapterInputs,
) -> Tensor:
    assert adapter_inputs.reference is not None  # it comes with the features
    with _autocast(query):
        key, value = layer(features)
    key, value = attention.norm_k(key.to(query.dtype)), value.to(query.dtype)
    return _attend(query, key, value, context.tokens, adapter_inputs.reference, context)


def _attend_text(attention: Any, query: Tensor, context: PackContext) -> Tensor:
    key, value = attention.norm_k(attention.to_k(context.text)), attention.to_v(context.text)
    key, value = key[context.text_rows], value[context.text_rows]
    return _attend(query, key, value, context.text_queries, context.text_keys, context)


def _attend_identity(
    attention: Any, layer: IDAdapterLayer, query: Tensor, context: PackContext, adapter_inputs: AdapterInputs
) -> Tensor:
    with _autocast(query):
        key, value = layer(adapter_inputs.id_tokens)
    key, value = key.to(query.dtype), value.to(query.dtype)
    if layer.key_norm == "block":
        key = attention.norm_k(key)
    segments = Segments((key.shape[1],) * len(key))
    return _attend(query, key.flatten(0, 1), value.flatten(0, 1), context.tokens, segments, context)


def _attend(
    query: Tensor, key: Tensor, value: Tensor, queries: Segments, keys: Segments, context: PackContext
) -> Tensor:
    """Let the queries of each sample attend to its keys; [S, D] in and out, padding as it comes."""
    own, ends = queries.total, keys.total
    q, k, v = (t.unflatten(-1, (context.num_heads, -1)) for t in (query[:own], key[:ends], value[:ends]))
    return pad_rows(attend_segments(q, k, v, queries, keys, context.backend).flatten(1), len(query))


def apply_rope(x: Tensor, cosine: Tensor, sine: Tensor, num_heads: int) -> Tensor:
    """Apply RoPE in float32 to adjacent pairs of each head; [S, D] in and out."""
    first, second = x.float().unflatten(-1, (num_heads, -1, 2)).unbind(-1)
    rotated = torch.stack((first * cosine - second * sine, first * sine + second * cosine), dim=-1)
    return rotated.flatten(1).to(x.dtype)


def _autocast(like: Tensor) -> contextlib.AbstractContextManager[Any]:
    """Autocast float32 adapter weights to the base's half precision."""
    if like.dtype in (torch.float16, torch.bfloat16):
        return torch.autocast(like.device.type, like.dtype)
    return contextlib.nullcontext()
