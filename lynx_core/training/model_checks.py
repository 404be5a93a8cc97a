"""Whether the models and packages that a run will need are there, checked before any is loaded."""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path

import torch

from ..faces.detection import find_pack_folder, resolve_providers
from ..faces.errors import FaceError
from ..formats.adapter import open_adapter
from ..formats.base_file import BaseModelError, check_base_files, find_folder_fault
from ..formats.parts import find_parts
from ..formats.tensor_file import AdapterError, open_tensor_file
from ..models.segment_attention import BackendError, choose_backend
from .adapter_settings import find_misfits
from .assembly import DTYPES, make_analyzer
from .configuration import DataConfig, TrainingConfig
from .configuration_file import ConfigurationError
from .estimate import BaseShape, read_base_shape
from .optimizer import has_muon

_COMPUTING_PACKAGES = ("comfyui-lynx", "torch", "diffusers", "accelerate", "torchao", "bitsandbytes")
_OPTIMIZER_PACKAGES = {"adamw8bit_bitsandbytes": "bitsandbytes", "adamw8bit_torchao": "torchao"}


def find_model_problems(config: TrainingConfig, world_size: int = 1) -> list[str]:
    """A sentence for each package or model that is missing, incomplete or does not fit so many processes."""
    problems = [
        *_find_package_problems(config),
        *_ask(check_base_files, config.base.transformer),
        *_find_folder_problems(config.data),
        *_find_face_problems(config.data),
    ]
    use_gpu = config.run.device == "auto" and torch.cuda.is_available()
    device = torch.device("cuda" if use_gpu else "cpu")
    problems += _ask(choose_backend, device, DTYPES[config.base.dtype], config.base.attention)
    problems += [*_find_process_problems(config, world_size), *_find_compiler_problems(config, device)]
    return [*problems, *_find_adapter_problems(config)]


def _find_process_problems(config: TrainingConfig, world_size: int) -> Iterator[str]:
    """Numbers of processes that do not divide as they must."""
    size = config.distributed.sequence_parallel_size
    if world_size % size:
        yield (
            f"distributed.sequence_parallel_size is {size}, and the number of processes is {world_size}, no multiple of it; "
            f"start a multiple (torchrun --nproc-per-node {size} -m lynx_core.cli.main train CONFIG), or set another"
        )
    shards = config.distributed.shard_size
    if shards and world_size % shards:
        yield (
            f"distributed.shard_size is {shards}, and the number of processes is {world_size}, no multiple of it; start "
            "a multiple, or set 0 to shard over all"
        )
    shape = _try_base_shape(config)
    if shape is not None and shape.num_heads % size:
        fitting = [str(number) for number in range(1, shape.num_heads + 1) if shape.num_heads % number == 0]
        yield (
            f"distributed.sequence_parallel_size is {size}, which does not divide the {shape.num_heads} attention heads "
            f"of {config.base.transformer}; choose one of {', '.join(fitting)}"
        )


def _find_compiler_problems(config: TrainingConfig, device: torch.device) -> Iterator[str]:
    """What torch.compile makes its kernels with."""
    if not config.base.compile:
        return
    if device.type == "cuda" and importlib.util.find_spec("triton") is None:
        yield "base.compile needs the package triton, which comes with PyTorch for Linux; install it, or set it to false"
    compilers = (os.environ.get("CXX"), "g++", "clang++", "cl")
    if device.type == "cpu" and not any(name and shutil.which(name) for name in compilers):
        yield "base.compile needs a C++ compiler on the CPU, and there is no g++ or clang++; install one, or set it to false"


def _try_base_shape(config: TrainingConfig) -> BaseShape | None:
    """The base's shape; None for a base that is a problem of its own, told elsewhere."""
    try:
        return read_base_shape(config.base.transformer)
    except (ConfigurationError, AdapterError, OSError, ValueError, KeyError):
        return None


def _find_package_problems(config: TrainingConfig) -> Iterator[str]:
    wanted = {"accelerate": "training", "diffusers": "the base model", "transformers": "the text encoder"}
    wanted["av"] = "reading and writing videos"
    if config.base.quantisation != "none":
        wanted["torchao"] = f'base.quantisation = "{config.base.quantisation}"'
    kind = config.optimizer.kind
    if kind in _OPTIMIZER_PACKAGES:
        wanted[_OPTIMIZER_PACKAGES[kind]] = f'optimizer.kind = "{kind}"'
    for package, purpose in wanted.items():
        if importlib.util.find_spec(package) is None:
            yield f"{purpose} needs the package {package}: pip install {package}"
    if kind == "muon" and not has_muon():
        yield (
            f'optimizer.kind = "muon" needs PyTorch 2.9 or newer, this is {torch.__version__}; update it or '
            'take "adamw"'
        )
    yield from _find_tracker_problems(config.run.trackers)
    if config.run.push_to_hub:
        yield from _find_hub_problems(config.run.push_to_hub)


