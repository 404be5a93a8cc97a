"""The one place where the pack attaches to the host's Wan model.

For the length of each model call, four modules per block get another instance `forward`:
`norm_q` and `o` of the self- and the cross-attention. `norm_q` hands out the normed query
before RoPE, which is the adapters' query: their attention is computed there and the query let
go, so that a host which frees it early can. `o` receives the attention's output right before
the projection, where their residual belongs. Each delegates to the forward it found, so
GGUF, fp8, partly loaded models, LoRAs, NAG and attention overrides stay where they are, and
nothing is left behind. The hooks are made once per model and their bodies are hidden from
the compiler: a compiled model keeps its guards and never branches on an identity.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NoReturn

import comfy.model_management
import comfy.patcher_extension
import torch
from torch import Tensor, nn

from ...lynx_core.models.kv_cache import attend_extra
from .base_model import BaseModel
from .conditioning import COND_KEY, CondInjections, Kind
from .model_call import ActiveInjection, ModelCall, RowCursor, Segment, add_segments, read_window, start_call
from .wiring import SamplingLog

WRAPPER_KEY = "lynx"


class CallHolder:
    """Where the hooks find the call that is running."""

    call: ModelCall | None = None


class AttentionHook:
    """The hooks on one attention module's `norm_q` and `o`."""

    def __init__(self, attention: nn.Module, block: int, kind: Kind, holder: CallHolder) -> None:
        self.attention = attention
        self.block = block
        self.kind = kind
        self.original: dict[str, Callable[[Tensor], Tensor]] = {}

        @torch._dynamo.disable
        def hook_norm_q(x: Tensor) -> Tensor:
            query = self.original["norm_q"](x)
            if holder.call is not None:
                self.inject_query(query, holder.call)
            return query

        @torch._dynamo.disable
        def hook_o(x: Tensor) -> Tensor:
            if holder.call is not None:
                x = self.add_residual(x, holder.call)
            return self.original["o"](x)

        self.forwards = {"norm_q": hook_norm_q, "o": hook_o}

    @property
    def name(self) -> str:
        return f"the {'cross' if self.kind == 'id' else 'self'}-attention of block {self.block}"

    def is_active(self, call: ModelCall) -> bool:
        """Tell whether any row of this call needs this hook."""
        return any(self.choose(actives) for actives in call.actives)

    def choose(self, actives: list[ActiveInjection]) -> list[ActiveInjection]:
        return [i for i in actives if i.injection.kind == self.kind and self.block in i.injection.blocks]

    def find_cursor(self, call: ModelCall) -> RowCursor:
        return call.cursors.setdefault(id(self), RowCursor())

    def inject_query(self, query: Tensor, call: ModelCall) -> None:
        """Compute what the adapters add to the rows of `query`, [rows, tokens, dim] in other nodes' attentions, too."""
        cursor = self.find_cursor(call)
        if query.ndim != 3:
            cursor.is_foreign = True
            return
        num_rows = len(query)
        if num_rows == call.num_rows and cursor.done in (0, num_rows):
            # The whole batch again, in order: some nodes compute a query or a block twice.
            cursor.done = 0
            cursor.waiting.clear()
        elif cursor.waiting and cursor.waiting[0].num_rows == call.num_rows:
            # Parts of a batch whose every row has its query.
            return
        start = cursor.count_seen()
        if call.counts_rows and start + num_rows > call.num_rows:
            self.refuse(
                call, f"has done {start} of the batch's {call.num_rows} rows and gets {num_rows} more"
            )
        residual = self.attend_rows(query, start, call)
        cursor.waiting.append(Segment(num_rows, tuple(query.shape[1:]), residual))

    def attend_rows(self, query: Tensor, start: int, call: ModelCall) -> Tensor | None:
        """Compute the residual of each row; None where no row gets any."""
        spans = [(here, self.choose(found)) for here, found in call.list_spans(start, len(query))]
        if not any(actives for _, actives in spans):
            return None
        for active in (active for _, actives in spans for active in actives):
            if not active.fits(query.shape[1]):
                self.refuse(
                    call,
                    f"gets {query.shape[1]} of the video's tokens, which leaves open where "
                    + (
                        "its mask lies"
                        if active.injection.region
                        else f"the {active.injection.skip_frames} vace_reference_frames are"
                    ),
                )
        if len(spans) == 1:
            return self.sum_injections(query, spans[0][1])
        residual = torch.zeros_like(query)
        for here, actives in spans:
            if actives:
                residual[here] = self.sum_injections(query[here], actives)
        return residual

    def sum_injections(self, query: Tensor, actives: list[ActiveInjection]) -> Tensor:
        """Add up what each injection gives these rows, [rows, tokens, dim]."""
        num_tokens = query.shape[1]
        total: Tensor | None = None
        for active in actives:
            for place, weight in active.choose_tokens(num_tokens):
                found = self.attend(query[:, place], active)
                if weight is not None:
                    found = found * weight.to(found)[:, None]
                if total is None and isinstance(place, slice) and place == slice(0, num_tokens):
                    total = found
                    continue
                total = torch.zeros_like(query) if total is None else total
                total[:, place] += found
        assert total is not None  # an injection without a token is not active
        return total

    def attend(self, query: Tensor, active: ActiveInjection) -> Tensor:
        injection = active.injection
        kv_cache = injection.kv.kv_cache
        block_kv = kv_cache.get_block(self.block)
        key, value = block_kv.key.to(query), block_kv.value.to(query)
        if kv_cache.norm_key:
            key = self.attention.norm_k(key)
        # The strength goes into the few values, not into the many results.
        value = value * (active.strength * injection.blocks[self.block])
        return attend_extra(query, key, value, self.attention.num_heads)

    def add_residual(self, x: Tensor, call: ModelCall) -> Tensor:
        """Add the adapters' attention to the attention output `x`, [rows, tokens, dim].

        Raises:
            ValueError: when the rows are not those whose queries were seen.
        """
        cursor = self.find_cursor(call)
        if not cursor.waiting or any(s.row_shape != tuple(x.shape[1:]) for s in cursor.waiting):
            cursor.is_foreign = True
            cursor.waiting.clear()
            return x
        waiting = cursor.count_seen() - cursor.done
        segments = cursor.take(len(x))
        if segments is None:
            self.refuse(call, f"gives out {len(x)} rows where {waiting} have gone in")
        cursor.has_acted = True
        return add_segments(x, segments)

    def finish(self, call: ModelCall) -> RowCursor:
        """Close the books of a call.

        Raises:
            ValueError: when it ends in the middle of the batch.
        """
        cursor = self.find_cursor(call)
        if cursor.waiting and not cursor.done:
            cursor.is_foreign = True
        elif cursor.waiting:
            waiting = cursor.count_seen() - cursor.done
            self.refuse(call, f"gives out {cursor.done} rows where {cursor.done + waiting} have gone in")
        elif call.counts_rows and cursor.done not in (0, call.num_rows):
            self.refuse(
                call, f"has done {cursor.done} of the batch's {call.num_rows} rows when the call ends"
            )
        return cursor

    def refuse(self, call: ModelCall, what: str) -> NoReturn:
        call.refuse(
            f"Another node runs {self.name} on a part of the batch: it {what}. Lynx cannot tell which row belongs to "
            f"which person. Turn that node off, leave block {self.block} out of {self.kind}_blocks in Lynx Apply, or "
            "sample at cfg 1, where all rows are of one conditioning."
        )


