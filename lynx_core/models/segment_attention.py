"""Attention inside each sample of a packed sequence, by several kernels behind one signature.

The loop calls SDPA once for each run of equal samples: exact on every device and the reference for
the others. A sequence packs some 2 to 14 samples, so it costs few launches. The variable-length kernels
take the sequence in one launch. Which one runs is chosen once and logged.

A sequence that is too long for one process is shared by several (Ulysses, arXiv 2309.14509): each has a part of
the tokens, and for self-attention all of the tokens with a part of the heads.

Shapes: S tokens of the packed sequence, s of them one process's own, P processes, H heads, C head dim.
"""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, lru_cache
from itertools import accumulate, groupby, pairwise
from typing import Any, get_args

import torch
from torch import Tensor
from torch.nn import functional as F

from ..spec import AttentionBackend, LynxError

_AUTO_ORDER: tuple[AttentionBackend, ...] = ("flash", "varlen", "loop")

_HALF_DTYPES = (torch.float16, torch.bfloat16)
_FLASH_MODULES = ("flash_attn_interface", "flash_attn")

_logger = logging.getLogger(__name__)


class BackendError(LynxError):
    """A requested attention backend cannot run here."""


@dataclass(frozen=True)
class Segments:
    """Token counts of the samples of a packed sequence, in its order.

    Raises:
        LynxError: when a count is negative or there is no sample.
    """

    lengths: tuple[int, ...]

    def __post_init__(self) -> None:
        if not self.lengths or min(self.lengths) < 0:
            raise LynxError(f"segments need at least one length, none negative, got {self.lengths}")

    def __len__(self) -> int:
        return len(self.lengths)

    @property
    def total(self) -> int:
        """Number of tokens in the sequence."""
        return sum(self.lengths)

    @property
    def max_length(self) -> int:
        """Number of tokens of the longest sample."""
        return max(self.lengths)

    @property
    def offsets(self) -> tuple[int, ...]:
        """First token of each sample, and the total: one more than there are samples."""
        return (0, *accumulate(self.lengths))

    def cu_seqlens(self, device: torch.device) -> Tensor:
        """Give the offsets as the variable-length kernels want them.

        Returns:
            [samples + 1], int32, on `device`.
        """
        return _offsets_on(self.offsets, device)

    def split(self, packed: Tensor) -> tuple[Tensor, ...]:
        """Split [total, ...] into one view for each sample.

        Raises:
            LynxError: when `packed` has another number of tokens.
        """
        if len(packed) != self.total:
            raise LynxError(f"segments of {self.total} tokens do not fit a sequence of {len(packed)}")
        return packed.split(self.lengths)

    def part(self, start: int, stop: int) -> Segments:
        """Count each sample's tokens among those from `start` to `stop` of the sequence; 0 for one that has none."""
        inside = (min(last, stop) - max(first, start) for first, last in pairwise(self.offsets))
        return Segments(tuple(max(0, count) for count in inside))

    def split_runs(self, packed: Tensor, runs: tuple[int, ...]) -> list[Tensor]:
        """Split [total, ...] into views [samples, length, ...], one for each run of `find_runs`.

        Raises:
            LynxError: when `packed` has another number of tokens.
        """
        lengths = [self.lengths[start] for start in accumulate(runs[:-1], initial=0)]
        shapes = list(zip(runs, lengths, strict=True))
        pieces = Segments(tuple(run * length for run, length in shapes)).split(packed)
        return [piece.unflatten(0, shape) for piece, shape in zip(pieces, shapes, strict=True)]


@lru_cache(maxsize=32)
def find_runs(*sequences: Segments) -> tuple[int, ...]:
    """Count the neighbours that have equal lengths, in each of several sequences of the same samples.

    A run of equal samples is a plain batch: one kernel instead of one for each.
    """
    lengths = zip(*(segments.lengths for segments in sequences), strict=True)
    return tuple(len(list(run)) for _, run in groupby(lengths))


@lru_cache(maxsize=32)
def _offsets_on(offsets: tuple[int, ...], device: torch.device) -> Tensor:
    # Kept, since each block of each step asks.
    return torch.tensor(offsets, dtype=torch.int32).to(device, non_blocking=True)


