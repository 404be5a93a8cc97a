"""One small interface for reading tensors from a file of any container.

Opening reads the header only: names, shapes, dtypes. `read` fetches one tensor. The container
(safetensors, GGUF, pickle) is told by the first bytes, never by the file name. Pickles are opened
without letting them run code; GGUF needs the optional package `gguf`.
"""

from __future__ import annotations

import math
import re
import struct
import zipfile
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ..foreign_text import parse_json
from ..spec import LynxError
from .gguf_header import check_gguf_header

TENSOR_FILE_SUFFIXES = (".safetensors", ".sft", ".gguf", ".pt", ".pth", ".bin", ".ckpt")
"""What to look at in a folder; a file that is named outright may be called anything."""

_MAGIC_GGUF = b"GGUF"
_MAGIC_ZIP = b"PK\x03\x04"
_MAGIC_PICKLE = b"\x80"
_SAFETENSORS_BRACE = b"{"
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
_LONGEST_HEADER_BYTES = 16_000_000
"""Wan 14B has 0.1 MB. The library's own limit of 100 MB would take 2 GB of memory to read."""

_GGUF_DTYPES = {"F32": torch.float32, "F16": torch.float16, "F64": torch.float64, "BF16": torch.bfloat16}
_GGUF_QUANTISED_TO = torch.float16
_GGUF_INTEGERS = ("I8", "I16", "I32", "I64")
_GGUF_SHAPE = "comfy.gguf.orig_shape."
"""Metadata of ComfyUI-GGUF's converter for tensors it had to reshape."""

_NOT_WEIGHTS = (
    (
        b"version https://git-lfs",
        "a Git LFS pointer, not the weights; run `git lfs pull` or download the file itself",
    ),
    (b"<", "a web page, not weights; the download link gave an HTML page, download the file itself"),
)


class AdapterError(LynxError):
    """A file of weights, or a mix of files, that cannot be used."""


@dataclass(frozen=True)
class TensorInfo:
    """What a header says about one tensor."""

    shape: tuple[int, ...]
    stored_as: str
    """The container's own name of the dtype: `BF16`, `Q8_0`, ..."""
    dtype: torch.dtype | None
    """What `read` gives; None when this pack cannot read it."""


class TensorFile(ABC):
    """A file of named tensors, of which only the header has been read."""

    tensors: Mapping[str, TensorInfo]
    metadata: Mapping[str, str]

    def __init__(self, path: Path) -> None:
        self.path = path
        self._stamp = _stamp(path)

    def read(self, name: str) -> Tensor:
        """Read one tensor; it may be a view into the mapped file, so treat it as read-only.

        Raises:
            AdapterError: when the file was changed since it was opened, or cannot be read.
        """
        if _stamp(self.path) != self._stamp:
            raise AdapterError(
                f"{self.path} was changed since it was opened; open the adapter again (in ComfyUI: run again)."
            )
        tensor = self._read(name)
        expected = self.tensors[name].shape
        if tuple(tensor.shape) != expected:
            raise AdapterError(
                f"{self.path}: {name} is {list(tensor.shape)}, but the header promised {list(expected)}; "
                "download the file again."
            )
        return tensor

    @abstractmethod
    def _read(self, name: str) -> Tensor: ...


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
            raise AdapterError(
                f"{path} claims a header of {length:,} bytes, at most {_LONGEST_HEADER_BYTES:,} are read; it is no file of "
                "weights for this pack. Download it again."
            )
        raw = file.read(length)
    try:
        header = parse_json(raw)
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
        numbers_ok = numbers_ok and isinstance(dtype, str)
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


