"""`comfy-lynx doctor`: what is installed, what is missing, and which adapters are there."""

from __future__ import annotations

import argparse
import platform
from importlib import metadata
from pathlib import Path
from typing import Any

from ..formats.published_files import BUNDLES, Source
from .download import DownloadLock
from .models_folder import ModelFolders, add_models_argument, find_model_folders

_REQUIRED = ("torch", "numpy", "einops", "safetensors")
_OPTIONAL = {
    "insightface": "finding faces in a photo (ready-made crops still work)",
    "onnxruntime": "finding faces in a photo (ready-made crops still work)",
    "opencv-python": "cropping faces",
    "pillow": "reading photos",
    "pillow-heif": "reading HEIC photos, which phones write",
    "huggingface_hub": "comfy-lynx download",
    "gguf": "adapters in GGUF files",
}
"""Package to what does not work without it."""

_SAME_MODULE = {
    "onnxruntime": ("onnxruntime-gpu", "onnxruntime-directml", "onnxruntime-silicon"),
    "opencv-python": ("opencv-python-headless", "opencv-contrib-python", "opencv-contrib-python-headless"),
}
"""Packages that bring the same module under another name."""

_FACES_DIR = "faces"


def add_parser(verbs: Any) -> None:
    parser = verbs.add_parser(
        "doctor",
        help="check packages, model files and adapters",
        description="Prints versions, missing packages and what they disable, model files found and missing, and the "
        "adapters, in every folder that ComfyUI searches. Ends 1 when a required package is missing, or a model file "
        "or an adapter is damaged.",
    )
    add_models_argument(parser)
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    healthy = _print_packages()
    folders = find_model_folders(arguments)
    healthy &= _print_model_files(folders)
    healthy &= _print_adapters(folders.list_folders("lynx"))
    return 0 if healthy else 1


def _print_packages() -> bool:
    print(f"python {platform.python_version()} on {platform.platform()}")
    healthy = True
    for package in _REQUIRED:
        version = _find_version(package)
        healthy &= version is not None
        print(f"{package} {version or f'MISSING, nothing works without it: pip install {package}'}")
    for package, purpose in _OPTIONAL.items():
        version = _find_version(package)
        print(f"{package} {version or f'missing, which disables: {purpose}. pip install {package}'}")
    if _find_version("torch"):
        import torch

        names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
        print(f"GPU: {', '.join(names) or 'none that torch can use'}")
    return healthy


def _find_version(package: str) -> str | None:
    for name in (package, *_SAME_MODULE.get(package, ())):
        try:
            return metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return None


def _print_model_files(folders: ModelFolders) -> bool:
    print(f"\nModel files in {folders.models_dir}")
    lock = DownloadLock(folders.models_dir)
    healthy = True
    for name, bundle in BUNDLES.items():
        places = {source: folders.find_place(source.target) for source in bundle.sources}
        missing = [source.target for source, place in places.items() if not place.is_file()]
        faults = {
            place: fault
            for source, place in places.items()
            if place.is_file() and (fault := _find_fault(source, place, lock))
        }
        healthy &= not faults
        if missing:
            print(f"  {name}: {len(missing)} of {len(places)} missing; comfy-lynx download {name}")
        elif not faults:
            print(f"  {name}: complete")
        else:
            print(f"  {name}: {len(faults)} of {len(places)} unusable; comfy-lynx download {name} --replace")
        for target in missing:
            print(f"    {target}")
        for place, fault in faults.items():
            print(f"    PROBLEM: {place} {fault}")
        for source, place in places.items():
            if place.is_file() and place != folders.models_dir / source.target:
                print(f"    {source.target} is in {place.parent}")
    return healthy


def _find_fault(source: Source, place: Path, lock: DownloadLock) -> str | None:
    """What is wrong with a file, as far as its size and its header show."""
    from ..formats.tensor_file import AdapterError, open_tensor_file

    num_bytes, pin = place.stat().st_size, lock.find(source)
    expected = pin.num_bytes if pin else source.num_bytes
    if not num_bytes:
        return "is empty (0 bytes)"
    if expected and num_bytes != expected:
        return f"has {num_bytes:,} bytes instead of {expected:,}"
    if place.suffix == ".safetensors":
        try:
            open_tensor_file(place)
        except AdapterError as error:
            return str(error).removeprefix(f"{place} ")
    return None


def _print_adapters(lynx_dirs: list[Path]) -> bool:
    healthy = True
    seen: dict[str, Path] = {}
    for lynx_dir in lynx_dirs:
        print(f"\nAdapters in {lynx_dir}")
        for path in sorted(lynx_dir.iterdir()) if lynx_dir.is_dir() else ():
            healthy &= _print_adapter(path, seen)
    return healthy


def _print_adapter(path: Path, seen: dict[str, Path]) -> bool:
    """Print a line about an adapter's file or folder; `seen` gets its name, and tells of earlier ones."""
    from ..formats.adapter import open_adapter
    from ..formats.parts import find_parts
    from ..formats.tensor_file import TENSOR_FILE_SUFFIXES, AdapterError, open_tensor_file
    from ..models.adapter_configs import PART_NAMES

    is_folder = path.is_dir() and path.name != _FACES_DIR and not path.name.startswith(".")
    if not is_folder and (path.suffix.lower() not in TENSOR_FILE_SUFFIXES or path.name.startswith(".")):
        return True
    if is_folder and not any(path.iterdir()):
        print(f"  {path.name}: an empty folder")
        return True
    if path.name in seen:
        print(f"  {path.name}: not used, {seen[path.name]} comes first")
        return True
    seen[path.name] = path
    try:
        if is_folder:
            print(f"  {open_adapter(path).summary()}")
        else:
            parts = ", ".join(PART_NAMES[part.kind] for part in find_parts(open_tensor_file(path)))
            print(f"  {path.name}: {parts}")
    except AdapterError as error:
        print(f"  PROBLEM: {error}")
        return False
    return True
