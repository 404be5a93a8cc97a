"""What a run will take, before it is started.

Every figure is computed from shapes and none is measured; activations are the least certain. With full
checkpointing a block keeps its input, 344 MB for 33,600 tokens of width 5120 in bf16, and the
one block that is computed needs its working set: about six hidden states and three feed-forward
states in float32.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path

from ..formats.adapter import open_adapter
from ..formats.tensor_file import open_tensor_file
from ..models.adapter_configs import AdapterConfigs
from ..models.adapter_modules import AdapterModules
from .assembly import configure_new_adapter
from .configuration import ConfigurationError, TrainingConfig

_GB = 1e9
_WORKING_HIDDEN, _WORKING_FF = 6, 3
_BASE_BYTES = {"fp32": 4, "bf16": 2}
OPTIMIZER_BYTES = {"adamw": 8, "adamw8bit_bitsandbytes": 2, "adamw8bit_torchao": 2, "muon": 4}


@dataclass(frozen=True)
class BaseShape:
    """What the estimate needs of a base."""

    dim: int
    ff_dim: int
    num_blocks: int
    text_dim: int

    @property
    def block_weights(self) -> int:
        """Weights of all blocks: 8 square matrices, the feed-forward, and vectors."""
        return self.num_blocks * (8 * self.dim**2 + 2 * self.dim * self.ff_dim + 30 * self.dim)

    @property
    def other_weights(self) -> int:
        """Weights outside the blocks: timestep, text, patches and head."""
        return 7 * self.dim**2 + (256 + self.text_dim + self.dim + 128) * self.dim


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes on the device of each process."""

    base: float
    trained: float
    """Weights in float32."""
    gradients: float
    optimizer: float
    ema: float
    activations: float
    num_trained: int

    @property
    def total(self) -> float:
        return self.base + self.trained + self.gradients + self.optimizer + self.ema + self.activations

    def __str__(self) -> str:
        return (
            f"memory of each process, estimated: {self.total / _GB:.3g} GB = base {self.base / _GB:.3g} + "
            f"weights {self.trained / _GB:.3g} + gradients {self.gradients / _GB:.3g} + optimiser "
            f"{self.optimizer / _GB:.3g} + EMA {self.ema / _GB:.3g} + activations "
            f"{self.activations / _GB:.3g} ({self.num_trained / 1e6:.1f} M weights are trained)"
        )


def estimate_memory(config: TrainingConfig, shape: BaseShape, world_size: int) -> MemoryEstimate:
    """Estimate what each process holds on its device."""
    num_trained, num_frozen = count_adapter_weights(config, shape)
    sharded = world_size if config.distributed.sharding == "fsdp2" else 1
    trained = 4 * num_trained / sharded
    return MemoryEstimate(
        base=_estimate_base(config, shape, world_size),
        trained=trained + 4 * num_frozen,
        gradients=trained,
        optimizer=OPTIMIZER_BYTES[config.optimizer.kind] * num_trained / sharded,
        ema=trained if config.optimizer.ema_decay else 0.0,
        activations=_estimate_activations(config, shape),
        num_trained=num_trained,
    )


def _estimate_base(config: TrainingConfig, shape: BaseShape, world_size: int) -> float:
    width = _BASE_BYTES[config.base.dtype]
    block_width = width if config.base.quantisation == "none" else 1
    blocks = block_width * shape.block_weights
    if config.base.offload_blocks:
        blocks = 2 * blocks // shape.num_blocks
    elif config.distributed.shard_base:
        blocks = blocks // world_size + 2 * blocks // shape.num_blocks
    return float(blocks + width * shape.other_weights)


def _estimate_activations(config: TrainingConfig, shape: BaseShape) -> float:
    tokens = config.packing.budget
    working = tokens * (_WORKING_HIDDEN * shape.dim + _WORKING_FF * shape.ff_dim) * 4
    if config.base.gradient_checkpointing:
        return float(working + shape.num_blocks * tokens * shape.dim * _BASE_BYTES[config.base.dtype])
    return float(working * shape.num_blocks)


def count_adapter_weights(config: TrainingConfig, shape: BaseShape) -> tuple[int, int]:
    """Trained and frozen weights of the adapter, without making it."""
    import torch

    settings = config.adapter
    with torch.device("meta"):
        adapter = AdapterModules(find_adapter_configs(config, shape))
    if not settings.lora_rank:
        return sum(parameter.numel() for parameter in adapter.parameters()), 0
    low_rank = 0
    for layer in (*adapter.id.values(), *adapter.ref.values()):
        for linear in layer.children():
            assert isinstance(linear, torch.nn.Linear)  # key and value projections
            low_rank += settings.lora_rank * (linear.in_features + linear.out_features)
    return low_rank, sum(parameter.numel() for parameter in adapter.parameters())


def find_adapter_configs(config: TrainingConfig, shape: BaseShape) -> AdapterConfigs:
    """The adapter's shape: of the files it starts from, else of the variant."""
    settings = config.adapter
    if settings.init:
        opened = open_adapter(*settings.init)
        return AdapterConfigs(
            opened.resampler if settings.has_id else None,
            opened.id if settings.has_id else None,
            opened.ref if settings.has_ref else None,
        )
    return configure_new_adapter(settings, shape.dim, shape.num_blocks)


def read_base_shape(path: Path) -> BaseShape:
    """Read a base's shape from its configuration or header; no weights are loaded.

    Raises:
        ConfigurationError: when there is no such base.
    """
    folder = path / "transformer" if (path / "transformer").is_dir() else path
    if (folder / "config.json").is_file():
        values = json.loads((folder / "config.json").read_text())
        dim = values["num_attention_heads"] * values["attention_head_dim"]
        return BaseShape(dim, values["ffn_dim"], values["num_layers"], values["text_dim"])
    files = [path] if path.is_file() else sorted(folder.glob("*.safetensors"))
    if not files:
        raise ConfigurationError(
            f"base.transformer is a diffusers folder or a .safetensors file, and {path} is neither"
        )
    shapes = {name: info.shape for file in files for name, info in open_tensor_file(file).tensors.items()}
    try:
        patch = next(shape for name, shape in shapes.items() if name.endswith("patch_embedding.weight"))
        ff = next(shape for name, shape in shapes.items() if name.endswith("blocks.0.ffn.0.weight"))
        text = next(shape for name, shape in shapes.items() if name.endswith("text_embedding.0.weight"))
    except StopIteration as error:
        raise ConfigurationError(
            f"{path} holds no Wan transformer; name its file in base.transformer"
        ) from error
    blocks = {name.split("blocks.")[1].split(".")[0] for name in shapes if "blocks." in name}
    return BaseShape(patch[0], ff[0], len(blocks), math.prod(text[1:]))