def _find_hub_problems(repository: str) -> Iterator[str]:
    """What would keep the adapter from being uploaded after days of training."""
    if importlib.util.find_spec("huggingface_hub") is None:
        yield "run.push_to_hub needs the package huggingface_hub: pip install huggingface_hub"
        return
    from huggingface_hub import get_token
    from huggingface_hub.utils import HFValidationError, validate_repo_id

    try:
        validate_repo_id(repository)
        is_named = repository.count("/") == 1
    except HFValidationError:
        is_named = False
    if not is_named:
        yield f'run.push_to_hub is a repository as "name/adapter", got {repository!r}'
    if get_token() is None:
        yield "run.push_to_hub needs a token of the Hugging Face Hub: run hf auth login, or set HF_TOKEN"


def _find_tracker_problems(trackers: tuple[str, ...]) -> Iterator[str]:
    """Trackers that accelerate does not know, or whose package is missing; it drops the latter silently."""
    if not trackers or importlib.util.find_spec("accelerate") is None:
        return
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS, get_available_trackers

    known = sorted(str(name) for name in LOGGER_TYPE_TO_CLASS)
    available = {str(name) for name in get_available_trackers()}
    for name in trackers:
        if name not in known:
            yield f"run.trackers: there is no tracker {name!r}; choose from {', '.join(known)}, or set run.trackers = []"
        elif name not in available:
            yield (
                f"run.trackers: the package of {name!r} is not installed: pip install {name.replace('_', '-')}, or "
                "take it out of run.trackers"
            )


def _find_folder_problems(data: DataConfig) -> Iterator[str]:
    named = {"data.vae": data.vae, "data.text_encoder": data.text_encoder}
    for key, folder in named.items():
        what = "the VAE" if key == "data.vae" else "the text encoder"
        if not folder.is_dir():
            yield (
                f"{what} is not at {folder} ({key}); name the folder of its config.json and weights, as in "
                "Wan-AI/Wan2.1-T2V-14B-Diffusers"
            )
            continue
        fault = find_folder_fault(folder)
        if fault is not None:
            yield f"{what} in {folder} ({key}) is incomplete: {fault}; download the folder again"
    if not data.tokenizer.is_dir():
        yield (
            f"the tokenizer is not at {data.tokenizer} (data.tokenizer); name the folder of tokenizer_config.json, "
            "as in Wan-AI/Wan2.1-T2V-14B-Diffusers"
        )
    elif not any(data.tokenizer.glob("tokenizer*.json")) and not any(data.tokenizer.glob("*.model")):
        yield f"{data.tokenizer} (data.tokenizer) holds no tokenizer; download the folder again"


def _find_face_problems(data: DataConfig) -> Iterator[str]:
    if data.face_recogniser is not None:
        if not data.face_recogniser.is_file():
            yield (
                f"the face recogniser is not at {data.face_recogniser} (data.face_recogniser); fetch it with: comfy-lynx "
                "download faces"
            )
        elif not data.face_recogniser.stat().st_size:
            yield f"{data.face_recogniser} (data.face_recogniser) has 0 bytes; fetch it again: comfy-lynx download faces"
    if data.face_models is not None:
        yield from _ask(find_pack_folder, data.face_models, data.face_model_pack)
        yield from _ask(resolve_providers, (data.face_provider,))


def _find_adapter_problems(config: TrainingConfig) -> Iterator[str]:
    settings = config.adapter
    if settings.resampler_init is not None:
        yield from _ask(_check_resampler, settings.resampler_init)
    if not settings.init:
        return
    try:
        opened = open_adapter(*settings.init)
    except AdapterError as error:
        yield f"adapter.init: {error}"
        return
    shape = _try_base_shape(config)
    if shape is None:
        return
    try:
        recogniser = make_analyzer(config.data).recogniser.name if settings.has_id else None
    except FaceError as error:
        recogniser = None
        if config.data.face_recogniser is not None and config.data.face_recogniser.is_file():
            yield f"data.face_recogniser: {error}"
    yield from find_misfits(settings, opened, shape.dim, shape.num_blocks, recogniser)


def _check_resampler(path: Path) -> None:
    if not path.is_file():
        raise AdapterError(
            f"adapter.resampler_init: there is no file at {path}; fetch InstantID's: hf download "
            f"InstantX/InstantID ip-adapter.bin --local-dir {path.parent}"
        )
    if not any(part.kind == "resampler" for part in find_parts(open_tensor_file(path))):
        raise AdapterError(
            f"adapter.resampler_init: {path} holds no resampler; give InstantID's ip-adapter.bin or "
            "resampler.safetensors"
        )


def _ask(check: Callable[..., object], *arguments: object) -> list[str]:
    try:
        check(*arguments)
    except (AdapterError, BackendError, BaseModelError, FaceError, ConfigurationError) as error:
        return [str(error)]
    except (OSError, ValueError, KeyError) as error:  # a config.json that is none
        shown = ", ".join(str(value) for value in arguments if isinstance(value, (Path, os.PathLike)))
        return [f"{shown} cannot be read ({error}); download it again"]
    return []


def collect_versions() -> dict[str, str]:
    """Versions of what computes."""
    versions = {"python": platform.python_version()}
    for package in _COMPUTING_PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return versions
