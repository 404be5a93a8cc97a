"""`comfy-lynx doctor`: what is installed, what is missing, and which adapters are there."""

from __future__ import annotations

import argparse
import platform
from importlib import metadata
from pathlib import Path
from typing import Any

from .download_sources import BUNDLES
from .models_folder import add_models_argument, resolve_models_folder

_REQUIRED = ("torch", "numpy", "einops", "safetensors")
_OPTIONAL = {
    "insightface": "finding faces in a photo (ready-made crops still work)",
    "onnxruntime": "finding faces in a photo (ready-made crops still work)",
    "opencv-python": "cropping faces",
    "pillow": "reading photos",
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


def add_parser(verbs: Any) -> argparse.ArgumentParser:
    parser = verbs.add_parser(
        "doctor",
        help="check packages, model files and adapters",
        description="Prints versions, missing packages and what they disable, model files found and missing, and the "
        "adapters in models/lynx. Ends 1 when a required package is missing or an adapter is damaged.",
    )
    add_models_argument(parser)
    return parser


def run(arguments: argparse.Namespace) -> int:
    healthy = _print_packages()
    models_dir = resolve_models_folder(arguments.models)
    _print_model_files(models_dir)
    return 0 if _print_adapters(models_dir / "lynx") and healthy else 1


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


def _print_model_files(models_dir: Path) -> None:
    print(f"\nModel files in {models_dir}")
    for name, bundle in BUNDLES.items():
        missing = [source.target for source in bundle.sources if not (models_dir / source.target).is_file()]
        if not missing:
            print(f"  {name}: complete")
        else:
            print(f"  {name}: {len(missing)} of {len(bundle.sources)} missing; comfy-lynx download {name}")
            for target in missing:
                print(f"    {target}")


def _print_adapters(lynx_dir: Path) -> bool:
    from ..formats.adapter import open_adapter
    from ..formats.errors import AdapterError
    from ..formats.parts import PART_NAMES, find_parts
    from ..formats.tensor_file import TENSOR_FILE_SUFFIXES, open_tensor_file

    print(f"\nAdapters in {lynx_dir}")
    healthy = True
    for path in sorted(lynx_dir.iterdir()) if lynx_dir.is_dir() else ():
        folder = path.is_dir() and path.name != _FACES_DIR and not path.name.startswith(".")
        if not folder and path.suffix.lower() not in TENSOR_FILE_SUFFIXES:
            continue
        try:
            if folder:
                print(f"  {open_adapter(path).summary()}")
            else:
                parts = ", ".join(PART_NAMES[part.kind] for part in find_parts(open_tensor_file(path)))
                print(f"  {path.name}: {parts}")
        except AdapterError as error:
            healthy = False
            print(f"  PROBLEM: {error}")
    return healthy
