"""The adapter as one trainable module, its parameters named as in this pack's single file.

All layers are resident, unlike in the nodes, which read one block at a time. The modules and the
names are the same: what is trained here opens in the nodes as it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..spec import RELEASE_RECOGNISER, LynxError
from .adapter_configs import AdapterConfigs
from .adapters import IDAdapterLayer, RefAdapterLayer, Resampler


class LowRankLinear(nn.Linear):
    """A frozen linear layer with a trainable low-rank update (LoRA, arXiv 2106.09685): W + alpha / rank * up @ down.

    Starts as the layer it is made of, whose weights it shares.

    Raises:
        LynxError: when the rank is below 1, or the layer has a low-rank update already.
    """

    def __init__(self, linear: nn.Linear, rank: int, alpha: float) -> None:
        if rank < 1:
            raise LynxError(f"low rank must be at least 1, got {rank}")
        if isinstance(linear, LowRankLinear):
            raise LynxError(
                "this layer has a low-rank update already; merge it into a file and start from that"
            )
        super().__init__(linear.in_features, linear.out_features, linear.bias is not None, device="meta")
        self.weight, self.bias = linear.weight, linear.bias
        self.requires_grad_(False)
        self.scale = alpha / rank
        down = torch.randn(rank, linear.in_features) / linear.in_features**0.5
        self.lora_down = nn.Parameter(down.to(linear.weight))
        self.lora_up = nn.Parameter(torch.zeros(linear.out_features, rank).to(linear.weight))

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + self.scale * F.linear(F.linear(x, self.lora_down), self.lora_up)

    def merge_weight(self) -> Tensor:
        """Give the weight with the update in it, [out, in]."""
        return self.weight + self.scale * self.lora_up @ self.lora_down


class AdapterModules(nn.Module):
    """Resampler, ID layers and reference layers, all trainable.

    `state_dict()` of a plain adapter has the canonical names: `resampler.*`, `id.{block}.*`,
    `ref.{block}.*`.

    Attributes:
        configs: of the parts.
        recogniser: name of the face recogniser whose embeddings go in.
        stored_dtypes: what each tensor is saved in by default, by canonical name.
    """

    def __init__(self, configs: AdapterConfigs, recogniser: str = RELEASE_RECOGNISER) -> None:
        super().__init__()
        self.configs = configs
        self.recogniser = recogniser
        self.resampler = Resampler(configs.resampler) if configs.resampler else None
        self.id = nn.ModuleDict(
            {str(block): IDAdapterLayer(configs.id) for block in configs.id.blocks} if configs.id else {}
        )
        self.ref = nn.ModuleDict(
            {str(block): RefAdapterLayer(configs.ref) for block in configs.ref.blocks} if configs.ref else {}
        )
        self.stored_dtypes = {name: tensor.dtype for name, tensor in self.state_dict().items()}

    @classmethod
    def create(
        cls,
        configs: AdapterConfigs,
        seed: int,
        *,
        zero_init: bool = True,
        recogniser: str = RELEASE_RECOGNISER,
    ) -> AdapterModules:
        """Make a fresh adapter.

        Args:
            zero_init: values start at zero, so that the untrained adapter leaves the base as it is.
        """
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            adapter = cls(configs, recogniser)
        if zero_init:
            for name, parameter in adapter.named_parameters():
                if ".to_v_" in name:
                    nn.init.zeros_(parameter)
        return adapter

    def find_id_layer(self, block: int) -> IDAdapterLayer | None:
        """Give the ID layer of a block, if it has one."""
        key = str(block)
        return cast(IDAdapterLayer, self.id[key]) if key in self.id else None

    def find_ref_layer(self, block: int) -> RefAdapterLayer | None:
        """Give the reference layer of a block, if it has one."""
        key = str(block)
        return cast(RefAdapterLayer, self.ref[key]) if key in self.ref else None

    def canonical_tensor(self, name: str) -> Tensor:
        """Give the weight of a canonical name, its low-rank update merged in; detached, not copied."""
        owner, _, leaf = name.rpartition(".")
        module = self.get_submodule(owner)
        if leaf == "weight" and isinstance(module, LowRankLinear):
            return module.merge_weight().detach()
        return getattr(module, leaf).detach()

    def canonical_state(self) -> dict[str, Tensor]:
        """Give all weights by canonical name."""
        return {name: self.canonical_tensor(name) for name in self.stored_dtypes}

    def canonical_shapes(self) -> dict[str, tuple[int, ...]]:
        """Give the shapes of all weights by canonical name."""
        own = self.state_dict()
        return {name: tuple(own[name].shape) for name in self.stored_dtypes}

    def init_ref_keys_from(self, projections: Sequence[nn.Linear]) -> None:
        """Start the Ref-adapter's keys as the base's own, by block; biases it has none for are left out."""
        for name, layer in self.ref.items():
            key, own = cast(nn.Linear, layer.to_k_ref), projections[int(name)]
            key.weight.data.copy_(own.weight)
            if key.bias is not None and own.bias is not None:
                key.bias.data.copy_(own.bias)

    def add_low_rank(self, rank: int, alpha: float, seed: int) -> None:
        """Train low-rank updates of the layers' projections only, everything else frozen.

        Raises:
            LynxError: when the rank is below 1, or there are low-rank updates already.
        """
        self.requires_grad_(False)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            for layer in (*self.id.values(), *self.ref.values()):
                for name, linear in list(layer.named_children()):
                    setattr(layer, name, LowRankLinear(cast(nn.Linear, linear), rank, alpha))
