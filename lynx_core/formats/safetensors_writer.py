"""Writes safetensors files holding one tensor at a time.

The library's own writer wants all of them at once, which for a dequantised adapter would be 8 GB.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Callable, Mapping
from typing import Any, BinaryIO

import torch
from torch import Tensor

from .tensor_file import DTYPES, TensorInfo

_NAMES = {dtype: name for name, dtype in DTYPES.items()}
_ALIGNMENT_BYTES = 8


def safetensors_bytes(tensors: Mapping[str, TensorInfo], metadata: Mapping[str, str]) -> int:
    """Size of the file that `write_safetensors` makes."""
    return len(_header(tensors, metadata)) + sum(_num_bytes(info) for info in tensors.values())


def write_safetensors(
    file: BinaryIO,
    tensors: Mapping[str, TensorInfo],
    read: Callable[[str], Tensor],
    metadata: Mapping[str, str],
) -> None:
    """Write a safetensors file, holding one tensor at a time.

    Args:
        file: open for binary writing, at its start.
        tensors: names, shapes and dtypes of what will be written.
        read: gives the tensor of a name, on the CPU, of the promised shape and dtype.
        metadata: goes into the header.
    """
    file.write(_header(tensors, metadata))
    for name in order_tensors(tensors):
        tensor = read(name).contiguous()
        if tensor.dtype != tensors[name].dtype or tuple(tensor.shape) != tensors[name].shape:
            raise AssertionError(
                f"{name}: promised {tensors[name]}, got {tensor.dtype} {tuple(tensor.shape)}"
            )
        file.write(tensor.reshape(-1).view(torch.uint8).numpy().data)


def tensor_info(shape: tuple[int, ...], dtype: torch.dtype) -> TensorInfo:
    """Describe a tensor that is to be written."""
    return TensorInfo(shape, _NAMES[dtype], dtype)


def order_tensors(tensors: Mapping[str, TensorInfo]) -> list[str]:
    """The names of tensors in the order in which they are written."""
    # Wide dtypes first keep every tensor aligned to its own width.
    return sorted(tensors, key=lambda name: (-_itemsize(tensors[name]), name))


def _itemsize(info: TensorInfo) -> int:
    return DTYPES[info.stored_as].itemsize


def _num_bytes(info: TensorInfo) -> int:
    return math.prod(info.shape) * _itemsize(info)


def _header(tensors: Mapping[str, TensorInfo], metadata: Mapping[str, str]) -> bytes:
    header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    begin = 0
    for name in order_tensors(tensors):
        end = begin + _num_bytes(tensors[name])
        header[name] = {
            "dtype": tensors[name].stored_as,
            "shape": list(tensors[name].shape),
            "data_offsets": [begin, end],
        }
        begin = end
    raw = json.dumps(header, separators=(",", ":")).encode()
    raw += b" " * (-len(raw) % _ALIGNMENT_BYTES)
    return struct.pack("<Q", len(raw)) + raw
