"""Published files that the loaders list before they are there, and how to get them."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
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


@dataclass(frozen=True)
class Missing:
    """A choice of a list whose files are not there, or not whole."""

    what: str
    """What messages call it."""

    folder: str
    """Where it belongs, below the host's `models`."""

    sources: tuple[Source, ...] = ()
    """Its published files; none for a choice of the user's own."""

    bundle: str | None = None
    """Word of the download command that fetches them."""


def find_missing_adapters(names: Sequence[str]) -> list[Missing]:
    """Describe adapters, or files of them, that are missing: published ones by adapter, others by name."""
    missing, others = [], list(names)
    for bundle in ADAPTERS:
        folder = f"{LYNX_FOLDER}/{bundle}"
        chosen = tuple(
            source
            for source in BUNDLES[bundle].sources
            if bundle in names or source.target.removeprefix(f"{LYNX_FOLDER}/") in names
        )
        if chosen:
            missing.append(Missing(f"The Lynx adapter {bundle!r}", folder, chosen, bundle))
            others = [
                name for name in others if name != bundle and f"{LYNX_FOLDER}/{name}" not in _targets(chosen)
            ]
    return [*missing, *(Missing(f"The Lynx adapter {name!r}", LYNX_FOLDER) for name in others)]


def find_missing_pack(pack: str) -> Missing:
    """Describe an insightface pack that is missing."""
    folder = f"insightface/models/{pack}"
    bundle = DETECTOR_PACKS.get(pack)
    sources = BUNDLES[bundle].sources if bundle else ()
    chosen = tuple(source for source in sources if source.target.startswith(f"{folder}/"))
    return Missing(f"The detector pack {pack!r}", folder, chosen, bundle)


def find_missing_encoder(name: str) -> Missing:
    """Describe a face encoder that is missing."""
    folder = f"{LYNX_FOLDER}/{FACES_FOLDER}"
    chosen = tuple(source for source in BUNDLES["faces"].sources if source.target == f"{folder}/{name}")
    return Missing(f"The face encoder {name!r}", folder, chosen, "faces" if chosen else None)


def explain_missing(missing: Sequence[Missing]) -> str:
    """List all that is missing with sizes and folders, and the one command that fetches what is published."""
    models_dir = Path(folder_paths.models_dir)
    sentences = []
    for each in missing:
        absent = [source for source in each.sources if not _is_whole(source)] or each.sources
        files = ", ".join(f"{Path(source.target).name}, {format_size(source)}" for source in absent)
        belongs = f"Its folder is {models_dir / each.folder}"
        sentences.append(
            f"{each.what} is not there, or not whole{f' ({files})' if files else ''}. {belongs}."
        )
    bundles = list(dict.fromkeys(each.bundle for each in missing if each.bundle))
    if bundles:
        published = [source for each in missing for source in each.sources]
        is_in_the_way = any(
            (models_dir / source.target).exists() and not _is_whole(source) for source in published
        )
        command = download_command(*bundles, replace=is_in_the_way)
        sentences.append(f"To fetch the published files, paste this into a terminal: {command}")
    return "\n".join(sentences)


def _targets(sources: Iterable[Source]) -> set[str]:
    return {source.target for source in sources}


def _is_whole(source: Source) -> bool:
    path = Path(folder_paths.models_dir) / source.target
    return path.is_file() and path.stat().st_size > 0


def format_size(source: Source) -> str:
    """Write the size of a file for people; "about" where it is computed."""
    num_bytes = source.num_bytes
    about = "" if num_bytes else "about "
    num_bytes = num_bytes or APPROXIMATE_BYTES[source.target.removeprefix(f"{LYNX_FOLDER}/")]
    return f"{about}{num_bytes / 1e9:.2g} GB" if num_bytes >= 1e9 else f"{about}{num_bytes / 1e6:.0f} MB"


def download_command(*bundles: str, replace: bool = False) -> str:
    """Write the command that fetches published files into this host's model folder.

    It needs no installation of this pack: the Python that runs here, started in the pack's folder.
    """
    arguments = [sys.executable, "-m", "lynx_core.cli.main", "download", *bundles]
    arguments += ["--models", str(folder_paths.models_dir), *(["--replace"] if replace else [])]
    if os.name == "nt":
        return f"cd /d {subprocess.list2cmdline([str(PACK_DIR)])} && {subprocess.list2cmdline(arguments)}"
    return f"cd {shlex.quote(str(PACK_DIR))} && {shlex.join(arguments)}"
