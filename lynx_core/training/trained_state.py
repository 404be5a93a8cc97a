"""All that is trained, as one flat dict of tensors: what a checkpoint holds, and what it is loaded into.

    weights/NAME              trained weights, float32, by parameter name
    ema/NAME                  their EMA, if one is kept
    optimizer/NAME/KEY        what the optimiser keeps of a parameter
    optimizer/NAME/KEY/INNER  the tensors that one of torchao's is made of

Loading writes into the tensors that are there, each process its own shards, so nothing is held twice.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .checkpoint import CheckpointError
from .optimizer import EMA, NamedParameters, set_learning_rate

# Of a single process, at every checkpoint, where it is asked to work alone.
warnings.filterwarnings("ignore", "torch.distributed is disabled", UserWarning)

WEIGHTS, EMA_WEIGHTS, OPTIMIZER = "weights/", "ema/", "optimizer/"

OptimizerNumbers = dict[str, dict[str, Any]]
"""What an optimiser keeps of each parameter beside tensors, as the count of its steps."""


class TrainedState:
    """Weights, optimiser and EMA of a run."""

    def __init__(
        self, parameters: NamedParameters, optimizer: torch.optim.Optimizer, ema: EMA | None
    ) -> None:
        self.parameters, self.optimizer, self.ema = parameters, optimizer, ema

    def tensors(self) -> dict[str, Tensor]:
        """The tensors themselves, not copies; sharded ones are DTensors."""
        found: dict[str, Tensor] = {WEIGHTS + name: p.detach() for name, p in self.parameters.items()}
        if self.ema is not None:
            found |= {EMA_WEIGHTS + name: average for name, average in self.ema.averages.items()}
        for name, parameter in self.parameters.items():
            for key, value in self.optimizer.state.get(parameter, {}).items():
                if isinstance(value, Tensor):
                    found |= _flatten(f"{OPTIMIZER}{name}/{key}", value)
        return found

    def numbers(self) -> OptimizerNumbers:
        """What the optimiser keeps beside tensors."""
        return {
            name: plain
            for name, parameter in self.parameters.items()
            if (
                plain := {
                    key: value
                    for key, value in self.optimizer.state.get(parameter, {}).items()
                    if not isinstance(value, Tensor)
                }
            )
        }

    def load(self, path: Path, numbers: OptimizerNumbers, keeps_moments: bool, context: Any) -> bool:
        """Read a checkpoint. A collective: all ranks must call it.

        Args:
            numbers: of the checkpoint's state.
            keeps_moments: read the optimiser's state; else it starts anew.
            context: `DistributedContext`.

        Returns:
            Whether the checkpoint holds an EMA.

        Raises:
            CheckpointError: when it is of another adapter, or cannot be read.
        """
        shapes = read_shapes(path)
        self._check_weights(path, shapes)
        if keeps_moments:
            self._make_optimizer_state()
        wanted = {name: tensor for name, tensor in self.tensors().items() if name in shapes}
        if not keeps_moments:
            wanted = {name: tensor for name, tensor in wanted.items() if not name.startswith(OPTIMIZER)}
        read_into(path, wanted, context.checkpoint_group if context.world_size > 1 else None)
        if keeps_moments:
            self._drop_unknown_state(shapes)
            for name, plain in numbers.items():
                self.optimizer.state[self.parameters[name]].update(plain)
        return any(name.startswith(EMA_WEIGHTS) for name in shapes)

    def _check_weights(self, path: Path, shapes: dict[str, tuple[int, ...]]) -> None:
        expected = {name: tuple(parameter.shape) for name, parameter in self.parameters.items()}
        stored = {
            name.removeprefix(WEIGHTS): shape for name, shape in shapes.items() if name.startswith(WEIGHTS)
        }
        differing = sorted(
            name for name in expected.keys() | stored.keys() if expected.get(name) != stored.get(name)
        )
        if differing:
            raise CheckpointError(
                f"{path} holds another adapter: {len(differing)} weights differ, the first is {differing[0]} "
                f"(here {expected.get(differing[0])}, there {stored.get(differing[0])}); restore the sections "
                "[adapter] and [base], or name another run.output"
            )

    def _make_optimizer_state(self) -> None:
        """Let the optimiser make its tensors, by a step that changes nothing, so that they can be written over."""
        for parameter in self.parameters.values():
            parameter.grad = torch.zeros_like(parameter)
        set_learning_rate(self.optimizer, 0.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def _drop_unknown_state(self, shapes: dict[str, tuple[int, ...]]) -> None:
        """Of a parameter that was never updated a checkpoint holds no state, and an optimiser begins its own then."""
        known = {name.split("/")[1] for name in shapes if name.startswith(OPTIMIZER)}
        for name, parameter in self.parameters.items():
            if name not in known:
                self.optimizer.state.pop(parameter, None)


def _flatten(name: str, tensor: Tensor) -> dict[str, Tensor]:
    """The plain and sharded tensors that one is made of."""
    if hasattr(tensor, "full_tensor") or not hasattr(tensor, "__tensor_flatten__"):
        return {name: tensor.detach()}
    inner, _ = tensor.__tensor_flatten__()
    flat: dict[str, Tensor] = {}
    for part in inner:
        flat |= _flatten(f"{name}/{part}", getattr(tensor, part))
    return flat


def read_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Names and whole shapes of a checkpoint's tensors.

    Raises:
        CheckpointError: when they cannot be read.
    """
    from torch.distributed.checkpoint import FileSystemReader

    try:
        stored = FileSystemReader(path).read_metadata().state_dict_metadata
    except Exception as error:  # of pickle, whatever the bytes make of it
        raise CheckpointError(
            f"{path} cannot be read ({error}); delete it to resume from an older one"
        ) from error
    return {name: tuple(entry.size) for name, entry in stored.items()}  # type: ignore[union-attr]


