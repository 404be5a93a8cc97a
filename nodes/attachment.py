"""The one place where the pack attaches to the host's Wan model.

For the length of each model call, four leaves per block get another instance `forward`:
`norm_q` and `o` of the self- and the cross-attention. `norm_q` hands out the normed query
before RoPE, which is the adapters' query; `o` receives the attention's output right before
the projection, where their residual belongs. Each delegates to the forward it found, so
GGUF, fp8, partly loaded models, LoRAs, NAG and attention overrides stay where they are, and
nothing is left behind. The taps are made once per model and their bodies are hidden from
the compiler: a compiled model keeps its guards and never branches on an identity.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import takewhile
from typing import Any

import comfy.model_management
import comfy.patcher_extension
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..lynx_core.models.attention import attend_extra
from .identity import COND_KEY, BaseModel, IdentityRows, Kind, Term

WRAPPER_KEY = "lynx"


@dataclass
class ModelCall:
    """One call of the model: which identity its rows carry, and at which sigma."""

    terms: list[list[Term]]
    """Active terms of each conditioning in the batch, in order."""

    frames: Sequence[int]
    """Latent frames of the video that this call sees; a context window does not see all."""

    tokens_per_frame: int
    queries: dict[int, list[Tensor]] = field(default_factory=dict)
    """Queries seen since the last output projection, by the attention's id."""

    def count_skipped_tokens(self, term: Term) -> int:
        """Count the leading tokens that stay without a term."""
        return self.tokens_per_frame * sum(
            1 for _ in takewhile(lambda frame: frame < term.skip_frames, self.frames)
        )


class CallHolder:
    """Where the taps find the call that is running."""

    call: ModelCall | None = None


class AttentionTap:
    """The taps on one attention module's `norm_q` and `o`."""

    def __init__(self, attention: nn.Module, block: int, kind: Kind, holder: CallHolder) -> None:
        self.attention = attention
        self.block = block
        self.kind = kind
        self.holder = holder
        self.original: dict[str, Callable[[Tensor], Tensor]] = {}

        @torch._dynamo.disable
        def tap_norm_q(x: Tensor) -> Tensor:
            query = self.original["norm_q"](x)
            if holder.call is not None:
                holder.call.queries.setdefault(id(self), []).append(query)
            return query

        @torch._dynamo.disable
        def tap_o(x: Tensor) -> Tensor:
            if holder.call is not None:
                x = self.add_residual(x, holder.call)
            return self.original["o"](x)

        self.forwards = {"norm_q": tap_norm_q, "o": tap_o}

    def is_active(self, call: ModelCall) -> bool:
        """Tell whether any row of this call needs this tap."""
        return any(self.choose_terms(terms) for terms in call.terms)

    def choose_terms(self, terms: list[Term]) -> list[Term]:
        return [t for t in terms if t.kind == self.kind and t.strength and self.block in t.blocks]

    def add_residual(self, x: Tensor, call: ModelCall) -> Tensor:
        """Add the adapters' attention to the attention output `x`, [rows, tokens, dim]."""
        query = join_rows(call.queries.pop(id(self), []), len(x))
        if query is None or query.shape != x.shape:
            warn_once(
                f"Lynx could not find the {self.kind} query of block {self.block}: another node computes "
                "this attention in its own way. The identity is left out there."
            )
            return x
        rows = len(x) // len(call.terms)
        if len(call.terms) == 1:
            return self.sum_terms(x, query, call.terms[0], call)
        out = torch.empty_like(x)
        for index, terms in enumerate(call.terms):
            here = slice(index * rows, (index + 1) * rows)
            out[here] = self.sum_terms(x[here], query[here], terms, call)
        return out

    def sum_terms(self, x: Tensor, query: Tensor, terms: list[Term], call: ModelCall) -> Tensor:
        """Add the attention of one conditioning's terms to its rows of the attention output."""
        for term in self.choose_terms(terms):
            skipped = call.count_skipped_tokens(term)
            residual = self.attend(query[:, skipped:], term)
            if skipped:
                residual = F.pad(residual, (0, 0, skipped, 0))
            # In place in the new tensor, never in `x`, which other nodes may hold.
            x = residual.add_(x)
        return x

    def attend(self, query: Tensor, term: Term) -> Tensor:
        baked = term.key_values.get_block(self.block)
        key, value = baked.key.to(query), baked.value.to(query)
        if term.key_values.norm_key:
            key = self.attention.norm_k(key)
        # The strength goes into the few values, not into the many results.
        return attend_extra(query, key, value * term.strength, self.attention.num_heads)


class TappedModel:
    """All taps of one model, in the order of its blocks."""

    def __init__(self, blocks: nn.ModuleList) -> None:
        self.holder = CallHolder()
        self.taps = [
            AttentionTap(module, i, kind, self.holder)
            for i, block in enumerate(blocks)
            for module, kind in ((block.self_attn, "ref"), (block.cross_attn, "id"))
        ]


def join_rows(queries: list[Tensor], num_rows: int) -> Tensor | None:
    """Join queries that were computed for parts of the batch, in order.

    Some guidance nodes compute positive and negative rows apart, and some compute a row again.
    """
    for count in range(1, len(queries) + 1):
        if sum(len(query) for query in queries[:count]) == num_rows:
            return queries[0] if count == 1 else torch.cat(queries[:count])
    return None


_warned: set[str] = set()


