"""Safetensors files: checked headers, tensors read through the `safetensors` library, and a
writer that holds one tensor at a time (the library's own wants all of them at once, which for
a dequantised adapter would be 8 GB).
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from .errors import AdapterError
from .tensor_file import TensorFile, TensorInfo

DTYPES: Mapping[str, torch.dtype] = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
_NAMES = {dtype: name for name, dtype in DTYPES.items()}
_LONGEST_HEADER_BYTES = 100_000_000  # the library's own limit
_ALIGNMENT_BYTES = 8


class SafetensorsFile(TensorFile):
    """A safetensors file whose header agrees with itself and with the file's size."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        header = _read_header(path)
        metadata = header.pop("__metadata__", {})
        self.metadata = {str(key): str(value) for key, value in metadata.items()}
        self.tensors = {
            name: TensorInfo(tuple(entry["shape"]), entry["dtype"], DTYPES.get(entry["dtype"]))
            for name, entry in header.items()
        }
        with self._open():
            pass  # the library's own checks: gaps, overlaps

    def _open(self) -> Any:
        try:
            return safe_open(self.path, framework="pt")
        except (SafetensorError, OSError) as error:
            raise AdapterError(
                f"{self.path} is damaged ({error}); download it again, or make it anew."
            ) from error

    def _read(self, name: str) -> Tensor:
        with self._open() as file:
            return file.get_tensor(name)


def _read_header(path: Path) -> dict[str, Any]:
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(8)
        if len(start) < 8:
            raise AdapterError(
                f"{path} has only {size} bytes, too few for a file of weights; download it again."
            )
        (length,) = struct.unpack("<Q", start)
        if length > size - 8:
            raise AdapterError(
                f"{path} has {size} bytes, but its header claims {length} bytes: the file is cut short, or it "
                "is no safetensors, GGUF or PyTorch file. Download it again."
            )
        if length > _LONGEST_HEADER_BYTES:
            raise AdapterError(f"{path} claims a header of {length} bytes; it is no safetensors file.")
        raw = file.read(length)
    try:
        header = json.loads(raw)
    except ValueError as error:
        raise AdapterError(
            f"{path} is no safetensors, GGUF or PyTorch file, or is damaged: its header of {length} bytes "
            f"cannot be read ({error}). Download it again."
        ) from error
    if not isinstance(header, dict) or not isinstance(header.get("__metadata__", {}), dict):
        raise AdapterError(f"{path} has a safetensors header that is no table; download it again.")
    data_bytes = size - 8 - length
    for name, entry in header.items():
        if name != "__metadata__":
            _check_entry(path, name, entry, data_bytes)
    return header


def _check_entry(path: Path, name: str, entry: Any, data_bytes: int) -> None:
    try:
        dtype, shape, (begin, end) = entry["dtype"], entry["shape"], entry["data_offsets"]
        numbers_ok = all(isinstance(n, int) and n >= 0 for n in (*shape, begin, end)) and begin <= end
    except (TypeError, KeyError, ValueError):
        numbers_ok = False
    if not numbers_ok:
        raise AdapterError(
            f"{path}: the header entry of {name} makes no sense ({entry}); download the file again."
        )
    if end > data_bytes:
        raise AdapterError(
            f"{path} is cut short: {name} should end at byte {end} of the data, but there are only "
            f"{data_bytes}. Download it again."
        )
    if dtype in DTYPES and math.prod(shape) * DTYPES[dtype].itemsize != end - begin:
        raise AdapterError(
            f"{path} has a wrong header: {name} is {dtype} {shape}, which takes "
            f"{math.prod(shape) * DTYPES[dtype].itemsize} bytes, but {end - begin} are stored. Download it again."
        )


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
    for name in _order(tensors):
        tensor = read(name).contiguous()
        if tensor.dtype != tensors[name].dtype or tuple(tensor.shape) != tensors[name].shape:
            raise AssertionError(
                f"{name}: promised {tensors[name]}, got {tensor.dtype} {tuple(tensor.shape)}"
            )
        file.write(tensor.reshape(-1).view(torch.uint8).numpy().data)


def tensor_info(shape: tuple[int, ...], dtype: torch.dtype) -> TensorInfo:
    """Describe a tensor that is to be written."""
    return TensorInfo(shape, _NAMES[dtype], dtype)


def _order(tensors: Mapping[str, TensorInfo]) -> list[str]:
    # Wide dtypes first keep every tensor aligned to its own width.
    return sorted(tensors, key=lambda name: (-_itemsize(tensors[name]), name))


def _itemsize(info: TensorInfo) -> int:
    return DTYPES[info.stored_as].itemsize


def _num_bytes(info: TensorInfo) -> int:
    return math.prod(info.shape) * _itemsize(info)


def _header(tensors: Mapping[str, TensorInfo], metadata: Mapping[str, str]) -> bytes:
    header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    begin = 0
    for name in _order(tensors):
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
