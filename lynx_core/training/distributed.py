"""Several processes as one: ranks, all-reduce of gradients, and sharding.

accelerate finds the processes and wraps the adapter in DDP. FSDP2 (`fully_shard`) shards trained
weights, gradients and optimiser instead: 68.5 GB for the full adapter become 8.6 on each of 8 GPUs.
The frozen base is no part of either; `ShardedBlocks` shards it, by FSDP2 as well, with the interface of offloading.
Sharded weights are gathered one tensor at a time when the adapter is written.
On many nodes, HSDP shards within a group of processes and replicates the groups.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from ..formats.adapter_weights import list_in_order, save_modules
from ..formats.tensor_file import AdapterError
from ..models.adapter_modules import AdapterModules
from ..models.frozen_base import BlockOffload
from ..models.packed_wan import PackedInputs, PackedWan
from ..models.segment_attention import SequenceGroup
from .configuration import DistributedConfig, RunConfig
from .configuration_file import ConfigurationError
from .reference_cache import ReferenceFeatureCache

if TYPE_CHECKING:
    from accelerate import Accelerator
    from torch.distributed.device_mesh import DeviceMesh

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
        self._shard_size = config.shard_size or self.world_size
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
        return _shard_adapter(model, self.shard_mesh)

    @functools.cached_property
    def shard_mesh(self) -> DeviceMesh:
        """The processes that weights are sharded over; with fewer in a group than there are, the groups are replicas."""
        from torch.distributed.device_mesh import init_device_mesh

        size, names = self._shard_size, ("replicate", "shard")
        if size == self.world_size:
            return init_device_mesh(self.device.type, (size,), mesh_dim_names=names[1:])
        return init_device_mesh(self.device.type, (self.world_size // size, size), mesh_dim_names=names)

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


def _shard_adapter(model: AdapterForward, mesh: DeviceMesh) -> nn.Module:
    from torch.distributed.fsdp import fully_shard

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
    """Shards the frozen blocks by FSDP2; the one that runs is gathered, and while it does, the next.

    Forward and backward, with the reference pass beside them, fetch blocks one by one, so one gathering serves all
    that a block does. All processes fetch the same ones in the same order: each runs one pack at a time. Wants
    gradient checkpointing: a block's weights are freed when the next is fetched.

    Args:
        transformer: its blocks are sharded in place; everything else is moved to `device` whole.
        mesh: of FSDP2, or of HSDP.
    """

    def __init__(self, transformer: Any, device: torch.device, mesh: DeviceMesh) -> None:
        from torch.distributed.fsdp import fully_shard

        self.device = device
        for child in transformer.children():
            if child is not transformer.blocks:
                child.to(device)
        transformer.scale_shift_table.data = transformer.scale_shift_table.data.to(device)
        self._blocks = [fully_shard(block, mesh=mesh) for block in transformer.blocks]
        self._last: int | None = None

    def fetch(self, index: int) -> nn.Module:
        """Give block `index`, gathered; the block fetched before is sharded again."""
        block = self._blocks[index]
        if self._last != index:
            step = 1
            if self._last is not None:
                self._blocks[self._last].reshard()
                step = 1 if index > self._last else -1
            block.unshard()
            if 0 <= index + step < len(self._blocks):
                self._blocks[index + step].unshard(async_op=True)
            self._last = index
        return block


class _Gathering:
    """Gathers the tensors of an adapter in one order, which all processes keep to."""

    def __init__(self, adapter: AdapterModules, names: Sequence[str]) -> None:
        self.adapter = adapter
        self.left = list(names)

    def read(self, name: str) -> Tensor:
        assert name == self.left[0], f"{name} is read before {self.left[0]}"
        self.left.pop(0)
        return full_tensor(self.adapter.canonical_tensor(name)).cpu()

    def finish(self) -> None:
        """Take part in what the other processes still gather."""
        while self.left:
            self.read(self.left[0])


@torch.no_grad()
def export_together(
    adapter: AdapterModules, path: Path, dtype: torch.dtype, context: DistributedContext
) -> None:
    """Write an adapter; every process takes part, the main one writes.

    Raises:
        AdapterError: on every process, when a weight is not finite, or the disk is full or refuses.
    """
    gathering = _Gathering(adapter, list_in_order(adapter, dtype))
    problem = None
    if context.is_main:
        try:
            save_modules(adapter, path, dtype=dtype, read=gathering.read, overwrite=True)
        except AdapterError as error:
            problem = str(error)
    gathering.finish()
    problem = context.share(problem)
    if problem is not None:
        raise AdapterError(problem)
