"""The parts of an adapter (resampler, ID layers, reference layers) as found in one file.

Everything a header can tell is checked here: every block complete, every shape consistent,
numbering without gaps, dtypes that hold weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from ..models.adapter_configs import PART_KINDS, PART_NAMES, PartConfig, PartKind
from ..models.adapters import (
    IDAdapterConfig,
    KeyNorm,
    RefAdapterConfig,
    Resampler,
    ResamplerConfig,
    infer_resampler_config,
)
from ..spec import EMBEDDING_DIM
from . import layouts, single_file
from .layouts import KeyForm
from .tensor_file import AdapterError, TensorFile

_WEIGHT_DTYPES = (
    torch.float64,
    torch.float32,
    torch.float16,
    torch.bfloat16,
    torch.float8_e4m3fn,
    torch.float8_e5m2,
)

_SHOWN_KEYS = 3
_STORABLE_AS_3D = ("latents", "registers")
"""Leading axes of length 1, which GGUF tools drop, are put back for these."""


@dataclass(frozen=True)
class AdapterPart:
    """One part of an adapter, in one file."""

    kind: PartKind
    file: TensorFile
    form: KeyForm
    config: PartConfig
    recogniser: str
    names: Mapping[str, str]
    """Canonical name to the file's own."""
    shapes: Mapping[str, tuple[int, ...]]
    """By canonical name."""


@dataclass(frozen=True)
class _Entry:
    number: int | None
    leaf: str
    source: str
    shape: tuple[int, ...]


def find_parts(file: TensorFile) -> list[AdapterPart]:
    """Recognise what a file holds by its keys and shapes.

    Raises:
        AdapterError: when the file is no adapter, is quantised in a way that cannot be read,
            or is incomplete.
    """
    quantisation = layouts.name_quantisation(file.tensors)
    if quantisation:
        raise AdapterError(
            f"{file.path} is quantised as {quantisation}, which this pack does not read. Use the bf16 or fp16 "
            "file of the same adapter, a GGUF of it, or the release (python -m lynx_core.cli.main download lynx_full)."
        )
    found: dict[PartKind, dict[KeyForm, list[_Entry]]] = {}
    unknown = []
    for key, info in file.tensors.items():
        match = layouts.match_key(key)
        if match is None:
            unknown.append(key)
            continue
        entry = _Entry(match.number, match.leaf, key, _full_shape(match.leaf, info.shape))
        found.setdefault(match.form.part, {}).setdefault(match.form, []).append(entry)
    unknown = [key for key in unknown if not layouts.is_ignored(key)]
    if not found or unknown:
        raise _unrecognised(file, unknown, partly=bool(found))
    saved = single_file.read_saved(file)
    parts = []
    for kind in PART_KINDS:
        forms = found.get(kind, {})
        if len(forms) > 1:
            templates = " and ".join(form.template for form in forms)
            raise AdapterError(
                f"{file.path} holds {PART_NAMES[kind]} twice, as {templates}; use a file with one set."
            )
        for form, entries in forms.items():
            _check_dtypes(file, entries)
            parts.append(_build_part(file, form, entries, saved))
    single_file.check_saved(file, saved, {part.kind: part.config for part in parts})
    return parts


def infer_key_norm(has_bias: bool, num_registers: int) -> KeyNorm:
    """Tell the two published variants apart: lite has neither biases nor registers."""
    return "block" if has_bias or num_registers else "weightless"


def _unrecognised(file: TensorFile, unknown: list[str], *, partly: bool) -> AdapterError:
    lookalike = layouts.name_lookalike(unknown or list(file.tensors))
    shown = ", ".join(sorted(unknown or file.tensors)[:_SHOWN_KEYS]) or "nothing"
    if partly:
        extra = f"it looks partly like {lookalike}" if lookalike else "they belong to no known layout"
        return AdapterError(
            f"{file.path} holds {len(unknown)} other tensors beside a Lynx adapter ({shown}); {extra}. "
            "Use a file with the adapter alone."
        )
    meaning = f"It looks like {lookalike}." if lookalike else "Its keys belong to no known layout."
    return AdapterError(
        f"{file.path} is no Lynx adapter. {meaning} It holds {len(file.tensors)} tensors, such as {shown}. "
        "Adapters come with: python -m lynx_core.cli.main download lynx_full"
    )


def _check_dtypes(file: TensorFile, entries: list[_Entry]) -> None:
    for entry in entries:
        info = file.tensors[entry.source]
        if info.dtype not in _WEIGHT_DTYPES:
            raise AdapterError(
                f"{file.path}: {entry.source} is stored as {info.stored_as}, which holds no plain weights. Use "
                "the bf16 or fp16 file of the same adapter."
            )


