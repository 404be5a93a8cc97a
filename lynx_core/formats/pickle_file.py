"""PyTorch pickles (.pt, .pth, .bin, .ckpt), opened without letting them run code."""

from __future__ import annotations

import pickle
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .errors import AdapterError
from .tensor_file import TensorFile, TensorInfo


class PickleFile(TensorFile):
    """A state dict, possibly nested: `{"image_proj": {"latents": ...}}` becomes `image_proj.latents`."""

    def __init__(self, path: Path, *, zipped: bool) -> None:
        """Args: zipped: PyTorch's format since 1.6, which can be mapped instead of read."""
        super().__init__(path)
        self.metadata = {}
        self._loaded = dict(_flatten(_load(path, zipped)))
        self.tensors = {
            name: TensorInfo(tuple(tensor.shape), str(tensor.dtype).removeprefix("torch."), tensor.dtype)
            for name, tensor in self._loaded.items()
        }

    def _read(self, name: str) -> Tensor:
        return self._loaded[name].detach()


def _load(path: Path, zipped: bool) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError, OSError) as error:
        wanted = re.search(r"GLOBAL ([\w.]+)", str(error))
        if wanted:
            raise AdapterError(
                f"{path} is a pickle that wants to call {wanted[1]} when it is opened. That can run any code on your "
                "machine, so it was not opened. Use a .safetensors version of it, or have its maker save it as "
                "tensors only."
            ) from error
        first_line = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise AdapterError(
            f"{path} ({path.stat().st_size} bytes) is a damaged PyTorch file, or a pickle or zip archive of "
            f"something else ({first_line}); download it again."
        ) from error


def _flatten(value: Any, prefix: str = "") -> Iterator[tuple[str, Tensor]]:
    if isinstance(value, Tensor):
        yield prefix, value
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _flatten(inner, f"{prefix}.{key}" if prefix else str(key))
