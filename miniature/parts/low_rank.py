"""Low-rank updates of a frozen base (LoRA, Hu et al., 2022), and their file in ComfyUI's layout."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from .base import rename_weight
from .resumable import write_beside


class LowRank(nn.Module):
    """What is added to the output of one linear layer; zeros until it is trained.

    Args:
        linear: the layer. Its weights stay; a hook adds the update.
        name: of the layer in diffusers.
        rank: of the update.
    """

    def __init__(self, linear: nn.Linear, name: str, rank: int) -> None:
        super().__init__()
        self.name, self.rank = name, rank
        self.lora_down = nn.Linear(linear.in_features, rank, bias=False)
        self.lora_up = nn.Linear(rank, linear.out_features, bias=False)
        nn.init.zeros_(self.lora_up.weight)
        linear.register_forward_hook(lambda _, args, out: out + self(args[0]))

    def forward(self, x: Tensor) -> Tensor:
        """[..., in_features] -> [..., out_features]."""
        update: Tensor = self.lora_up(self.lora_down(x))
        return update


def add_low_rank(base: Any, rank: int) -> nn.ModuleList:
    """Put an update on every linear layer of the blocks: attention and feed-forward."""
    torch.manual_seed(17)
    layers = [(name, layer) for name, layer in base.blocks.named_modules() if isinstance(layer, nn.Linear)]
    return nn.ModuleList(LowRank(layer, f"blocks.{name}", rank) for name, layer in layers)


def save_low_rank(updates: Iterable[Any], path: Path) -> None:
    """Write `LowRank`s in bfloat16, as LoraLoaderModelOnly reads them."""
    state = {}
    for update in updates:
        layer = "diffusion_model." + rename_weight(f"{update.name}.weight").removesuffix(".weight")
        for name, weight in update.named_parameters():
            state[f"{layer}.{name}"] = weight.detach().bfloat16().contiguous()
        state[f"{layer}.alpha"] = torch.tensor(float(update.rank))
    write_beside(path, lambda beside: save_file(state, beside))