def _full_shape(leaf: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    return (1, *shape) if leaf in _STORABLE_AS_3D and len(shape) == 2 else shape


def _build_part(
    file: TensorFile, form: KeyForm, entries: list[_Entry], saved: single_file.SavedConfig | None
) -> AdapterPart:
    names: dict[str, str] = {}
    shapes: dict[str, tuple[int, ...]] = {}
    config: PartConfig
    if form.part == "resampler":
        config = _resampler_config(file, {entry.leaf: entry.shape for entry in entries})
        blocks: Mapping[int | None, int | None] = {None: None}
    else:
        blocks, config = _layers_config(file, form, entries, saved)
    for entry in entries:
        name = layouts.canonical_name(form.part, blocks[entry.number], entry.leaf)
        if name in names:
            raise AdapterError(
                f"{file.path} holds {name} twice, as {names[name]} and {entry.source}; use a file with one set."
            )
        names[name], shapes[name] = entry.source, entry.shape
    return AdapterPart(
        form.part, file, form, config, saved.recogniser if saved else form.recogniser, names, shapes
    )


def _resampler_config(file: TensorFile, shapes: dict[str, tuple[int, ...]]) -> ResamplerConfig:
    try:
        config = infer_resampler_config(shapes)
        with torch.device("meta"):
            expected = {name: tuple(t.shape) for name, t in Resampler(config).state_dict().items()}
    except (KeyError, IndexError, ValueError) as error:
        raise AdapterError(
            f"{file.path} holds an incomplete resampler ({type(error).__name__}: {error}); download it again."
        ) from error
    for name in sorted(expected.keys() | shapes.keys()):
        if shapes.get(name) != expected.get(name):
            raise AdapterError(
                f"{file.path}: resampler tensor {name} is {_shown(shapes.get(name))}, expected "
                f"{_shown(expected.get(name))}; download the file again."
            )
    if config.embedding_dim != EMBEDDING_DIM:
        raise AdapterError(
            f"{file.path} holds a resampler for embeddings of width {config.embedding_dim}, not for face embeddings "
            f"(width {EMBEDDING_DIM}); it is of another kind of IP-Adapter. Use the Lynx resampler."
        )
    return config


def _shown(shape: tuple[int, ...] | None) -> str:
    return "missing" if shape is None else str(list(shape))


def _layers_config(
    file: TensorFile, form: KeyForm, entries: list[_Entry], saved: single_file.SavedConfig | None
) -> tuple[dict[int | None, int | None], IDAdapterConfig | RefAdapterConfig]:
    leaves = {entry.leaf for entry in entries}
    weights = sorted(leaf for leaf in _required_leaves(form.part) if leaf.endswith("weight"))
    has_bias = any(leaf.endswith("bias") for leaf in leaves)
    required = [*weights, *(_required_leaves(form.part, bias=True) if has_bias else ())]
    if "registers" in leaves:
        required.append("registers")
    numbers = sorted({entry.number for entry in entries if entry.number is not None})
    present = {(entry.number, entry.leaf): entry for entry in entries}
    expected_numbers = range(numbers[-1] + 1) if form.numbering == "entries" else numbers
    for number in expected_numbers:
        for leaf in required:
            if (number, leaf) not in present:
                raise AdapterError(
                    f"{file.path} is incomplete: {form.key(number, leaf)} is missing ({len(numbers)} blocks are "
                    "there). Download it again."
                )
    for leaf in required:
        _check_same_shape(file, [present[number, leaf] for number in numbers])
    shapes = {leaf: present[numbers[0], leaf].shape for leaf in required}
    key_norm = infer_key_norm(has_bias, "registers" in leaves)
    if saved and saved.key_norm:
        key_norm = saved.key_norm
    every_second = form.part == "id" and form.numbering == "entries" and key_norm == "weightless"
    blocks: dict[int | None, int | None] = {
        number: 2 * number if every_second else number for number in numbers
    }
    numbered = tuple(block for block in blocks.values() if block is not None)
    config = _config_from_shapes(file, form.part, shapes, numbered, key_norm)
    return blocks, config


def _required_leaves(part: PartKind, *, bias: bool = False) -> tuple[str, str]:
    suffix, kind = ("ip" if part == "id" else "ref"), ("bias" if bias else "weight")
    return f"to_k_{suffix}.{kind}", f"to_v_{suffix}.{kind}"


def _check_same_shape(file: TensorFile, entries: list[_Entry]) -> None:
    for entry in entries:
        if entry.shape != entries[0].shape:
            raise AdapterError(
                f"{file.path}: {entry.source} is {list(entry.shape)}, but {entries[0].source} is "
                f"{list(entries[0].shape)}; the file mixes two adapters. Download it again."
            )


def _config_from_shapes(
    file: TensorFile,
    part: PartKind,
    shapes: Mapping[str, tuple[int, ...]],
    blocks: tuple[int, ...],
    key_norm: KeyNorm,
) -> IDAdapterConfig | RefAdapterConfig:
    key_leaf, value_leaf = _required_leaves(part)
    weight = shapes[key_leaf]
    has_bias = any(leaf.endswith("bias") for leaf in shapes)
    num_registers = shapes["registers"][-2] if "registers" in shapes and len(shapes["registers"]) == 3 else 0
    expected = {key_leaf: weight, value_leaf: weight}
    if has_bias:
        expected |= dict.fromkeys(_required_leaves(part, bias=True), weight[:1])
    if "registers" in shapes:
        expected["registers"] = (1, num_registers, weight[-1])
    square = part == "id" or weight[0] == weight[-1]
    if len(weight) != 2 or not square or any(shapes[leaf] != shape for leaf, shape in expected.items()):
        seen = ", ".join(f"{leaf} {list(shape)}" for leaf, shape in shapes.items())
        raise AdapterError(f"{file.path}: the shapes of the {PART_NAMES[part]} do not fit together ({seen}).")
    if part == "ref":
        return RefAdapterConfig(weight[0], blocks, has_bias)
    return IDAdapterConfig(weight[0], weight[1], blocks, num_registers, has_bias, key_norm)
