"""Several processes as one: ranks, all-reduce of gradients, and sharding.

accelerate finds the processes and wraps the adapter in DDP. FSDP2 (`fully_shard`) shards trained
weights, gradients and optimiser instead: 68.5 GB for the full adapter become 8.6 on each of 8 GPUs.
The frozen base is no part of either; `ShardedBlocks` shards it, with the interface of offloading.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from ..models.adapter_modules import AdapterModules
from ..models.frozen_base import BlockOffload
from ..models.packed_wan import PackedInputs, PackedWan
from ..models.segment_attention import SequenceGroup
from .configuration import DistributedConfig, RunConfig
from .configuration_file import ConfigurationError
from .reference_cache import ReferenceFeatureCache

if TYPE_CHECKING:
    from accelerate import Accelerator

_Shared = TypeVar("_Shared")

LOG_FOLDER = "logs"
CHECKPOINT_TIMEOUT = timedelta(hours=2)
"""How long the processes wait for each other's part of a checkpoint."""


class AdapterForward(nn.Module):
    """The adapter as the one module that is trained; the frozen base stays out of its state."""

    def __init__(
        self, adapter: AdapterModules, base: PackedWan, references: ReferenceFeatureCache | None = None
    ) -> None:
        super().__init__()
        self.adapter = adapter
        # In a tuple, so that DDP and FSDP do not find it.
        self._hidden_base = (base,)
        self._references = references

    def forward(self, inputs: PackedInputs) -> list[Tensor]:
        """Predict the velocity of each sample."""
        recorded = self._references.get(inputs) if self._references else None
        return self._hidden_base[0](inputs, self.adapter, recorded=recorded)


class DistributedContext:
    """One process of a distributed run: its rank, device and collectives.

    Raises:
        ConfigurationError: when a tracker is not installed.
    """

    def __init__(self, config: DistributedConfig, run: RunConfig) -> None:
        self.sharding = config.sharding
        self.accelerator = _make_accelerator(run)
        self.rank: int = self.accelerator.process_index
        self.world_size: int = self.accelerator.num_processes
        self.device: torch.device = self.accelerator.device
        self.data_size = self.world_size // config.sequence_parallel_size
        """Groups of processes that run packs of their own; each is one process without sequence parallelism."""
        self.data_rank = self.rank // config.sequence_parallel_size
        self.sequence_group = self._make_sequence_group(config.sequence_parallel_size)
        self.checkpoint_group: Any = None
        """Of the processes while they write a checkpoint, beside the steps; None for a single one."""
        if self.world_size > 1:
            self.checkpoint_group = dist.new_group(backend="gloo", timeout=CHECKPOINT_TIMEOUT)

    def _make_sequence_group(self, size: int) -> SequenceGroup | None:
        """The neighbours in rank that share each pack with this process."""
        if size == 1:
            return None
        from torch.distributed.device_mesh import init_device_mesh

        names = ("data", "sequence")
        mesh = init_device_mesh(self.device.type, (self.data_size, size), mesh_dim_names=names)
        return SequenceGroup(mesh["sequence"].get_group(), self.rank % size, size)

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    @property
    def leads_group(self) -> bool:
        """Whether this process loads the packs of its group, and counts them; without groups each does."""
        return self.sequence_group is None or self.sequence_group.rank == 0

    def share_step(self, value: _Shared | None) -> _Shared:
        """Give what the first process of this group has to all of it. A collective."""
        values = [value]
        if self.sequence_group is not None:
            leader = self.rank - self.sequence_group.rank
            group = self.sequence_group.group
            dist.broadcast_object_list(values, src=leader, group=group, device=self.device)
        assert values[0] is not None
        return values[0]

    def wrap(self, model: AdapterForward) -> nn.Module:
        """Wrap the model in DDP or FSDP2, so that its gradients are the mean over all processes."""
        model.to(self.device)
        if self.world_size == 1:
            return model
        if self.sharding == "ddp":
            return self.accelerator.prepare_model(model)
        return _shard_adapter(model, self.world_size, self.device)

    def settle_buckets(self, model: nn.Module, inputs: PackedInputs) -> None:
        """Run a pack that changes nothing, after which DDP sums gradients in the order that it keeps.

        It regroups them once, after the first backward of each start. A sum over four processes or more would
        have other last bits in the first step after a resume than in a run that was not stopped.
        """
        if self.world_size > 1 and self.sharding == "ddp":
            sum(velocity.sum() for velocity in model(inputs)).backward()
            model.zero_grad(set_to_none=True)

    @contextlib.contextmanager
    def accumulate(self, model: nn.Module, is_last: bool) -> Iterator[None]:
        """Synchronise gradients only in the backward of a step's last pack."""
        if self.world_size == 1 or is_last:
            if self.world_size > 1 and self.sharding == "fsdp2":
                model.set_requires_gradient_sync(True)  # type: ignore[operator]
            yield
        elif self.sharding == "fsdp2":
            model.set_requires_gradient_sync(False)  # type: ignore[operator]
            yield
        else:
            with self.accelerator.no_sync(model):
                yield

    def all_reduce_sum(self, values: Tensor) -> Tensor:
        """All-reduce by sum; a single process gets its own values back."""
        if self.world_size > 1:
            values = values.clone()
            dist.all_reduce(values)
        return values

    def all_reduce_max(self, values: Tensor) -> Tensor:
        """All-reduce by maximum; a single process gets its own values back."""
        if self.world_size > 1:
            values = values.clone()
            dist.all_reduce(values, op=dist.ReduceOp.MAX)
        return values

    def share(self, value: str | None) -> str | None:
        """Broadcast a value of the main process. A collective: all ranks must call it."""
        values = [value]
        if self.world_size > 1:
            dist.broadcast_object_list(values, src=0, device=self.device)
        return values[0]

    def gather(self, value: Any) -> list[Any]:
        """What each process gives, in the order of ranks, while a checkpoint is read or written. A collective."""
        values = [value]
        if self.world_size > 1:
            values = values * self.world_size
            dist.all_gather_object(values, value, group=self.checkpoint_group)
        return values

    def close(self) -> None:
        """Close trackers and the process group."""
        self.accelerator.end_training()
        if self.world_size > 1 and dist.is_initialized():
            dist.destroy_process_group()