def read_into(path: Path, tensors: dict[str, Tensor], group: Any = None) -> None:
    """Read some of a checkpoint's tensors, or this process's shards of them, into those that are given.

    Args:
        group: of the processes that read together; None reads alone.

    Raises:
        CheckpointError: when they cannot be read.
    """
    import torch.distributed.checkpoint as dcp

    try:
        dcp.load(
            dict(tensors),
            storage_reader=dcp.FileSystemReader(path),
            process_group=group,
            no_dist=group is None,
        )
    except (OSError, RuntimeError, ValueError, dcp.CheckpointException) as error:
        raise CheckpointError(
            f"{path} cannot be read ({error}); delete it to resume from an older one"
        ) from error


def read_weights(path: Path, prefix: str = WEIGHTS) -> dict[str, Tensor]:
    """Read the weights of a checkpoint, or another kind of its tensors, to the CPU, by parameter name."""
    import torch.distributed.checkpoint as dcp

    stored = dcp.FileSystemReader(path).read_metadata().state_dict_metadata
    tensors = {
        name: torch.empty(entry.size, dtype=entry.properties.dtype)
        for name, entry in stored.items()
        if name.startswith(prefix) and isinstance(entry, dcp.metadata.TensorStorageMetadata)
    }
    read_into(path, tensors)
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}


def pick_own(tensors: dict[str, Tensor], rank: int, world_size: int) -> dict[str, Tensor]:
    """What one process writes: its shards, and its part of what all hold alike, by size."""
    own = {name: tensor for name, tensor in tensors.items() if hasattr(tensor, "full_tensor")}
    for name, owner in _deal_by_size({n: t for n, t in tensors.items() if n not in own}, world_size):
        if owner == rank:
            own[name] = tensors[name]
    return own


def _deal_by_size(tensors: dict[str, Tensor], world_size: int) -> Iterator[tuple[str, int]]:
    loads = [0] * world_size
    for name in sorted(tensors, key=lambda name: (-tensors[name].nbytes, name)):
        owner = loads.index(min(loads))
        loads[owner] += tensors[name].nbytes
        yield name, owner
