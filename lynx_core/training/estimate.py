"""What a run will take, before it is started: memory of each device, and room on the disk.

Every figure is computed from shapes and none is measured; activations are the least certain. With full
checkpointing a block keeps its input, 344 MB for 33,600 tokens of width 5120 in bf16, and the
one block that is computed needs its working set: about six hidden states and three feed-forward
states in float32.
"""

from __future__ import annotations

import math
import shutil
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from ..formats.adapter import open_adapter
from ..formats.base_file import BaseModelError, read_base_config
from ..formats.tensor_file import open_tensor_file
from ..models.adapter_configs import AdapterConfigs
from ..models.adapter_modules import AdapterModules
from .adapter_settings import AdapterSettings
from .assembly import configure_new_adapter
from .checkpoint import CHECKPOINTS_FOLDER, CheckpointFolder, choose_kept
from .configuration import RunConfig, TrainingConfig
from .configuration_file import ConfigurationError
from .distributed import LOG_FOLDER

_GB = 1e9
_HEAD_DIM = 128
"""Of every Wan; its single file does not tell."""
_WORKING_HIDDEN, _WORKING_FF = 6, 3
_BASE_BYTES = {"fp32": 4, "bf16": 2}
_OPTIMIZER_BYTES = {"adamw": 8, "adamw8bit_bitsandbytes": 2, "adamw8bit_torchao": 2, "muon": 4}


@dataclass(frozen=True)
class BaseShape:
    """What the estimate needs of a base."""

    dim: int
    ff_dim: int
    num_blocks: int
    text_dim: int
    num_heads: int

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
    num_trained, num_frozen = _count_adapter_weights(config.adapter, shape)
    num_shards = config.distributed.shard_size or world_size
    sharded = num_shards if config.distributed.sharding == "fsdp2" else 1
    trained = 4 * num_trained / sharded
    return MemoryEstimate(
        base=_estimate_base(config, shape, num_shards),
        trained=trained + 4 * num_frozen,
        gradients=trained,
        optimizer=_OPTIMIZER_BYTES[config.optimizer.kind] * num_trained / sharded,
        ema=trained if config.optimizer.ema_decay else 0.0,
        activations=_estimate_activations(config, shape),
        num_trained=num_trained,
    )


def _estimate_base(config: TrainingConfig, shape: BaseShape, num_shards: int) -> float:
    width = _BASE_BYTES[config.base.dtype]
    block_width = width if config.base.quantisation == "none" else 1
    blocks = block_width * shape.block_weights
    if config.base.offload_blocks:
        blocks = 2 * blocks // shape.num_blocks
    elif config.distributed.shard_base:
        blocks = blocks // num_shards + 2 * blocks // shape.num_blocks
    return float(blocks + width * shape.other_weights)


def _estimate_activations(config: TrainingConfig, shape: BaseShape) -> float:
    tokens = config.packing.max_tokens / config.distributed.sequence_parallel_size
    working = tokens * (_WORKING_HIDDEN * shape.dim + _WORKING_FF * shape.ff_dim) * 4
    if config.base.gradient_checkpointing:
        return float(working + shape.num_blocks * tokens * shape.dim * _BASE_BYTES[config.base.dtype])
    return float(working * shape.num_blocks)


@lru_cache(maxsize=8)
def _count_adapter_weights(settings: AdapterSettings, shape: BaseShape) -> tuple[int, int]:
    """Trained and frozen weights of the adapter, without making it."""
    import torch

    with torch.device("meta"):
        adapter = AdapterModules(_find_adapter_configs(settings, shape))
    if not settings.lora_rank:
        return sum(parameter.numel() for parameter in adapter.parameters()), 0
    low_rank = 0
    for layer in (*adapter.id.values(), *adapter.ref.values()):
        for linear in layer.children():
            assert isinstance(linear, torch.nn.Linear)  # key and value projections
            low_rank += settings.lora_rank * (linear.in_features + linear.out_features)
    return low_rank, sum(parameter.numel() for parameter in adapter.parameters())


