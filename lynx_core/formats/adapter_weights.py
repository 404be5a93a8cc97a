"""The trainable adapter's weights from and to files.

Reads an opened adapter of any layout whole, and writes this pack's single file.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import torch
from torch import Tensor, nn

from ..models.adapter_configs import PartConfig, PartKind
from ..models.adapter_modules import AdapterModules
from . import single_file
from .adapter import Adapter
from .conversion import write_together
from .layouts import canonical_name
from .parts import find_parts
from .safetensors_writer import order_tensors, safetensors_bytes, tensor_info, write_safetensors
from .tensor_file import AdapterError, TensorInfo, open_tensor_file


@dataclass(frozen=True)
class ResamplerStart:
    """What `init_resampler` took from a file."""

    recogniser: str
    """That the file's resampler was trained on."""
    left_out: tuple[str, ...]
    """Tensors of this resampler that the file does not fit or does not have; they stay as they were."""


def load_modules(adapter: Adapter) -> AdapterModules:
    """Read all of an opened adapter, in float32, to train it further.

    Raises:
        AdapterError: when a weight is not finite, or a file was changed.
    """
    with torch.device("meta"):
        modules = AdapterModules(adapter.configs, adapter.recogniser)
    for kind, part in adapter.parts.items():
        for name in part.names:
            stored = adapter.read_tensor(kind, name)
            modules.stored_dtypes[name] = stored.dtype
            owner, _, leaf = name.rpartition(".")
            setattr(modules.get_submodule(owner), leaf, nn.Parameter(stored.to(torch.float32, copy=True)))
    return modules


def save_modules(
    modules: AdapterModules,
    path: Path | str,
    *,
    dtype: torch.dtype | None = None,
    read: Callable[[str], Tensor] | None = None,
    overwrite: bool = False,
) -> None:
    """Write an adapter as this pack's single file, with configuration and recogniser in it.

    Args:
        dtype: to store in; by default what each tensor was read in, float32 if it is new.
        read: gives the weights of a canonical name instead of the module's own, one at a time and in the
            order of `list_in_order`.

    Raises:
        AdapterError: when the file is there already, a weight is not finite, or the disk
            is full or refuses.
    """
    infos = _describe(modules, dtype)

    def convert(name: str) -> Tensor:
        tensor = (read or modules.canonical_tensor)(name).to(infos[name].dtype)
        if not torch.isfinite(tensor.float()).all():
            raise AdapterError(
                f"{name} holds values that are NaN or infinite in {tensor.dtype}, so {path} was not written; "
                "save in a wider dtype, or go back to an earlier checkpoint."
            )
        return tensor

    _write_single_file(path, infos, convert, modules.configs.parts, modules.recogniser, overwrite)


def list_in_order(modules: AdapterModules, dtype: torch.dtype | None = None) -> list[str]:
    """Canonical names in the order in which `save_modules` writes them."""
    return order_tensors(_describe(modules, dtype))


def _describe(modules: AdapterModules, dtype: torch.dtype | None) -> dict[str, TensorInfo]:
    return {
        name: tensor_info(shape, dtype or modules.stored_dtypes[name])
        for name, shape in modules.canonical_shapes().items()
    }


def init_resampler(modules: AdapterModules, path: Path | str) -> ResamplerStart:
    """Start an adapter's resampler from InstantID's `ip-adapter.bin` or a release's resampler.

    Takes every tensor whose name and shape fit.

    Raises:
        AdapterError: when the adapter or the file has no resampler, or nothing fits.
    """
    if modules.resampler is None:
        raise AdapterError(f"this adapter has no resampler to start from {path}; it is reference only.")
    part = next((part for part in find_parts(open_tensor_file(Path(path))) if part.kind == "resampler"), None)
    if part is None:
        raise AdapterError(
            f"{path} holds no resampler; give InstantID's ip-adapter.bin or resampler.safetensors."
        )
    left_out = []
    for leaf, parameter in modules.resampler.named_parameters():
        name = canonical_name("resampler", None, leaf)
        if part.shapes.get(name) == tuple(parameter.shape):
            parameter.data.copy_(part.file.read(part.names[name]).reshape(parameter.shape))
        else:
            left_out.append(leaf)
    if len(left_out) == len(list(modules.resampler.parameters())):
        raise AdapterError(
            f"nothing of the resampler in {path} fits: it is {part.config}, this is {modules.configs.resampler}."
        )
    return ResamplerStart(part.recogniser, tuple(left_out))


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
    infos = {name: tensor_info(tuple(tensor.shape), tensor.dtype) for name, tensor in tensors.items()}
    _write_single_file(path, infos, tensors.__getitem__, configs, recogniser, overwrite)


def _write_single_file(
    path: Path | str,
    infos: Mapping[str, TensorInfo],
    read: Callable[[str], Tensor],
    configs: Mapping[PartKind, PartConfig],
    recogniser: str,
    overwrite: bool,
) -> None:
    path = Path(path)
    if path.exists() and not overwrite:
        raise AdapterError(f"{path} is already there; choose another name, or allow it with overwrite.")
    metadata = single_file.make_metadata({str(kind): config for kind, config in configs.items()}, recogniser)
    num_bytes = safetensors_bytes(infos, metadata)

    def write(raw: BinaryIO) -> None:
        write_safetensors(raw, infos, lambda name: read(name).detach().cpu(), metadata)

    write_together([(path, num_bytes, write)])
