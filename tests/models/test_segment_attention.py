"""Every attention backend equals the loop, and the loop equals attention with a mask."""

from __future__ import annotations

import logging
import sys
import types
from typing import Any, get_args

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from lynx_core.models import segment_attention
from lynx_core.models.segment_attention import (
    BackendError,
    Segments,
    attend_segments,
    choose_backend,
    unsupported_reason,
)
from lynx_core.spec import AttentionBackend

CPU = torch.device("cpu")
# Neighbours that are equal in queries, in keys, and in both.
QUERIES, KEYS = Segments((5, 5, 5, 1, 130, 130, 9)), Segments((7, 7, 3, 3, 40, 40, 0))


def make_tensors(dtype: torch.dtype = torch.float32, device: str = "cpu") -> tuple[Tensor, Tensor, Tensor]:
    random = torch.Generator().manual_seed(0)
    query, key, value = (
        torch.randn(segments.total, 2, 128, generator=random, dtype=torch.float32)
        for segments in (QUERIES, KEYS, KEYS)
    )
    return query.to(device, dtype), key.to(device, dtype), value.to(device, dtype)


def attend_masked(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """The plain reference: a dense mask, and zeros where a query may see nothing."""
    query_sample, key_sample = (torch.repeat_interleave(torch.tensor(s.lengths)) for s in (QUERIES, KEYS))
    mask = query_sample[:, None] == key_sample[None]
    query, key, value = (t.transpose(0, 1) for t in (query, key, value))
    scores = (query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5).masked_fill(~mask, -torch.inf)
    weights = scores.softmax(-1).nan_to_num(0.0)
    return (weights @ value).transpose(0, 1)


def with_gradients(attend: Any, tensors: tuple[Tensor, ...]) -> list[Tensor]:
    leaves = [t.clone().requires_grad_() for t in tensors]
    out = attend(*leaves)
    weights = torch.arange(out.numel(), device=out.device).reshape(out.shape).sin().to(out.dtype)
    return [out, *torch.autograd.grad((out * weights).sum(), leaves)]


def attend_with(backend: AttentionBackend) -> Any:
    return lambda query, key, value: attend_segments(query, key, value, QUERIES, KEYS, backend)


def test_loop_equals_a_dense_mask() -> None:
    # In float64, and without the row of the empty sample: a softmax over nothing has no gradient.
    tensors = make_tensors(torch.float64)
    outputs = with_gradients(attend_with("loop"), tensors)
    torch.testing.assert_close(outputs[0], attend_masked(*tensors))
    assert not outputs[0][-9:].any()
    full = QUERIES.total - 9
    leaves = [t.clone().requires_grad_() for t in tensors]
    expected = attend_masked(*leaves)[:full]
    weights = torch.arange(expected.numel()).reshape(expected.shape).sin().double()
    for found, wanted in zip(
        outputs[2:], torch.autograd.grad((expected * weights).sum(), leaves[1:]), strict=True
    ):
        torch.testing.assert_close(found, wanted)


@pytest.mark.cuda
@pytest.mark.parametrize("backend", [name for name in get_args(AttentionBackend) if name != "loop"])
def test_backend_equals_the_loop_on_the_gpu(backend: AttentionBackend) -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    reason = unsupported_reason(backend, torch.device("cuda"), torch.bfloat16)
    if reason:
        pytest.skip(reason)
    tensors = make_tensors(torch.bfloat16, "cuda")
    exact = with_gradients(attend_with("loop"), tuple(t.float() for t in tensors))
    for found, wanted in zip(with_gradients(attend_with(backend), tensors), exact, strict=True):
        assert (found.float() - wanted).norm() / wanted.norm() < 1e-2


def _varlen_stand_in(
    query: Tensor, key: Tensor, value: Tensor, cu_q: Tensor, cu_k: Tensor, max_q: int, max_k: int
) -> Tensor:
    """Do what the kernels document, from offsets and longest lengths alone."""
    assert cu_q.dtype == cu_k.dtype == torch.int32
    assert (max_q, max_k) == (int(cu_q.diff().max()), int(cu_k.diff().max()))
    pieces = []
    for i in range(len(cu_q) - 1):
        q, k, v = query[cu_q[i] : cu_q[i + 1]], key[cu_k[i] : cu_k[i + 1]], value[cu_k[i] : cu_k[i + 1]]
        pieces.append(F.scaled_dot_product_attention(*(t.transpose(0, 1) for t in (q, k, v))).transpose(0, 1))
    return torch.cat(pieces)


@pytest.mark.parametrize("backend", ["varlen", "flash"])
def test_kernels_get_what_they_document(backend: AttentionBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in = types.ModuleType("stand_in")
    stand_in.varlen_attn = _varlen_stand_in
    monkeypatch.setitem(sys.modules, "torch.nn.attention.varlen", stand_in)
    monkeypatch.setattr(
        segment_attention, "_flash_kernel", lambda: lambda *args: (_varlen_stand_in(*args), "log-sum-exp")
    )
    tensors = make_tensors()
    for found, wanted in zip(
        with_gradients(attend_with(backend), tensors),
        with_gradients(attend_with("loop"), tensors),
        strict=True,
    ):
        torch.testing.assert_close(found, wanted)


def test_no_keys_at_all_give_zeros() -> None:
    query, key, value = make_tensors()
    out = attend_segments(query, key[:0], value[:0], QUERIES, Segments((0,) * 7))
    assert out.shape == query.shape
    assert not out.any()


def test_auto_is_the_loop_on_a_cpu_and_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    segment_attention._log_choice.cache_clear()
    with caplog.at_level(logging.INFO, logger=segment_attention.__name__):
        assert choose_backend(CPU, torch.float32) == "loop"
        assert choose_backend(CPU, torch.float32) == "loop"
    assert [record.getMessage() for record in caplog.records] == [
        "segment attention: loop (cpu, torch.float32)"
    ]


@pytest.mark.parametrize(
    ("requested", "reason"),
    [
        (
            "varlen",
            r"'varlen' cannot run here: it has kernels for CUDA only, and this is cpu. Usable here: loop",
        ),
        ("flash", r"'flash' cannot run here: it has kernels for CUDA only"),
        (
            "xformers",
            r"no attention backend 'xformers'; choose auto, loop, varlen, flash. Usable here: loop",
        ),
    ],
)
def test_unusable_backend_is_refused_with_the_way_out(requested: str, reason: str) -> None:
    with pytest.raises(BackendError, match=reason):
        choose_backend(CPU, torch.bfloat16, requested)


def test_wide_dtypes_and_missing_packages_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    assert (
        unsupported_reason("varlen", torch.device("cuda"), torch.float32)
        == "it takes float16 and bfloat16, not float32"
    )
    monkeypatch.setattr(segment_attention.importlib.util, "find_spec", lambda name: None)
    need = torch.device("cuda"), torch.bfloat16
    assert "torch 2.10" in (unsupported_reason("varlen", *need) or "")
    assert "flash-attn is not installed" in (unsupported_reason("flash", *need) or "")
    assert choose_backend(torch.device("cuda"), torch.bfloat16) == "loop"


def test_segments_know_their_place() -> None:
    segments = Segments((3, 0, 2))
    assert (len(segments), segments.total, segments.max_length) == (3, 5, 3)
    assert segments.offsets == (0, 3, 3, 5)
    assert segments.cu_seqlens(CPU).tolist() == [0, 3, 3, 5]
    assert segments.cu_seqlens(CPU) is segments.cu_seqlens(CPU)
    assert [len(piece) for piece in segments.split(torch.zeros(5, 2))] == [3, 0, 2]
    with pytest.raises(ValueError, match="5 tokens do not fit a sequence of 4"):
        segments.split(torch.zeros(4))
    with pytest.raises(ValueError, match="at least one length"):
        Segments(())
    with pytest.raises(ValueError, match="queries of 1 samples cannot attend to keys of 3"):
        attend_segments(*(torch.zeros(5, 1, 8),) * 3, Segments((5,)), segments)
