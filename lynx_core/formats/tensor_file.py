"""One small interface for reading tensors from a file of any container.

Opening reads the header only: names, shapes, dtypes. `read` fetches one tensor. The container
(safetensors, GGUF, pickle) is told by the first bytes, never by the file name.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from .errors import AdapterError

TENSOR_FILE_SUFFIXES = (".safetensors", ".sft", ".gguf", ".pt", ".pth", ".bin", ".ckpt")
"""What to look at in a folder; a file that is named outright may be called anything."""

_MAGIC_GGUF = b"GGUF"
_MAGIC_ZIP = b"PK\x03\x04"
_MAGIC_PICKLE = b"\x80"
_SAFETENSORS_BRACE = b"{"
_NOT_WEIGHTS = (
    (
        b"version https://git-lfs",
        "a Git LFS pointer, not the weights; run `git lfs pull` or download the file itself",
    ),
    (b"<", "a web page, not weights; the download link gave an HTML page, download the file itself"),
)


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
        from .gguf_file import GGUFFile

        return GGUFFile(path)
    # The length in front of a safetensors header may look like any other magic number, so the
    # brace that opens the header decides before these.
    if len(head) > 8 and head[8:9] != _SAFETENSORS_BRACE:
        for magic, meaning in _NOT_WEIGHTS:
            if head.lstrip().startswith(magic):
                raise AdapterError(f"{path} is {meaning}.")
        if head.startswith((_MAGIC_ZIP, _MAGIC_PICKLE)):
            from .pickle_file import PickleFile

            return PickleFile(path, zipped=head.startswith(_MAGIC_ZIP))
    from .safetensors_file import SafetensorsFile

    return SafetensorsFile(path)


def _stamp(path: Path) -> tuple[int, int]:
    try:
        stat = path.stat()
    except OSError as error:
        raise AdapterError(f"{path} cannot be read: {error.strerror or error}.") from error
    return stat.st_size, stat.st_mtime_ns