def warn_once(message: str) -> None:
    if message not in _warned:
        _warned.add(message)
        logging.warning(message)


@contextmanager
def swap_forwards(leaves: list[tuple[nn.Module, Callable[..., Any]]]) -> Iterator[None]:
    """Give each module another instance `forward`, and put back what was there."""
    missing = object()
    before = [module.__dict__.get("forward", missing) for module, _ in leaves]
    try:
        for module, forward in leaves:
            module.forward = forward  # type: ignore[method-assign]
        yield
    finally:
        for (module, _), forward in zip(leaves, before, strict=True):
            if forward is missing:
                module.__dict__.pop("forward", None)
            else:
                module.forward = forward


def make_wrapper(base: BaseModel) -> Callable[..., Any]:
    """Make the APPLY_MODEL wrapper that one patched model carries; `base` describes that model."""
    known: dict[int, TappedModel] = {}

    def find_taps(blocks: nn.ModuleList) -> TappedModel:
        # The host may call one wrapper with a copy of the model per GPU.
        key = id(blocks[0].self_attn)
        if key not in known:
            known[key] = TappedModel(blocks)
        return known[key]

    def apply_model(
        executor: Any,
        x: Tensor,
        t: Tensor,
        c_concat: Tensor | None,
        c_crossattn: Tensor | None,
        control: Any,
        transformer_options: dict[str, Any],
        **kwargs: Any,
    ) -> Tensor:
        rows: IdentityRows | None = kwargs.pop(COND_KEY, None)
        args = (x, t, c_concat, c_crossattn, control, transformer_options)
        if rows is None:
            return executor(*args, **kwargs)
        model = executor.class_obj
        check_rows_fit(rows, base)
        call = start_call(model, x, t, rows, transformer_options.get("context_window"))
        leaves = []
        tapped = find_taps(model.diffusion_model.blocks)
        for tap in tapped.taps:
            if tap.is_active(call):
                for name, forward in tap.forwards.items():
                    leaf = getattr(tap.attention, name)
                    tap.original[name] = leaf.forward
                    leaves.append((leaf, forward))
        try:
            tapped.holder.call = call
            with swap_forwards(leaves):
                return executor(*args, **kwargs)
        finally:
            tapped.holder.call = None

    return apply_model


def check_rows_fit(rows: IdentityRows, base: BaseModel) -> None:
    """Refuse keys and values that were baked through another model.

    Raises:
        ValueError: with both names.
    """
    for terms in rows.terms:
        for term in terms:
            if term.base is not None and term.base.checksum != base.checksum:
                raise ValueError(
                    f"The conditioning carries a Lynx reference baked through {term.base.name}, but it is sampled with "
                    f"{base.name}. Use MODEL and conditionings of the same Lynx Apply together."
                )


def start_call(model: Any, x: Tensor, t: Tensor, rows: IdentityRows, window: Any) -> ModelCall:
    """Work out which terms are open at this sigma, and which frames the call sees.

    `window` is the host's context window, or None.
    """
    sigma = float(t.max())
    patch_size = model.diffusion_model.patch_size
    height, width = (
        math.ceil(size / patch) for size, patch in zip(x.shape[-2:], patch_size[1:], strict=True)
    )

    def is_open(term: Term) -> bool:
        start, end = (
            model.model_sampling.percent_to_sigma(p) for p in (term.start_percent, term.end_percent)
        )
        return end <= sigma <= start

    return ModelCall(
        terms=[[term for term in terms if is_open(term)] for terms in rows.terms],
        frames=range(x.shape[2]) if window is None else list_frames(window),
        tokens_per_frame=height * width,
    )


def list_frames(window: Any) -> list[int]:
    """List the latent frames of a host context window; the host may put one from before it in front."""
    anchor = getattr(window, "causal_anchor_index", None)
    return [*([anchor] if anchor is not None and anchor >= 0 else []), *window.index_list]


def attach(model: Any, base: BaseModel) -> Any:
    """Clone a host MODEL, described by `base`, with the wrapper on it (once, however often it is asked)."""
    model = model.clone()
    wrapper_type = comfy.patcher_extension.WrappersMP.APPLY_MODEL
    if not model.get_wrappers(wrapper_type, WRAPPER_KEY):
        model.add_wrapper_with_key(wrapper_type, WRAPPER_KEY, make_wrapper(base))
    return model


def is_attached(model: Any) -> bool:
    """Tell whether a host MODEL carries Lynx, so that it takes the identity of its conditionings."""
    return bool(model.get_wrappers(comfy.patcher_extension.WrappersMP.APPLY_MODEL, WRAPPER_KEY))


def make_recorder(on_features: Callable[[int, Tensor], None]) -> Callable[..., Any]:
    """Make an APPLY_MODEL wrapper that shows what each block's self-attention sees.

    `on_features(block, features)` gets [rows, tokens, dim], after norm1 and modulation.
    """

    def apply_model(executor: Any, *args: Any, **kwargs: Any) -> Tensor:
        leaves = []
        for i, block in enumerate(executor.class_obj.diffusion_model.blocks):
            query = block.self_attn.q

            def tap_q(x: Tensor, i: int = i, original: Callable[[Tensor], Tensor] = query.forward) -> Tensor:
                comfy.model_management.throw_exception_if_processing_interrupted()
                on_features(i, x)
                return original(x)

            leaves.append((query, tap_q))
        with swap_forwards(leaves):
            return executor(*args, **kwargs)

    return apply_model
