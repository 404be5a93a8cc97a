"""GGUF files through the optional `gguf` package; one tensor is dequantised at a time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .errors import AdapterError
from .tensor_file import TensorFile, TensorInfo

_PLAIN = {"F32": torch.float32, "F16": torch.float16, "F64": torch.float64, "BF16": torch.bfloat16}
_QUANTISED_TO = torch.float16
_WHOLE_NUMBERS = ("I8", "I16", "I32", "I64")
_ORIGINAL_SHAPE = "comfy.gguf.orig_shape."
"""Metadata of ComfyUI-GGUF's converter for tensors it had to reshape."""


class GGUFFile(TensorFile):
    """A GGUF file. Quantised tensors are read as float16, others in their own dtype."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        try:
            import gguf
        except ImportError as error:
            raise AdapterError(
                f"{path} is a GGUF file, and reading those needs the package gguf. Install it into ComfyUI's "
                "Python with: pip install gguf"
            ) from error
        try:
            reader = gguf.GGUFReader(path)
        except Exception as error:  # the package raises whatever numpy does on a damaged file
            raise AdapterError(
                f"{path} is a damaged GGUF file of {path.stat().st_size} bytes ({error}); download it again."
            ) from error
        self.metadata = {}
        self._entries = {entry.name: entry for entry in reader.tensors}
        self.tensors = {
            name: TensorInfo(_shape(reader, entry), entry.tensor_type.name, _dtype(entry.tensor_type.name))
            for name, entry in self._entries.items()
        }

    def _read(self, name: str) -> Tensor:
        import gguf

        entry, info = self._entries[name], self.tensors[name]
        if info.dtype in (torch.float16, torch.float32, torch.float64) and info.stored_as in _PLAIN:
            return torch.from_numpy(np.array(entry.data)).reshape(info.shape)
        try:
            values = gguf.quants.dequantize(entry.data, entry.tensor_type)
        except NotImplementedError as error:
            raise AdapterError(
                f"{self.path}: {name} is quantised as {info.stored_as}, which the installed gguf package "
                "cannot read; update it with: pip install -U gguf"
            ) from error
        return torch.from_numpy(values).to(info.dtype).reshape(info.shape)


def _shape(reader: Any, entry: Any) -> tuple[int, ...]:
    original = reader.get_field(_ORIGINAL_SHAPE + entry.name)
    if original is not None:
        return tuple(int(original.parts[part][0]) for part in original.data)
    return tuple(int(size) for size in reversed(entry.shape))


def _dtype(stored_as: str) -> torch.dtype | None:
    if stored_as in _WHOLE_NUMBERS:
        return None
    return _PLAIN.get(stored_as, _QUANTISED_TO)