def choose_backend(device: torch.device, dtype: torch.dtype, requested: str = "auto") -> AttentionBackend:
    """Choose the attention backend and log it, once for each choice.

    Args:
        device, dtype: of queries, keys and values.
        requested: a backend, or "auto": the first of flash, varlen and loop that can run.

    Raises:
        BackendError: when the requested backend does not exist or cannot run here; it says
            why, and what can.
    """
    backends: tuple[AttentionBackend, ...] = get_args(AttentionBackend)
    if requested == "auto":
        chosen = next(name for name in _AUTO_ORDER if unsupported_reason(name, device, dtype) is None)
    elif requested in backends:
        chosen = next(name for name in backends if name == requested)
        reason = unsupported_reason(chosen, device, dtype)
        if reason:
            raise BackendError(
                f"attention backend {requested!r} cannot run here: {reason}. {_available_backends(device, dtype)}"
            )
    else:
        raise BackendError(
            f"there is no attention backend {requested!r}; choose auto, {', '.join(backends)}. "
            f"{_available_backends(device, dtype)}"
        )
    _log_choice(chosen, device.type, dtype)
    return chosen


def unsupported_reason(backend: AttentionBackend, device: torch.device, dtype: torch.dtype) -> str | None:
    """Say why a backend cannot attend to tensors of this device and dtype; None when it can."""
    if backend == "loop":
        return None
    if device.type != "cuda":
        return f"it has kernels for CUDA only, and this is {device.type}"
    if dtype not in _HALF_DTYPES:
        return f"it takes float16 and bfloat16, not {str(dtype).removeprefix('torch.')}"
    if backend == "varlen" and importlib.util.find_spec("torch.nn.attention.varlen") is None:
        return f"torch.nn.attention.varlen came with torch 2.10, and this is torch {torch.__version__}"
    if backend == "flash" and not any(importlib.util.find_spec(name) for name in _FLASH_MODULES):
        return "the package flash-attn is not installed"
    return None


def _available_backends(device: torch.device, dtype: torch.dtype) -> str:
    backends: tuple[AttentionBackend, ...] = get_args(AttentionBackend)
    reasons = {name: unsupported_reason(name, device, dtype) for name in backends}
    available = ", ".join(name for name, reason in reasons.items() if reason is None)
    others = "; ".join(f"{name}: {reason}" for name, reason in reasons.items() if reason)
    return f"Usable here: {available}." + (f" Not usable: {others}." if others else "")


@cache
def _log_choice(backend: AttentionBackend, device_type: str, dtype: torch.dtype) -> None:
    _logger.info("segment attention: %s (%s, %s)", backend, device_type, dtype)


def attend_segments(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    query_segments: Segments,
    key_segments: Segments,
    backend: AttentionBackend = "loop",
) -> Tensor:
    """Attend inside each sample: queries of sample i see keys of sample i only.

    Args:
        query: [S, H, C], packed by `query_segments`.
        key, value: [S', H, C], packed by `key_segments`.

    Returns:
        [S, H, C]; zeros for a sample that has no keys.

    Raises:
        LynxError: when the two sequences do not hold the same samples.
    """
    if len(query_segments) != len(key_segments):
        raise LynxError(
            f"queries of {len(query_segments)} samples cannot attend to keys of {len(key_segments)}"
        )
    attend = _ATTEND[backend]
    if min(key_segments.lengths) > 0:
        return attend(query, key, value, query_segments, key_segments)
    # Kernels differ in what an empty row gives, so such samples never reach one.
    kept = [i for i, length in enumerate(key_segments.lengths) if length]
    if not kept:
        return torch.zeros_like(query)
    pieces = query_segments.split(query)
    kept_queries = Segments(tuple(query_segments.lengths[i] for i in kept))
    kept_keys = Segments(tuple(key_segments.lengths[i] for i in kept))
    attended = attend(torch.cat([pieces[i] for i in kept]), key, value, kept_queries, kept_keys)
    found = dict(zip(kept, kept_queries.split(attended), strict=True))
    return torch.cat([found.get(i, torch.zeros_like(piece)) for i, piece in enumerate(pieces)])