class PatchedModules:
    """All hooks of one model, in the order of its blocks."""

    def __init__(self, blocks: nn.ModuleList) -> None:
        self.holder = CallHolder()
        self.hooks = [
            AttentionHook(module, i, kind, self.holder)
            for i, block in enumerate(blocks)
            for module, kind in ((block.self_attn, "ref"), (block.cross_attn, "id"))
        ]

    @contextmanager
    def run_call(self, call: ModelCall) -> Iterator[list[AttentionHook]]:
        """Hook the attentions that a call needs; gives those.

        Raises:
            ValueError: when the call's rows do not add up in one of them.
        """
        active = [hook for hook in self.hooks if hook.is_active(call)]
        # A wrapper inside of this one may call the model again, with these hooks in place.
        hooked = [hook for hook in active if not hook.original]
        modules = []
        for hook in hooked:
            for name, forward in hook.forwards.items():
                module = getattr(hook.attention, name)
                hook.original[name] = module.forward
                modules.append((module, forward))
        outer, self.holder.call = self.holder.call, call
        try:
            with swap_forwards(modules):
                yield active
            if call.refusal is not None:
                raise call.refusal
        finally:
            self.holder.call = outer
            for hook in hooked:
                hook.original.clear()


@contextmanager
def swap_forwards(modules: list[tuple[nn.Module, Callable[..., Any]]]) -> Iterator[None]:
    """Give each module another instance `forward`, and put back what was there."""
    missing = object()
    before = [module.__dict__.get("forward", missing) for module, _ in modules]
    try:
        for module, forward in modules:
            module.forward = forward  # type: ignore[method-assign]
        yield
    finally:
        for (module, _), forward in zip(modules, before, strict=True):
            if forward is missing:
                module.__dict__.pop("forward", None)
            else:
                module.forward = forward


