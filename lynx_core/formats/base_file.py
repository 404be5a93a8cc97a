"""Base models from disk: diffusers folders and the original weights, checked before they are loaded."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..foreign_text import parse_json
from ..models.frozen_base import WanTransformer, freeze
from ..spec import LynxError
from .layouts import name_quantisation, strip_prefix
from .tensor_file import AdapterError, TensorFile, open_tensor_file

_HEAD_DIM = 128
_OTHER_KINDS = (
    ("vace_blocks.", "a VACE model"),
    ("face_adapter.", "Wan Animate"),
    ("img_emb.", "an image-to-video model"),
    ("condition_embedder.image_embedder.", "an image-to-video model"),
)


class BaseModelError(LynxError):
    """A base model that cannot be used; says what was seen and the way out."""


def load_transformer(path: Path | str, dtype: torch.dtype) -> WanTransformer:
    """Load a Wan text-to-video transformer without the internet, frozen, on the CPU.

    Args:
        path: a diffusers folder (the transformer's or the whole pipeline's), or the original
            weights: the one file that ComfyUI users have, or a folder of its shards.
        dtype: of the weights; norms, modulation and the timestep embedding stay in float32.

    Raises:
        BaseModelError: when there is no such model, it is of another kind, or is incomplete.
    """
    check_base_files(path)
    path = Path(path)
    folder = path / "transformer" if (path / "transformer").is_dir() else path
    if _is_diffusers_folder(folder):
        from diffusers import WanTransformer3DModel

        transformer = WanTransformer3DModel.from_pretrained(folder, torch_dtype=dtype, local_files_only=True)
        return freeze(transformer)
    return freeze(_build_transformer(_read_weights(_list_weights(path)), dtype, path))


def _is_diffusers_folder(folder: Path) -> bool:
    return (folder / "config.json").is_file() and read_base_config(folder).get(
        "_class_name"
    ) == "WanTransformer3DModel"


def read_base_config(folder: Path) -> dict[str, Any]:
    """Read the config.json of a folder.

    Raises:
        BaseModelError: when it cannot be read, or is no table.
    """
    path = folder / "config.json"
    try:
        config = parse_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BaseModelError(f"{path} cannot be read ({error}); download it again") from error
    if not isinstance(config, dict):
        raise BaseModelError(f"{path} is a {type(config).__name__} instead of a table; download it again")
    return config


def check_base_files(path: Path | str) -> None:
    """Check what `load_transformer` will open, by names and headers only.

    Raises:
        BaseModelError: as `load_transformer`.
    """
    path = Path(path)
    if not path.exists():
        raise BaseModelError(
            f"there is no base model at {path}; give a diffusers folder or a .safetensors file"
        )
    folder = path / "transformer" if (path / "transformer").is_dir() else path
    if not _is_diffusers_folder(folder):
        _open_weights(_list_weights(path))
        return
    config = read_base_config(folder)
    channels = config.get("in_channels", 16), config.get("out_channels", 16)
    if config.get("image_dim") is not None or channels[0] != channels[1]:
        raise BaseModelError(
            f"{folder} is an image-to-video model (in_channels {channels[0]}, image_dim {config.get('image_dim')}); "
            "Lynx adapters are trained on a text-to-video Wan"
        )
    fault = find_folder_fault(folder)
    if fault is not None:
        raise BaseModelError(f"{folder} is no complete model: {fault}; download it again")


def find_folder_fault(folder: Path) -> str | None:
    """What is missing in a folder of config.json and weights, as diffusers and transformers write them.

    Reads names and headers only. None when it is complete.
    """
    if not (folder / "config.json").is_file():
        return "there is no config.json"
    wanted: set[str] = set()
    for index in folder.glob("*.index.json"):
        try:
            wanted |= {str(name) for name in parse_json(index.read_text())["weight_map"].values()}
        except (ValueError, KeyError, TypeError, AttributeError):
            return f"{index.name} cannot be read"
    outside = sorted(name for name in wanted if Path(name).name != name or "\\" in name)
    if outside:
        return f"an index names {outside[0]!r}, which is no file of this folder"
    missing = sorted(name for name in wanted if not (folder / name).is_file())
    if missing:
        return f"{len(missing)} of {len(wanted)} files of weights are missing, the first is {missing[0]}"
    files = [folder / name for name in sorted(wanted)] or [
        file for suffix in ("*.safetensors", "*.bin") for file in sorted(folder.glob(suffix))
    ]
    if not files:
        return "there is no file of weights (.safetensors or .bin)"
    for file in files:
        if file.suffix == ".safetensors":
            try:
                open_tensor_file(file)
            except AdapterError as error:
                return str(error).rstrip(".")
        elif not file.stat().st_size:
            return f"{file.name} has 0 bytes"
    return None


def _list_weights(path: Path) -> list[Path]:
    files = [path] if path.is_file() else sorted(path.glob("*.safetensors"))
    if not files:
        raise BaseModelError(
            f"{path} holds no config.json of diffusers and no .safetensors file; it is no base model"
        )
    return files


def _read_weights(files: Sequence[Path]) -> dict[str, Tensor]:
    """Read original or diffusers weights; gives diffusers' names."""
    weights = {strip_prefix(name): file.read(name) for file in _open_weights(files) for name in file.tensors}
    if "condition_embedder.time_proj.weight" in weights:
        return weights
    from diffusers.loaders.single_file_utils import convert_wan_transformer_to_diffusers

    return convert_wan_transformer_to_diffusers(weights)