class _GGUFFile(TensorFile):
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
            check_gguf_header(path)
            reader = gguf.GGUFReader(path)
        except Exception as error:  # the package raises whatever numpy does on a damaged file
            raise AdapterError(
                f"{path} is a damaged GGUF file of {path.stat().st_size} bytes ({error}); download it again."
            ) from error
        self.metadata = {}
        self._entries = {entry.name: entry for entry in reader.tensors}
        self.tensors = {
            name: TensorInfo(
                _gguf_shape(reader, entry), entry.tensor_type.name, _gguf_dtype(entry.tensor_type.name)
            )
            for name, entry in self._entries.items()
        }

    def _read(self, name: str) -> Tensor:
        import gguf

        entry, info = self._entries[name], self.tensors[name]
        if info.dtype in (torch.float16, torch.float32, torch.float64) and info.stored_as in _GGUF_DTYPES:
            return torch.from_numpy(np.array(entry.data)).reshape(info.shape)
        try:
            values = gguf.quants.dequantize(entry.data, entry.tensor_type)
        except NotImplementedError as error:
            raise AdapterError(
                f"{self.path}: {name} is quantised as {info.stored_as}, which the installed gguf package "
                "cannot read; update it with: pip install -U gguf"
            ) from error
        return torch.from_numpy(values).to(info.dtype).reshape(info.shape)


def _gguf_shape(reader: Any, entry: Any) -> tuple[int, ...]:
    original = reader.get_field(_GGUF_SHAPE + entry.name)
    if original is not None:
        return tuple(int(original.parts[part][0]) for part in original.data)
    return tuple(int(size) for size in reversed(entry.shape))


def _gguf_dtype(stored_as: str) -> torch.dtype | None:
    if stored_as in _GGUF_INTEGERS:
        return None
    return _GGUF_DTYPES.get(stored_as, _GGUF_QUANTISED_TO)


class _PickleFile(TensorFile):
    """A state dict, possibly nested: `{"image_proj": {"latents": ...}}` becomes `image_proj.latents`."""

    def __init__(self, path: Path, *, zipped: bool) -> None:
        """Args: zipped: PyTorch's format since 1.6, which can be mapped instead of read."""
        super().__init__(path)
        self.metadata = {}
        self._loaded = dict(_flatten(_load_pickle(path, zipped)))
        self.tensors = {
            name: TensorInfo(tuple(tensor.shape), str(tensor.dtype).removeprefix("torch."), tensor.dtype)
            for name, tensor in self._loaded.items()
        }

    def _read(self, name: str) -> Tensor:
        return self._loaded[name].detach()


def _check_archive(path: Path) -> None:
    """Refuse an archive with packed entries: mapped, they would be read as if they were the weights themselves.

    Raises:
        AdapterError, ValueError: when the archive has one, or is damaged.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            packed = [entry for entry in archive.infolist() if entry.compress_type != zipfile.ZIP_STORED]
    except (zipfile.BadZipFile, NotImplementedError, struct.error) as error:
        raise ValueError(str(error)) from error
    if packed:
        raise AdapterError(
            f"{path} is a compressed archive ({packed[0].filename}: {packed[0].file_size:,} bytes packed into "
            f"{packed[0].compress_size:,}), which PyTorch never writes; unpack it, or download the weights themselves."
        )


def _load_pickle(path: Path, zipped: bool) -> Any:
    try:
        if zipped:
            _check_archive(path)
        return torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
    except AdapterError:
        raise
    except Exception as error:  # a damaged pickle calls PyTorch's own functions with anything
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


def open_tensor_file(path: Path) -> TensorFile:
    """Open a file of any container, reading its header only.

    Raises:
        AdapterError: when it is no file of weights, is damaged, wants to run code, or needs
            a package that is missing.
    """
    try:
        with path.open("rb") as file:
            head = file.read(64)
    except OSError as error:
        raise AdapterError(f"{path} cannot be read: {error.strerror or error}.") from error
    if head.startswith(_MAGIC_GGUF):
        return _GGUFFile(path)
    # The length in front of a safetensors header may look like any other magic number, so the
    # brace that opens the header decides before these.
    if len(head) > 8 and head[8:9] != _SAFETENSORS_BRACE:
        for magic, meaning in _NOT_WEIGHTS:
            if head.lstrip().startswith(magic):
                raise AdapterError(f"{path} is {meaning}.")
        if head.startswith((_MAGIC_ZIP, _MAGIC_PICKLE)):
            return _PickleFile(path, zipped=head.startswith(_MAGIC_ZIP))
    return SafetensorsFile(path)


def _stamp(path: Path) -> tuple[int, int]:
    try:
        stat = path.stat()
    except OSError as error:
        raise AdapterError(f"{path} cannot be read: {error.strerror or error}.") from error
    return stat.st_size, stat.st_mtime_ns