class Attachment:
    """What one patched model carries: the wrappers around its sampling and around each of its calls."""

    def __init__(self, base: BaseModel) -> None:
        """Take the description of the model."""
        self.base = base
        self.known: dict[int, PatchedModules] = {}
        self.log = SamplingLog()
        self.latent_size: Sequence[int] | None = None
        """Frames, height and width of the latent that is sampled."""

    def find_hooks(self, blocks: nn.ModuleList) -> PatchedModules:
        # The host may call one wrapper with a copy of the model per GPU.
        key = id(blocks[0].self_attn)
        if key not in self.known:
            self.known[key] = PatchedModules(blocks)
        return self.known[key]

    def outer_sample(self, executor: Any, *args: Any, **kwargs: Any) -> Any:
        """OUTER_SAMPLE wrapper: say in the log where the identity does not reach the video."""
        self.log.start(executor.class_obj)
        noise = args[0] if args else kwargs["noise"]
        self.latent_size = noise.shape[-3:]
        self.log.check_size(executor.class_obj, self.latent_size)
        self.log.check_regions(executor.class_obj, self.latent_size)
        samples = executor(*args, **kwargs)
        self.log.finish()
        return samples

    def apply_model(
        self,
        executor: Any,
        x: Tensor,
        t: Tensor,
        c_concat: Tensor | None,
        c_crossattn: Tensor | None,
        control: Any,
        transformer_options: dict[str, Any],
        **kwargs: Any,
    ) -> Tensor:
        """APPLY_MODEL wrapper: give each row its identity."""
        rows: CondInjections | None = kwargs.pop(COND_KEY, None)
        args = (x, t, c_concat, c_crossattn, control, transformer_options)
        if rows is None:
            return executor(*args, **kwargs)
        model = executor.class_obj
        check_rows_fit(rows, self.base)
        window = read_window(model, transformer_options.get("context_window"))
        call = start_call(model, x, t, rows, window, kwargs, self.latent_size)
        self.log.see_windows(
            {injection.kind for cond in rows.conds for injection in cond.injections},
            {active.injection.kind for actives in call.actives for active in actives},
        )
        with self.find_hooks(model.diffusion_model.blocks).run_call(call) as active:
            output = executor(*args, **kwargs)
            for hook in active:
                self.log.count(hook.kind, hook.block, hook.finish(call))
        self.log.report_foreign()
        return output


def check_rows_fit(rows: CondInjections, base: BaseModel) -> None:
    """Refuse keys and values that were computed with another model.

    Raises:
        ValueError: with both names.
    """
    for cond in rows.conds:
        for injection in cond.injections:
            if injection.base is not None and injection.base.checksum != base.checksum:
                raise ValueError(
                    f"The conditioning carries a Lynx reference encoded with {injection.base.name}, but it is sampled with "
                    f"{base.name}. Use MODEL and conditionings of the same Lynx Apply together."
                )


def attach(model: Any, base: BaseModel) -> Any:
    """Clone a host MODEL, described by `base`, with the wrappers on it (once, however often it is asked)."""
    model = model.clone()
    attachment = Attachment(base)
    for wrapper_type, wrapper in (
        (comfy.patcher_extension.WrappersMP.OUTER_SAMPLE, attachment.outer_sample),
        (comfy.patcher_extension.WrappersMP.APPLY_MODEL, attachment.apply_model),
    ):
        model.remove_wrappers_with_key(wrapper_type, WRAPPER_KEY)
        model.add_wrapper_with_key(wrapper_type, WRAPPER_KEY, wrapper)
    return model


def is_attached(model: Any) -> bool:
    """Tell whether a host MODEL carries Lynx, so that it takes the identity of its conditionings."""
    return bool(model.get_wrappers(comfy.patcher_extension.WrappersMP.APPLY_MODEL, WRAPPER_KEY))


def make_recorder(on_features: Callable[[int, Tensor], None]) -> Callable[..., Any]:
    """Make an APPLY_MODEL wrapper that shows what each block's self-attention sees.

    `on_features(block, features)` gets [rows, tokens, dim], after norm1 and modulation.
    """

    def apply_model(executor: Any, *args: Any, **kwargs: Any) -> Tensor:
        modules = []
        for i, block in enumerate(executor.class_obj.diffusion_model.blocks):
            query = block.self_attn.q

            def hook_q(x: Tensor, i: int = i, original: Callable[[Tensor], Tensor] = query.forward) -> Tensor:
                comfy.model_management.throw_exception_if_processing_interrupted()
                on_features(i, x)
                return original(x)

            modules.append((query, hook_q))
        with swap_forwards(modules):
            return executor(*args, **kwargs)

    return apply_model
