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


def push_adapter(path: Path, repository: str) -> str:
    """Upload an adapter to the Hugging Face Hub, into a new private repository where there is none.

    Returns:
        A sentence for the user: where it is, or why it is not and how to upload it.
    """
    from huggingface_hub import HfApi

    hub = HfApi()
    try:
        hub.create_repo(repository, private=True, exist_ok=True)
        hub.upload_file(path_or_fileobj=path, path_in_repo=path.name, repo_id=repository)
    except Exception as error:  # of the HTTP client, which is another one in each version of the package
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        return f"the adapter could not be uploaded to {repository}: {reason}; upload it by: hf upload {repository} {path}"
    return f"the adapter is in {hub.endpoint}/{repository}"


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
