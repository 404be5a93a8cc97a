"""How well a run uses its devices: FLOPs of a step, MFU, and how long processes wait for the slowest.

Model FLOPs utilisation (MFU, PaLM, arXiv 2204.02311 appendix B) takes the FLOPs that the step needs, whatever
checkpointing computes again. The base is frozen, so a matrix product of its weights costs 4 a weight and token
(forward, and the gradient of its input) instead of 6. Self-attention costs 12 S^2 D a block as always, attention to
the text, whose keys want no gradient, 8 S L D. Nothing before the first adapter layer wants one either.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ..models.adapter_configs import AdapterConfigs
from ..spec import REFERENCE_CROP_PX, TEXT_LENGTH
from ..tokens import count_tokens, latent_shape

PEAK_TFLOPS = {
    "B200": 2250,
    "H200": 989,
    "H100 PCIe": 756,
    "H100 NVL": 835,
    "H100": 989,
    "H800": 989,
    "A100": 312,
    "A800": 312,
    "L40S": 362,
    "RTX 6000 Ada": 364,
    "RTX 5090": 209,
    "RTX 4090": 165,
    "RTX 3090": 71,
}
"""Dense bf16 with float32 sums, from the makers' data sheets; the first name that a card's name holds."""

REFERENCE_TOKENS = count_tokens(latent_shape(1, REFERENCE_CROP_PX, REFERENCE_CROP_PX))
"""Of a face's crop."""


def find_peak_flops(device_name: str) -> float | None:
    """The most FLOP/s of a card in bf16; None for one that is not known."""
    found = (peak for name, peak in PEAK_TFLOPS.items() if name.lower() in device_name.lower())
    peak = next(found, None)
    return None if peak is None else peak * 1e12


@dataclass(frozen=True)
class StepFlops:
    """Counts the FLOPs of packs by the lengths of their samples."""

    dim: int
    ff_dim: int
    num_blocks: int
    parts: AdapterConfigs

    def count(self, lengths: Sequence[int]) -> float:
        """FLOPs of the forward and backward of samples of so many tokens each."""
        return float(sum(self._count_sample(length) for length in lengths))

    def _count_sample(self, tokens: int) -> float:
        """Of the blocks; embedding and head are a thousandth of it."""
        attention = 12 * tokens**2 * self.dim + 8 * tokens * TEXT_LENGTH * self.dim
        flops = self.num_blocks * float(4 * tokens * self._token_weights + attention)
        flops -= 8.0 * tokens**2 * self.dim + 6.0 * tokens * self.dim**2  # self-attention of the first block
        if self.parts.id:
            keys = self.parts.id.num_registers + self._id_queries
            layers = len(self.parts.id.blocks)
            # The projections are trained: 4 for their gradients, 2 more where they reach the resampler.
            projected = 6 * self._id_queries * 2 * self.parts.id.token_dim * self.dim
            flops += layers * (12.0 * tokens * keys * self.dim + projected)
        if self.parts.ref:
            layers = len(self.parts.ref.blocks)
            projected = 4 * REFERENCE_TOKENS * 2 * self.dim**2
            flops += layers * (12.0 * tokens * REFERENCE_TOKENS * self.dim + projected)
            flops += self._count_reference_pass(self.parts.ref.blocks[-1])
        return flops

    def _count_reference_pass(self, num_blocks: int) -> float:
        """Forward alone."""
        tokens = REFERENCE_TOKENS
        per_block = 2 * tokens * self._token_weights + 4 * tokens * (tokens + TEXT_LENGTH) * self.dim
        return float(num_blocks * per_block)

    @property
    def _token_weights(self) -> int:
        """Weights of a block that every token meets: six square matrices (the text's two meet the text), and two."""
        return 6 * self.dim**2 + 2 * self.dim * self.ff_dim

    @property
    def _id_queries(self) -> int:
        return self.parts.resampler.num_queries if self.parts.resampler else 0


class Stopwatch:
    """Measures from its making to `stop`, on the GPU by events, for which the CPU does not wait.

    `seconds` may be asked after the device was waited for.
    """

    def __init__(self, device: torch.device) -> None:
        self._is_cuda = device.type == "cuda"
        self._start = self._mark()
        self._end = self._start

    def stop(self) -> None:
        self._end = self._mark()

    def seconds(self) -> float:
        """Seconds between the two."""
        if self._is_cuda:
            return self._start.elapsed_time(self._end) / 1000
        return self._end - self._start

    def _mark(self) -> Any:  # an event, or a number of seconds
        if not self._is_cuda:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event


def straggler_gap(slowest: Sequence[float], mean: Sequence[float]) -> float:
    """How much longer the slowest process takes than the mean, over steps: 0.1 is a tenth.

    Args:
        slowest, mean: seconds of each step, over processes.
    """
    total = sum(mean)
    return (sum(slowest) - total) / total if total else 0.0
