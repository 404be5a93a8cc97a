"""The frozen base: quantising it, and offloading its blocks.

Only gradients to its inputs pass through it, so its weights may be 8 bits wide, and lie on the
CPU until their block runs: 28.6 GB in bf16 become 14.3, or about 1 on the GPU.
"""

from __future__ import annotations

import copy
from typing import Any, TypeAlias

import torch
from torch import nn

from ..spec import Quantisation

WanTransformer: TypeAlias = Any
"""diffusers' WanTransformer3DModel, whose lazy import hides its type."""


def freeze(transformer: WanTransformer) -> WanTransformer:
    """Take all weights out of training, in place."""
    transformer.requires_grad_(False).eval()
    return transformer


def quantise_base(transformer: WanTransformer, quantisation: Quantisation) -> None:
    """Quantise the linear weights of the blocks, in place, with torchao's weight-only types.

    Gradients pass through them. Autograd keeps the dequantised weight of a layer until its
    backward, so use gradient checkpointing with it.
    """
    if quantisation == "none":
        return
    from torchao.quantization import Float8WeightOnlyConfig, Int8WeightOnlyConfig, quantize_

    quantize_(
        transformer.blocks, Int8WeightOnlyConfig() if quantisation == "int8" else Float8WeightOnlyConfig()
    )
    freeze(transformer)


class BlockOffload:
    """Keeps the blocks of a transformer on the CPU and copies each to a device when it runs.

    The copy is new each time: the graph of a block that is computed again in the backward
    holds on to its own weights, and frees them when done. Without gradient checkpointing the
    graph would keep all blocks on the device.

    Args:
        transformer: everything but its blocks is moved to `device`.
    """

    def __init__(self, transformer: WanTransformer, device: torch.device) -> None:
        self.device = device
        blocks = transformer.blocks.to("cpu")
        if device.type == "cuda":
            _pin(blocks)
        self._states = [block.state_dict() for block in blocks]
        self._shell = copy.deepcopy(blocks[0]).to("meta")
        self._fetched: tuple[int, nn.Module] | None = None
        for child in transformer.children():
            if child is not blocks:
                child.to(device)
        transformer.scale_shift_table.data = transformer.scale_shift_table.data.to(device)

    def fetch(self, index: int) -> nn.Module:
        """Give block `index` on the device; the block fetched before is let go."""
        if self._fetched is None or self._fetched[0] != index:
            self._fetched = None
            state = {name: t.to(self.device, non_blocking=True) for name, t in self._states[index].items()}
            block = copy.deepcopy(self._shell)
            block.load_state_dict(state, assign=True)
            self._fetched = index, block.requires_grad_(False)
        return self._fetched[1]


def _pin(blocks: nn.Module) -> None:
    for parameter in blocks.parameters():
        # torchao's types cannot be pinned; they are copied the slower way.
        if not hasattr(parameter, "__tensor_flatten__"):
            parameter.data = parameter.data.pin_memory()
