"""A Lynx adapter put together from files of any layout, its weights left on disk until read.

Opening reads headers only (kilobytes of up to 8.7 GB); a block is read when it is asked for,
and nothing is kept. Resampler, ID layers and reference layers may come from different files:
full reference layers with lite ID layers is what many people run.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor, nn

from ..hashing import add_file_samples
from ..models.adapter_configs import PART_KINDS, PART_NAMES, AdapterConfigs, PartKind, find_misfit
from ..models.adapters import (
    IDAdapterConfig,
    IDAdapterLayer,
    RefAdapterConfig,
    RefAdapterLayer,
    Resampler,
    ResamplerConfig,
)
from ..spec import RELEASE_RECOGNISER
from . import layouts
from .parts import AdapterPart, find_parts
from .tensor_file import TENSOR_FILE_SUFFIXES, AdapterError, open_tensor_file

_SAMPLES, _SAMPLE_BYTES = 64, 4096

_Config = TypeVar("_Config", ResamplerConfig, IDAdapterConfig, RefAdapterConfig)
_Module = TypeVar("_Module", bound=nn.Module)


class Adapter:
    """An opened adapter: what it is made of, and a way to read its weights.

    Attributes:
        name: for people, from file and folder names.
        recogniser: the face recogniser that the resampler was trained on.
        fingerprint: hash over the headers and samples of the bytes; the same files give the
            same fingerprint wherever they lie.
        configs: of the parts; also as `resampler`, `id` and `ref`, None where there is no such part.
        parts: where each part lies.
    """

    def __init__(self, name: str, parts: Sequence[AdapterPart]) -> None:
        self.name = name
        by_kind = {part.kind: part for part in parts}
        self.parts: Mapping[PartKind, AdapterPart] = {
            kind: by_kind[kind] for kind in PART_KINDS if kind in by_kind
        }
        self.configs = AdapterConfigs(
            resampler=_config(self.parts.get("resampler"), ResamplerConfig),
            id=_config(self.parts.get("id"), IDAdapterConfig),
            ref=_config(self.parts.get("ref"), RefAdapterConfig),
        )
        self.resampler, self.id, self.ref = self.configs.resampler, self.configs.id, self.configs.ref
        self.recogniser = self.parts["resampler"].recogniser if self.resampler else RELEASE_RECOGNISER
        self.fingerprint = _fingerprint(parts)

    def load_resampler(self) -> Resampler:
        """Load the resampler: float32, CPU, ready for inference.

        Raises:
            AdapterError: when there is none, or a weight is not finite.
        """
        if self.resampler is None:
            raise AdapterError(f"{self.name} has no resampler; add one to encode an ID.")
        with torch.device("meta"):
            resampler = Resampler(self.resampler)
        return self._fill(resampler, "resampler", None)

    def read_id_layer(self, block: int) -> IDAdapterLayer:
        """Read the ID layer of one block: float32, CPU.

        Raises:
            AdapterError: when the block has none, or a weight is not finite.
        """
        if self.id is None or block not in self.id.blocks:
            raise AdapterError(f"{self.name} has no ID layer for block {block}; {_blocks_shown(self.id)}.")
        with torch.device("meta"):
            layer = IDAdapterLayer(self.id)
        return self._fill(layer, "id", block)

    def read_ref_layer(self, block: int) -> RefAdapterLayer:
        """Read the reference layer of one block: float32, CPU.

        Raises:
            AdapterError: when the block has none, or a weight is not finite.
        """
        if self.ref is None or block not in self.ref.blocks:
            raise AdapterError(
                f"{self.name} has no reference layer for block {block}; {_blocks_shown(self.ref)}."
            )
        with torch.device("meta"):
            layer = RefAdapterLayer(self.ref)
        return self._fill(layer, "ref", block)

    def read_tensor(self, kind: PartKind, name: str) -> Tensor:
        """Read one tensor by its canonical name, in the file's dtype (quantised GGUF: float16).

        Raises:
            AdapterError: when a value is NaN or infinite, or the file cannot be read.
        """
        part = self.parts[kind]
        tensor = part.file.read(part.names[name]).reshape(part.shapes[name])
        wide = tensor.float() if tensor.element_size() == 1 else tensor
        if not torch.isfinite(wide).all():
            bad = int((~torch.isfinite(wide)).sum())
            raise AdapterError(
                f"{part.file.path}: {part.names[name]} holds {bad} values that are NaN or infinite; the file is "
                "damaged, download it again."
            )
        return tensor

    def summary(self) -> str:
        """Describe the adapter in a few lines, one a part."""
        lines = [f"{self.name} (recogniser {self.recogniser})"]
        for kind, part in self.parts.items():
            dtypes = sorted({part.file.tensors[source].stored_as for source in part.names.values()})
            lines.append(f"  {PART_NAMES[kind]}: {_config_shown(part)}, {'/'.join(dtypes)}, {part.file.path}")
        return "\n".join(lines)

    def _fill(self, module: _Module, kind: PartKind, block: int | None) -> _Module:
        state = {
            leaf: self.read_tensor(kind, layouts.canonical_name(kind, block, leaf)).to(
                torch.float32, copy=True
            )
            for leaf in module.state_dict()
        }
        module.load_state_dict(state, assign=True)
        return module.eval().requires_grad_(False)


def open_adapter(*paths: Path | str, name: str | None = None) -> Adapter:
    """Open an adapter from files and folders, whatever their layouts.

    Args:
        paths: files, or folders that hold the parts; any mix.
        name: for people; by default made from the paths.

    Raises:
        AdapterError: when a file is no adapter, two give the same part, or parts do not fit.
    """
    if not paths:
        raise AdapterError("No adapter file was given; choose a release folder or at least one file.")
    files = [file for path in paths for file in _files_of(Path(path))]
    parts = [part for file in files for part in find_parts(open_tensor_file(file))]
    _check_mix(parts)
    return Adapter(name or " + ".join(_display_name(Path(path)) for path in paths), parts)


def _files_of(path: Path) -> list[Path]:
    if not path.exists():
        raise AdapterError(
            f"{path} does not exist. Put the adapter's files there, or fetch them with: python -m lynx_core.cli.main download lynx_full"
        )
    if path.is_file():
        return [path]
    files = sorted(
        file
        for file in path.iterdir()
        if file.suffix.lower() in TENSOR_FILE_SUFFIXES and not file.name.startswith(".") and file.is_file()
    )
    if not files:
        raise AdapterError(
            f"The folder {path} holds no file of weights ({', '.join(TENSOR_FILE_SUFFIXES)}). "
            "Fetch the release with: python -m lynx_core.cli.main download lynx_full"
        )
    return files


def _display_name(path: Path) -> str:
    return path.resolve().name if path.is_dir() else path.stem


def _check_mix(parts: Iterable[AdapterPart]) -> None:
    by_kind: dict[PartKind, AdapterPart] = {}
    for part in parts:
        other = by_kind.setdefault(part.kind, part)
        if other is not part:
            raise AdapterError(
                f"Two files hold {PART_NAMES[part.kind]}: {other.file.path} and {part.file.path}. Give only one."
            )
    resampler, layers, ref = (by_kind.get(kind) for kind in PART_KINDS)
    resampler_config, layers_config = _config(resampler, ResamplerConfig), _config(layers, IDAdapterConfig)
    ref_config = _config(ref, RefAdapterConfig)
    misfit = find_misfit(resampler_config, layers_config, ref_config)
    if misfit == "no resampler" and layers:
        raise AdapterError(
            f"{layers.file.path} holds ID layers, but no file holds their resampler. Add resampler.safetensors of "
            f"{_release_of(layers)} (Kijai: {_release_of(layers)}_resampler_fp32.safetensors)."
        )
    if misfit == "no ID layers" and resampler:
        raise AdapterError(
            f"{resampler.file.path} holds a resampler, but no file holds the ID layers it feeds. Add "
            "ip_layers.safetensors of the same release (Kijai: ..._ip_layers_fp16.safetensors)."
        )
    if misfit == "token width" and resampler_config and layers_config:
        release = _release_of(by_kind["id"])
        raise AdapterError(
            f"The resampler in {by_kind['resampler'].file.path} puts out tokens of width "
            f"{resampler_config.output_dim}, but the ID layers in {by_kind['id'].file.path} take width "
            f"{layers_config.token_dim}: full and lite files are mixed up. These are {release} layers; use the "
            f"{release} resampler with them."
        )
    if misfit == "base width" and layers_config and ref_config:
        raise AdapterError(
            f"The ID layers in {by_kind['id'].file.path} are for a base model of width {layers_config.dim}, the "
            f"reference layers in {by_kind['ref'].file.path} for width {ref_config.dim}: they belong to different "
            "base models. Use files made for the same one."
        )


def _config(part: AdapterPart | None, kind: type[_Config]) -> _Config | None:
    if part is None:
        return None
    assert isinstance(part.config, kind)  # find_parts gives each kind of part its own configuration
    return part.config


def _release_of(layers: AdapterPart) -> str:
    lite = isinstance(layers.config, IDAdapterConfig) and layers.config.is_lite
    return "lynx_lite" if lite else "lynx_full"


def _config_shown(part: AdapterPart) -> str:
    config = part.config
    if isinstance(config, ResamplerConfig):
        return f"{config.num_queries} tokens of width {config.output_dim}"
    variant = f"{_release_of(part)} kind, " if isinstance(config, IDAdapterConfig) else ""
    return f"{variant}{len(config.blocks)} blocks of width {config.dim}"


def _blocks_shown(config: IDAdapterConfig | RefAdapterConfig | None) -> str:
    return "it has no such layers at all" if config is None else f"it has blocks {list(config.blocks)}"


def _fingerprint(parts: Iterable[AdapterPart]) -> str:
    digest = hashlib.sha256()
    for part in sorted(parts, key=lambda part: part.kind):
        digest.update(f"{part.kind} {part.config} {part.recogniser}".encode())
        for name in sorted(part.names):
            digest.update(f"{name} {part.file.tensors[part.names[name]]}".encode())
        add_file_samples(digest, part.file.path, _SAMPLES, _SAMPLE_BYTES)
    return digest.hexdigest()