def _open_weights(files: Sequence[Path]) -> list[TensorFile]:
    """Open files of original or diffusers weights, and check by their names that they are a base."""
    opened = []
    for path in files:
        if path.suffix.lower() == ".gguf":
            raise BaseModelError(
                f"{path} is a GGUF, which is for inference; train on the .safetensors of the same base"
            )
        try:
            file = open_tensor_file(path)
        except AdapterError as error:
            raise BaseModelError(str(error)) from error
        quantisation = name_quantisation(file.tensors)
        if quantisation:
            raise BaseModelError(
                f"{path} is quantised as {quantisation}; give the bf16 or fp16 file, it can be quantised when loaded"
            )
        opened.append(file)
    names = {strip_prefix(name) for file in opened for name in file.tensors}
    for prefix, kind in _OTHER_KINDS:
        if any(name.startswith(prefix) for name in names):
            raise BaseModelError(f"{files[0]} is {kind}; Lynx adapters are trained on a text-to-video Wan")
    if not names & {"condition_embedder.time_proj.weight", "head.modulation"}:
        raise BaseModelError(
            f"{files[0]} is no Wan transformer: head.modulation is missing, it holds {', '.join(sorted(names)[:3])}"
        )
    return opened


def _build_transformer(weights: Mapping[str, Tensor], dtype: torch.dtype, path: Path) -> WanTransformer:
    from accelerate import init_empty_weights
    from diffusers import WanTransformer3DModel

    try:
        config = _infer_config({name: tuple(tensor.shape) for name, tensor in weights.items()})
        with init_empty_weights():
            transformer: WanTransformer = WanTransformer3DModel(**config)
        wide = set(WanTransformer3DModel._keep_in_fp32_modules)
        state = {
            name: tensor.to(torch.float32 if wide & set(name.split(".")) else dtype)
            for name, tensor in weights.items()
        }
        transformer.load_state_dict(state, assign=True)
    except (KeyError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:300]
        raise BaseModelError(
            f"{path} is an incomplete or unknown kind of Wan ({reason}); download it again"
        ) from error
    return transformer


def _infer_config(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
    dim, in_channels, *patch_size = shapes["patch_embedding.weight"]
    return {
        "patch_size": tuple(patch_size),
        "num_attention_heads": dim // _HEAD_DIM,
        "attention_head_dim": _HEAD_DIM,
        "in_channels": in_channels,
        "out_channels": shapes["proj_out.weight"][0] // math.prod(patch_size),
        "text_dim": shapes["condition_embedder.text_embedder.linear_1.weight"][1],
        "freq_dim": shapes["condition_embedder.time_embedder.linear_1.weight"][1],
        "ffn_dim": shapes["blocks.0.ffn.net.0.proj.weight"][0],
        "num_layers": 1 + max(int(name.split(".")[1]) for name in shapes if name.startswith("blocks.")),
    }
