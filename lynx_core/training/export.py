"""Writes what was trained as one adapter file; sharded weights are gathered one tensor at a time."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from ..formats.adapter_weights import list_in_order, save_modules
from ..formats.tensor_file import AdapterError
from ..models.adapter_modules import AdapterModules
from .distributed import DistributedContext, full_tensor


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
