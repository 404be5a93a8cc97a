"""Writes an adapter in any layout that can express it.

Tensors keep their bytes (quantised GGUF becomes float16). All files of a conversion are written
before the first is put in its place.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from ..durable_file import write_aside
from ..models.adapter_configs import PART_NAMES, PartKind
from ..spec import RELEASE_RECOGNISER
from . import layouts, single_file
from .adapter import Adapter
from .layouts import OWN_LAYOUT, WRITABLE_LAYOUTS
from .parts import AdapterPart, infer_key_norm
from .safetensors_writer import safetensors_bytes, tensor_info, write_safetensors
from .tensor_file import AdapterError, TensorInfo

_FILE_NAMES: Mapping[str, Mapping[PartKind, str]] = {
    "release": {
        "resampler": "resampler.safetensors",
        "id": "ip_layers.safetensors",
        "ref": "ref_layers.safetensors",
    },
    "kijai": {
        "resampler": "lynx_{variant}_resampler_{dtype}.safetensors",
        "id": "Wan2_1-T2V-14B-Lynx_{variant}_ip_layers_{dtype}.safetensors",
        "ref": "Wan2_1-T2V-14B-Lynx_{variant}_ref_layers_{dtype}.safetensors",
    },
    "wan2gp": {
        "resampler": "wan2.1_lynx_{variant}_arc_resampler.safetensors",
        "id": "wan2.1_lynx_{variant}_module_14B_{dtype}.safetensors",
        "ref": "wan2.1_lynx_{variant}_module_14B_{dtype}.safetensors",
    },
}
"""Names of the files in the destination folder; parts with the same name share a file."""

_DTYPE_NAMES = {torch.float32: "fp32", torch.float16: "fp16", torch.bfloat16: "bf16", torch.float64: "fp64"}


@dataclass(frozen=True)
class _Source:
    part: AdapterPart
    name: str


@dataclass(frozen=True)
class PlannedFile:
    """A file that a conversion will write."""

    path: Path
    tensors: Mapping[str, TensorInfo]
    metadata: Mapping[str, str]
    sources: Mapping[str, _Source]

    @property
    def num_bytes(self) -> int:
        return safetensors_bytes(self.tensors, self.metadata)


def convert_adapter(
    adapter: Adapter, layout: str, destination: Path | str, *, overwrite: bool = False
) -> list[Path]:
    """Write an adapter in another layout.

    Args:
        adapter: an opened adapter.
        layout: one of WRITABLE_LAYOUTS.
        destination: a folder, made when missing; for "comfy-lynx" the file itself.
        overwrite: replace files that are there.

    Returns:
        The files written.

    Raises:
        AdapterError: when the layout cannot express the adapter, a file is there already, a
            weight is not finite, or the disk is full or refuses.
    """
    planned = plan_conversion(adapter, layout, destination)
    for file in planned:
        if file.path.exists() and not overwrite:
            raise AdapterError(
                f"{file.path} is already there; choose another destination, or allow it with --overwrite."
            )
    _check_space(planned)
    write_together([(file.path, file.num_bytes, _writer(adapter, file)) for file in planned])
    return [file.path for file in planned]


def plan_conversion(adapter: Adapter, layout: str, destination: Path | str) -> list[PlannedFile]:
    """Work out which files a conversion would write; reads and writes nothing.

    Raises:
        AdapterError: when the layout is unknown or cannot express the adapter.
    """
    if layout not in WRITABLE_LAYOUTS:
        raise AdapterError(
            f"There is no layout {layout!r} to write; choose one of {', '.join(WRITABLE_LAYOUTS)}."
        )
    _check_expressible(adapter, layout)
    files: dict[Path, dict[str, _Source]] = {}
    for kind, part in adapter.parts.items():
        path = _file_path(adapter, part, layout, Path(destination))
        sources = files.setdefault(path, {})
        for canonical in part.names:
            sources[_written_name(adapter, kind, layout, canonical)] = _Source(part, canonical)
    metadata: Mapping[str, str] = {}
    if layout == OWN_LAYOUT:
        configs: dict[str, Any] = {kind: part.config for kind, part in adapter.parts.items()}
        metadata = single_file.make_metadata(configs, adapter.recogniser)
    return [
        PlannedFile(
            path, {name: _written_info(source) for name, source in sources.items()}, metadata, sources
        )
        for path, sources in files.items()
    ]


def _check_expressible(adapter: Adapter, layout: str) -> None:
    if layout == OWN_LAYOUT:
        return
    way_out = f"Use the layout {OWN_LAYOUT}, which keeps everything."
    if adapter.recogniser != RELEASE_RECOGNISER:
        raise AdapterError(
            f"{adapter.name} belongs to the recogniser {adapter.recogniser}, and the layout {layout} cannot say so. {way_out}"
        )
    config = adapter.id
    if config and config.key_norm != infer_key_norm(config.has_bias, config.num_registers):
        raise AdapterError(
            f"{adapter.name} has ID layers with key_norm {config.key_norm!r}, has_bias {config.has_bias} and "
            f"{config.num_registers} registers; the layout {layout} would read them as the other variant. {way_out}"
        )
    if layout != "release":
        return
    checks: tuple[tuple[PartKind, tuple[int, ...], int], ...] = (
        ("id", config.blocks if config else (), 2 if config and config.is_lite else 1),
        ("ref", adapter.ref.blocks if adapter.ref else (), 1),
    )
    for kind, blocks, step in checks:
        if list(blocks) != [step * entry for entry in range(len(blocks))]:
            raise AdapterError(
                f"{adapter.name} has {PART_NAMES[kind]} for blocks {list(blocks)}, and the layout release only knows "
                f"every block from 0 in steps of {step}. {way_out}"
            )


def _written_name(adapter: Adapter, kind: PartKind, layout: str, canonical: str) -> str:
    form = layouts.key_form(layout, kind)
    match = layouts.match_key(canonical)
    assert match is not None  # canonical names are of a known layout
    number = match.number
    lite = kind == "id" and adapter.id is not None and adapter.id.is_lite
    if form.numbering == "entries" and lite and number is not None:
        number //= 2
    return form.key(number, match.leaf)


def _written_info(source: _Source) -> TensorInfo:
    stored = source.part.file.tensors[source.part.names[source.name]]
    assert stored.dtype is not None  # find_parts refuses what cannot be read
    return tensor_info(source.part.shapes[source.name], stored.dtype)


def _file_path(adapter: Adapter, part: AdapterPart, layout: str, destination: Path) -> Path:
    if layout == OWN_LAYOUT:
        if destination.is_dir():
            raise AdapterError(f"{destination} is a folder; the layout {OWN_LAYOUT} is one file, name that.")
        return destination
    if destination.exists() and not destination.is_dir():
        raise AdapterError(f"{destination} is a file; the layout {layout} is a folder of files, name that.")
    lite = adapter.id is not None and adapter.id.is_lite
    variant = "lite" if lite and part.kind != "ref" else "full"
    first = part.file.tensors[next(iter(part.names.values()))].dtype
    dtype = _DTYPE_NAMES.get(first, "fp8") if first else ""
    return destination / _FILE_NAMES[layout][part.kind].format(variant=variant, dtype=dtype)


def _check_space(planned: Sequence[PlannedFile]) -> None:
    needed = sum(file.num_bytes for file in planned)
    folder = planned[0].path.parent
    existing = next(parent for parent in (folder, *folder.absolute().parents) if parent.exists())
    free = shutil.disk_usage(existing).free
    if free < needed:
        raise AdapterError(
            f"{folder} has {free:,} bytes free, and {needed:,} are needed; make room or choose another disk."
        )


def _writer(adapter: Adapter, file: PlannedFile) -> Callable[[BinaryIO], None]:
    def read(name: str) -> Tensor:
        source = file.sources[name]
        return adapter.read_tensor(source.part.kind, source.name)

    return lambda raw: write_safetensors(raw, file.tensors, read, file.metadata)


def write_together(files: Sequence[tuple[Path, int, Callable[[BinaryIO], None]]]) -> None:
    """Write several files, and put them in place only when all are complete."""
    current = files[0]
    try:
        with write_aside(*(path for path, _, _ in files)) as aside:
            for hidden, current in zip(aside, files, strict=True):
                with hidden.open("wb") as raw:
                    current[2](raw)
    except OSError as error:
        path, num_bytes, _ = current
        raise AdapterError(
            f"{path} ({num_bytes:,} bytes) could not be written: {error.strerror or error}. No half-written "
            "file is left; make room or choose another place, and try again."
        ) from error
