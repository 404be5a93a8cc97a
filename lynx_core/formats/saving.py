"""Writes the tensors of an adapter that is in memory as this pack's single file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from . import single_file
from .conversion import write_together
from .errors import AdapterError
from .layouts import PartKind
from .parts import PartConfig
from .safetensors_file import safetensors_bytes, tensor_info, write_safetensors


def save_single_file(
    path: Path | str,
    tensors: Mapping[str, Tensor],
    configs: Mapping[PartKind, PartConfig],
    recogniser: str,
    *,
    overwrite: bool = False,
) -> None:
    """Write a single file, complete or not at all.

    Args:
        tensors: by canonical name, in the dtype they are to be stored in.
        configs: of the parts that the tensors belong to.
        recogniser: name of the face recogniser that the resampler was trained on.

    Raises:
        AdapterError: when the file is there already, or the disk is full or refuses.
    """
    path = Path(path)
    if path.exists() and not overwrite:
        raise AdapterError(f"{path} is already there; choose another name, or allow it with overwrite.")
    infos = {name: tensor_info(tuple(tensor.shape), tensor.dtype) for name, tensor in tensors.items()}
    metadata = single_file.make_metadata({str(kind): config for kind, config in configs.items()}, recogniser)

    def read(name: str) -> Tensor:
        return tensors[name].detach().cpu()

    num_bytes = safetensors_bytes(infos, metadata)
    write_together([(path, num_bytes, lambda raw: write_safetensors(raw, infos, read, metadata))])
