"""Published files that the loaders list before they are there, and how to get them."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import folder_paths

from ..lynx_core.cli.download_sources import BUNDLES, Source
from .model_files import FACES_FOLDER, LYNX_FOLDER

PACK_DIR = Path(__file__).resolve().parents[1]

NOT_THERE = " (not downloaded)"
"""Behind a name in a list. Saved workflows hold the name with or without it."""

ADAPTERS = ("lynx_full", "lynx_lite")
DETECTOR_PACKS = {"buffalo_l": "faces", "antelopev2": "antelopev2"}
"""insightface pack to the word of the download command that fetches it."""

ENCODER = "recognition_arcface_ir_se50.pth"

APPROXIMATE_BYTES = {
    "lynx_full/resampler.safetensors": 0.34e9,
    "lynx_full/ip_layers.safetensors": 4.2e9,
    "lynx_full/ref_layers.safetensors": 4.2e9,
    "lynx_lite/resampler.safetensors": 0.33e9,
    "lynx_lite/ip_layers.safetensors": 0.84e9,
}
"""For files whose exact size is not on record: their parameters at 16 bits, the resampler's at 32."""


def list_adapter_parts() -> list[str]:
    """List the published files of adapters, below models/lynx."""
    return [
        source.target.removeprefix(f"{LYNX_FOLDER}/") for name in ADAPTERS for source in BUNDLES[name].sources
    ]


def list_choices(
    found: Iterable[str], published: Iterable[str], locate: Callable[[str], Path | None]
) -> list[str]:
    """List what was found, and the published names that `locate` does not find whole, marked so."""
    absent = {name for name in published if locate(name) is None}
    return sorted((set(found) | set(published)) - absent | {f"{name}{NOT_THERE}" for name in absent})


def choose_default(choices: list[str], name: str) -> str:
    """The entry of a published name in a list, whether it is marked or not."""
    return name if name in choices else f"{name}{NOT_THERE}"


def strip_mark(choice: str) -> str:
    """The name that an entry of a list stands for."""
    return choice.removesuffix(NOT_THERE)


def explain_missing_adapters(names: Sequence[str]) -> str:
    """Say which adapters or files of them are missing, and how to get them; nothing when none is."""
    explained, others = [], list(names)
    for bundle in ADAPTERS:
        targets = [source.target.removeprefix(f"{LYNX_FOLDER}/") for source in BUNDLES[bundle].sources]
        wanted = [name for name in names if name == bundle or name in targets]
        if wanted:
            chosen = zip(BUNDLES[bundle].sources, targets, strict=True)
            sources = [source for source, target in chosen if bundle in wanted or target in wanted]
            explained.append(explain_missing(f"The Lynx adapter {bundle!r}", sources, bundle))
            others = [name for name in others if name not in wanted]
    folder = Path(folder_paths.models_dir) / LYNX_FOLDER
    explained += [
        f"The Lynx adapter {name!r} is not there, or empty: put it into {folder}, or choose another one."
        for name in others
    ]
    return " ".join(explained)


def explain_missing_pack(pack: str) -> str:
    """Say what is missing of an insightface pack, and how to get it."""
    prefix = f"insightface/models/{pack}/"
    if pack not in DETECTOR_PACKS:
        folder = Path(folder_paths.models_dir) / prefix
        return f"The detector pack {pack!r} is not there, or not whole: put its ONNX files into {folder}, or choose another one."
    bundle = DETECTOR_PACKS[pack]
    sources = [source for source in BUNDLES[bundle].sources if source.target.startswith(prefix)]
    return explain_missing(f"The detector pack {pack!r}", sources, bundle)


def explain_missing_encoder(name: str) -> str:
    """Say that a face encoder is missing, and how to get it."""
    target = f"{LYNX_FOLDER}/{FACES_FOLDER}/{name}"
    sources = [source for source in BUNDLES["faces"].sources if source.target == target]
    if sources:
        return explain_missing(f"The face encoder {name!r}", sources, "faces")
    folder = Path(folder_paths.models_dir) / LYNX_FOLDER / FACES_FOLDER
    return f"The face encoder {name!r} is not there, or empty: put it into {folder}, or choose another one."


def explain_missing(what: str, sources: Sequence[Source], bundle: str) -> str:
    """List files with their sizes, the folder they belong in, and the command that fetches them."""
    absent = [source for source in sources if not _is_whole(source)] or sources
    files = ", ".join(f"{Path(source.target).name} ({format_size(source)})" for source in absent)
    folder = Path(folder_paths.models_dir) / Path(absent[0].target).parent
    is_in_the_way = any((Path(folder_paths.models_dir) / source.target).exists() for source in absent)
    return (
        f"{what} is not there, or not whole. Missing in {folder}: {files}. To fetch them, paste this into a terminal, "
        f"and run again: {download_command(bundle, replace=is_in_the_way)}"
    )


def _is_whole(source: Source) -> bool:
    path = Path(folder_paths.models_dir) / source.target
    return path.is_file() and path.stat().st_size > 0


def format_size(source: Source) -> str:
    """Write the size of a file for people; "about" where it is computed."""
    num_bytes = source.num_bytes
    about = "" if num_bytes else "about "
    num_bytes = num_bytes or APPROXIMATE_BYTES[source.target.removeprefix(f"{LYNX_FOLDER}/")]
    return f"{about}{num_bytes / 1e9:.2g} GB" if num_bytes >= 1e9 else f"{about}{num_bytes / 1e6:.0f} MB"


def download_command(bundle: str, replace: bool = False) -> str:
    """Write the command that fetches published files into this host's model folder.

    It needs no installation of this pack: the Python that runs here, started in the pack's folder.
    """
    arguments = [sys.executable, "-m", "lynx_core.cli.main", "download", bundle]
    arguments += ["--models", str(folder_paths.models_dir), *(["--replace"] if replace else [])]
    if os.name == "nt":
        return f"cd /d {subprocess.list2cmdline([str(PACK_DIR)])} && {subprocess.list2cmdline(arguments)}"
    return f"cd {shlex.quote(str(PACK_DIR))} && {shlex.join(arguments)}"