def _find_adapter_configs(settings: AdapterSettings, shape: BaseShape) -> AdapterConfigs:
    """The adapter's shape: of the files it starts from, else of the variant."""
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
        try:
            values = read_base_config(folder)
            heads = values["num_attention_heads"]
            dim = heads * values["attention_head_dim"]
            return BaseShape(dim, values["ffn_dim"], values["num_layers"], values["text_dim"], heads)
        except (BaseModelError, KeyError, TypeError) as error:
            raise ConfigurationError(
                f"{folder / 'config.json'} does not describe a Wan base ({error}); download it again"
            ) from error
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
    return BaseShape(patch[0], ff[0], len(blocks), math.prod(text[1:]), patch[0] // _HEAD_DIM)


VALIDATION_FOLDER = "validation"
_EXPORT_BYTES = {"fp32": 4, "bf16": 2, "fp16": 2}
_GB = 1e9


def find_write_problems(output: Path) -> Iterator[str]:
    """Try to write where a run will; nothing stays behind."""
    for folder in (output, *(output / name for name in (CHECKPOINTS_FOLDER, LOG_FOLDER, VALIDATION_FOLDER))):
        if folder != output and not folder.exists():
            continue
        existing = _nearest_existing(folder)
        try:
            with tempfile.TemporaryFile(dir=existing):
                pass
        except OSError as error:
            reason = "it is a file" if existing.is_file() else error.strerror
            yield (
                f"run.output: {folder} cannot be written ({existing}: {reason}); change its permissions or name "
                "another run.output"
            )
            return


def _nearest_existing(path: Path) -> Path:
    """The path itself, or the nearest folder above it that is there."""
    path = path.resolve()
    return next(place for place in (path, *path.parents) if place.exists())


def find_room_problems(config: TrainingConfig, shape: BaseShape, start_step: int) -> Iterator[str]:
    """Compare what checkpoints and the exported adapter will take with what is free."""
    run = config.run
    num_trained, num_frozen = _count_adapter_weights(config.adapter, shape)
    checkpoint_bytes = _estimate_checkpoint(config, num_trained)
    there = CheckpointFolder(run.output, run.keep_last, run.keep_every).steps()
    num_more = count_more_checkpoints(there, start_step, config.total_steps, run)
    export_bytes = (num_trained if not config.adapter.lora_rank else num_frozen) * _EXPORT_BYTES[
        run.export_dtype
    ]
    wanted: dict[int, int] = defaultdict(int)
    places: dict[int, Path] = {}
    for folder, num_bytes in (
        (run.output / CHECKPOINTS_FOLDER, num_more * checkpoint_bytes),
        (run.output, export_bytes),
    ):
        place = _nearest_existing(folder)
        disk = place.stat().st_dev
        wanted[disk] += num_bytes
        places[disk] = place
    for disk, num_bytes in wanted.items():
        free = shutil.disk_usage(places[disk]).free
        if num_bytes > free:
            yield (
                f"run.output: {run.output} will take {num_bytes / _GB:.3g} GB more ({num_more} checkpoints of "
                f"{checkpoint_bytes / _GB:.3g} GB at a time, and the adapter of {export_bytes / _GB:.3g} GB), and "
                f"{free / _GB:.3g} GB are free on its disk; make room, lower run.keep_last ({run.keep_last}), raise "
                f"run.keep_every ({run.keep_every}), or name another run.output"
            )


def _estimate_checkpoint(config: TrainingConfig, num_trained: int) -> int:
    """Bytes of a checkpoint: weights and EMA in float32, and the optimiser's moments."""
    ema = 4 if config.optimizer.ema_decay else 0
    return num_trained * (4 + ema + _OPTIMIZER_BYTES[config.optimizer.kind])


def count_more_checkpoints(there: Sequence[int], start_step: int, total_steps: int, run: RunConfig) -> int:
    """The most checkpoints that lie there at a time until the end, beyond those that do now."""
    every = run.checkpoint_every
    coming = [*range(start_step - start_step % every + every, total_steps, every), total_steps]
    if start_step >= total_steps:
        return 0
    # Each is written before an older one goes, and those that are kept for good only grow: the most lie there
    # at the first writing or at the last.
    before_last = [*(step for step in there if step <= start_step), *coming[:-1]]
    at_last = len(choose_kept(before_last, run.keep_last, run.keep_every)) + 1
    return max(len(there) + 1, at_last) - len(there)