def _make_accelerator(run: RunConfig) -> Accelerator:
    from accelerate import Accelerator, DistributedDataParallelKwargs
    from accelerate.utils import ProjectConfiguration

    folders = ProjectConfiguration(str(run.output), logging_dir=str(Path(run.output) / LOG_FOLDER))
    ddp = DistributedDataParallelKwargs(gradient_as_bucket_view=True, broadcast_buffers=False)
    try:
        return Accelerator(
            cpu=run.device == "cpu" or not torch.cuda.is_available(),
            log_with=list(run.trackers) or None,
            project_config=folders,
            kwargs_handlers=[ddp],
        )
    except (ValueError, ImportError) as error:
        raise ConfigurationError(
            f"run.trackers {list(run.trackers)}: {error}; install the tracker's package, or set run.trackers = []"
        ) from error


def _shard_adapter(model: AdapterForward, world_size: int, device: torch.device) -> nn.Module:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh(device.type, (world_size,))
    for layer in (*model.adapter.id.values(), *model.adapter.ref.values()):
        fully_shard(layer, mesh=mesh)
    if model.adapter.resampler is not None:
        fully_shard(model.adapter.resampler, mesh=mesh)
    fully_shard(model, mesh=mesh)  # in place
    return model


def full_tensor(tensor: Tensor) -> Tensor:
    """Gather a sharded tensor on every process; others stay as they are. A collective: all ranks must call it."""
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


class ShardedBlocks(BlockOffload):
    """Keeps one shard of each frozen block on each process, and all-gathers a block when it runs.

    All processes must run the same blocks in the same order, which
    they do: each runs one pack at a time, forward and backward.

    Args:
        transformer: its blocks are replaced by this process's shards; everything else is moved to
            `device` whole.
    """

    def __init__(self, transformer: Any, device: torch.device, rank: int, world_size: int) -> None:
        self.device = device
        self.world_size = world_size
        self._shells = [copy.deepcopy(block).to("meta") for block in transformer.blocks]
        self._shards = [
            {name: _shard(tensor, rank, world_size).to(device) for name, tensor in block.state_dict().items()}
            for block in transformer.blocks
        ]
        for block in transformer.blocks:
            block.to("meta")
        for child in transformer.children():
            if child is not transformer.blocks:
                child.to(device)
        transformer.scale_shift_table.data = transformer.scale_shift_table.data.to(device)
        self._fetched: tuple[int, nn.Module] | None = None

    def fetch(self, index: int) -> nn.Module:
        """Gather block `index`; the block fetched before is dropped."""
        if self._fetched is None or self._fetched[0] != index:
            self._fetched = None
            block = copy.deepcopy(self._shells[index])
            shapes = {name: tensor.shape for name, tensor in block.state_dict().items()}
            whole = {name: self._gather(part, shapes[name]) for name, part in self._shards[index].items()}
            block.load_state_dict(whole, assign=True)
            block.requires_grad_(False)
            self._fetched = index, block
        return self._fetched[1]

    def _gather(self, part: Tensor, shape: torch.Size) -> Tensor:
        parts = [torch.empty_like(part) for _ in range(self.world_size)]
        dist.all_gather(parts, part)
        return torch.cat(parts)[: shape.numel()].view(shape)


def _shard(tensor: Tensor, rank: int, world_size: int) -> Tensor:
    """Shard `rank` of a flattened tensor, padded with zeros."""
    flat = tensor.detach().flatten()
    length = -(-len(flat) // world_size)
    part = flat[rank * length : (rank + 1) * length]
    return torch.nn.functional.pad(part, (0, length - len(part)))