@dataclass(frozen=True)
class SequenceGroup:
    """The processes that share each packed sequence, with a part of its tokens each.

    Parts are counted to the token and differ by one at most, so nothing is padded. All of a group must call these
    in the same order.
    """

    group: Any
    """The process group of torch.distributed."""
    rank: int
    """Of this process in the group."""
    size: int

    def bounds(self, num_tokens: int) -> tuple[int, ...]:
        """First token of each part, and the number of all."""
        return tuple(num_tokens * rank // self.size for rank in range(self.size + 1))

    def take_own(self, sequence: Tensor) -> Tensor:
        """Give this process's part of [S, ...]."""
        bounds = self.bounds(len(sequence))
        return sequence[bounds[self.rank] : bounds[self.rank + 1]]

    def count_own(self, tokens: Segments) -> Segments:
        """Count the tokens of each sample in this process's part."""
        bounds = self.bounds(tokens.total)
        return tokens.part(bounds[self.rank], bounds[self.rank + 1])

    def gather_tokens(self, own: Tensor, num_tokens: int) -> Tensor:
        """Exchange own tokens with all heads, [s, H, C], for all tokens with own heads, [S, H / P, C]."""
        by_process = own.unflatten(1, (self.size, -1)).transpose(0, 1)
        return self._exchange(by_process, num_tokens)

    def gather_heads(self, whole: Tensor) -> Tensor:
        """The reverse: exchange [S, H / P, C] for [s, H, C]."""
        from torch.distributed.nn.functional import all_to_all_single

        counts = self._counts(len(whole))
        own = whole.new_empty((self.size * counts[self.rank], *whole.shape[1:]))
        received = all_to_all_single(
            own, whole.contiguous(), [counts[self.rank]] * self.size, counts, group=self.group
        )
        return received.unflatten(0, (self.size, -1)).transpose(0, 1).flatten(1, 2)

    def gather_sequence(self, own: Tensor, num_tokens: int) -> Tensor:
        """Give every process the whole of [s, ...], [S, ...]; its gradient is the sum of theirs."""
        return self._exchange(own.expand(self.size, *own.shape), num_tokens)

    def _exchange(self, by_process: Tensor, num_tokens: int) -> Tensor:
        """Send [P, s, ...] to each process its entry, and lay what comes in the order of tokens, [S, ...]."""
        from torch.distributed.nn.functional import all_to_all_single

        counts = self._counts(num_tokens)
        whole = by_process.new_empty((num_tokens, *by_process.shape[2:]))
        sent = by_process.flatten(0, 1).contiguous()
        return all_to_all_single(whole, sent, counts, [counts[self.rank]] * self.size, group=self.group)

    def _counts(self, num_tokens: int) -> list[int]:
        return [stop - start for start, stop in pairwise(self.bounds(num_tokens))]


def attend_shared(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    tokens: Segments,
    group: SequenceGroup,
    backend: AttentionBackend = "loop",
) -> Tensor:
    """Self-attention inside each sample of a sequence that a group of processes shares.

    Args:
        query, key, value: [s, H, C] of this process's tokens; P divides H.
        tokens: of the whole sequence.

    Returns:
        [s, H, C].
    """
    together = torch.cat((query, key, value), dim=-1)  # one exchange instead of three
    query, key, value = group.gather_tokens(together, tokens.total).chunk(3, dim=-1)
    return group.gather_heads(attend_segments(query, key, value, tokens, tokens, backend))


def _attend_loop(query: Tensor, key: Tensor, value: Tensor, queries: Segments, keys: Segments) -> Tensor:
    runs = find_runs(queries, keys)
    batches = zip(
        queries.split_runs(query, runs), keys.split_runs(key, runs), keys.split_runs(value, runs), strict=True
    )
    return torch.cat([_attend_batch(*batch).flatten(0, 1) for batch in batches])


def _attend_batch(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    query, key, value = (t.transpose(1, 2) for t in (query, key, value))
    return F.scaled_dot_product_attention(query, key, value).transpose(1, 2)


def _attend_varlen(query: Tensor, key: Tensor, value: Tensor, queries: Segments, keys: Segments) -> Tensor:
    from torch.nn.attention.varlen import varlen_attn

    return _first(varlen_attn(query, key, value, *_kernel_arguments(queries, keys, query.device)))


def _attend_flash(query: Tensor, key: Tensor, value: Tensor, queries: Segments, keys: Segments) -> Tensor:
    kernel = _flash_kernel()
    return _first(kernel(query, key, value, *_kernel_arguments(queries, keys, query.device)))


def _kernel_arguments(
    queries: Segments, keys: Segments, device: torch.device
) -> tuple[Tensor, Tensor, int, int]:
    return queries.cu_seqlens(device), keys.cu_seqlens(device), queries.max_length, keys.max_length


def _first(output: Any) -> Tensor:
    # Some releases of flash-attn 3 give the log-sum-exp as well.
    return output[0] if isinstance(output, tuple) else output


@cache
def _flash_kernel() -> Callable[..., Any]:
    name = next(name for name in _FLASH_MODULES if importlib.util.find_spec(name))
    return importlib.import_module(name).flash_attn_varlen_func


_ATTEND: dict[AttentionBackend, Callable[[Tensor, Tensor, Tensor, Segments, Segments], Tensor]] = {
    "loop": _attend_loop,
    "varlen": _attend_varlen,
    "flash": _attend_flash,
}
