"""Attention inside each sample of a pack, by several kernels behind one signature.

The loop calls SDPA once for each run of equal samples: exact on every device and the reference for
the others. A pack has some 2 to 14 samples, so it costs few launches. The variable-length kernels take the
pack in one launch; FlexAttention does too, but compiles, and for each new mask builds its own
block table. Which one runs is chosen once and logged.

Shapes: S tokens of the pack, H heads, D head dim.
"""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any, Literal, get_args

import torch
from torch import Tensor
from torch.nn import functional as F

from .segments import Segments, find_runs

Backend = Literal["loop", "varlen", "flash", "flex"]
"""`loop`: SDPA for each run of equal samples; `varlen`: torch.nn.attention.varlen; `flash`: the package flash-attn
(version 3 if there, else 2); `flex`: FlexAttention."""

AUTO_ORDER: tuple[Backend, ...] = ("flash", "varlen", "loop")

_HALF_DTYPES = (torch.float16, torch.bfloat16)
_FLASH_MODULES = ("flash_attn_interface", "flash_attn")

_logger = logging.getLogger(__name__)


class BackendError(ValueError):
    """A requested attention backend cannot run here."""


@dataclass(frozen=True)
class Requirements:
    """What attention is wanted for."""

    device_type: str
    dtype: torch.dtype
    gradient: bool


def choose_backend(
    device: torch.device, dtype: torch.dtype, requested: str = "auto", *, needs_gradient: bool = True
) -> Backend:
    """Choose the attention backend and log it, once for each choice.

    Args:
        device, dtype: of queries, keys and values.
        requested: a backend, or "auto": the first of AUTO_ORDER that can run.

    Raises:
        BackendError: when the requested backend does not exist or cannot run here; it says
            why, and what can.
    """
    need = Requirements(device.type, dtype, needs_gradient)
    backends: tuple[Backend, ...] = get_args(Backend)
    if requested == "auto":
        chosen = next(name for name in AUTO_ORDER if unsupported_reason(name, need) is None)
    elif requested in backends:
        chosen = next(name for name in backends if name == requested)
        obstacle = unsupported_reason(chosen, need)
        if obstacle:
            raise BackendError(
                f"attention backend {requested!r} cannot run here: {obstacle}. {available_backends(need)}"
            )
    else:
        raise BackendError(
            f"there is no attention backend {requested!r}; choose auto, {', '.join(backends)}. {available_backends(need)}"
        )
    _log_choice(chosen, need)
    return chosen


def unsupported_reason(backend: Backend, need: Requirements) -> str | None:
    """Say why a backend cannot do what is needed; None when it can."""
    if backend == "loop":
        return None
    if backend == "flex":
        if need.device_type == "cpu" and need.gradient:
            return "FlexAttention has no gradient on the CPU"
        return None
    if need.device_type != "cuda":
        return f"it has kernels for CUDA only, and this is {need.device_type}"
    if need.dtype not in _HALF_DTYPES:
        return f"it takes float16 and bfloat16, not {str(need.dtype).removeprefix('torch.')}"
    if backend == "varlen" and importlib.util.find_spec("torch.nn.attention.varlen") is None:
        return f"torch.nn.attention.varlen came with torch 2.10, and this is torch {torch.__version__}"
    if backend == "flash" and not any(importlib.util.find_spec(name) for name in _FLASH_MODULES):
        return "the package flash-attn is not installed"
    return None


def attend_segments(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    query_segments: Segments,
    key_segments: Segments,
    backend: Backend = "loop",
) -> Tensor:
    """Attend inside each sample: queries of sample i see keys of sample i only.

    Args:
        query: [S, H, D], packed by `query_segments`.
        key, value: [S', H, D], packed by `key_segments`.

    Returns:
        [S, H, D]; zeros for a sample that has no keys.

    Raises:
        ValueError: when the two packs do not hold the same samples.
    """
    if len(query_segments) != len(key_segments):
        raise ValueError(
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


def _attend_flex(query: Tensor, key: Tensor, value: Tensor, queries: Segments, keys: Segments) -> Tensor:
    mask = _flex_mask(queries.lengths, keys.lengths, query.device)
    query, key, value = (t.transpose(0, 1)[None] for t in (query, key, value))
    return _flex_kernel()(query, key, value, block_mask=mask)[0].transpose(0, 1)


@cache
def _flex_kernel() -> Callable[..., Any]:
    from torch.nn.attention.flex_attention import flex_attention

    kernel: Callable[..., Any] = flex_attention
    return torch.compile(kernel)


@lru_cache(maxsize=8)
def _flex_mask(query_lengths: tuple[int, ...], key_lengths: tuple[int, ...], device: torch.device) -> Any:
    from torch.nn.attention.flex_attention import create_block_mask

    query_sample, key_sample = (
        torch.repeat_interleave(torch.tensor(lengths)).to(device) for lengths in (query_lengths, key_lengths)
    )

    def same_sample(batch: Tensor, head: Tensor, q: Tensor, k: Tensor) -> Tensor:
        return query_sample[q] == key_sample[k]

    # Compiled, the mask of a 33,600-token pack is not laid out in full (1.1 GB) on the way.
    return create_block_mask(
        same_sample,
        None,
        None,
        len(query_sample),
        len(key_sample),
        str(device),
        _compile=device.type == "cuda",
    )


_ATTEND: dict[Backend, Callable[[Tensor, Tensor, Tensor, Segments, Segments], Tensor]] = {
    "loop": _attend_loop,
    "varlen": _attend_varlen,
    "flash": _attend_flash,
    "flex": _attend_flex,
}


def available_backends(need: Requirements) -> str:
    backends: tuple[Backend, ...] = get_args(Backend)
    obstacles = {name: unsupported_reason(name, need) for name in backends}
    usable = ", ".join(name for name, obstacle in obstacles.items() if obstacle is None)
    others = "; ".join(f"{name}: {obstacle}" for name, obstacle in obstacles.items() if obstacle)
    return f"Usable here: {usable}." + (f" Not usable: {others}." if others else "")


@cache
def _log_choice(backend: Backend, need: Requirements) -> None:
    _logger.info("segment attention: %s (%s, %s)", backend, need.device_type, need.dtype)
