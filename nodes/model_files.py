"""Where adapters and face models lie among the host's model folders."""

from __future__ import annotations

import os
from pathlib import Path, PurePosixPath

import folder_paths

LYNX_FOLDER = "lynx"
FACES_FOLDER = "faces"
"""Inside models/lynx: networks that embed faces, no adapters."""

NONE = "none"

PUBLISHED_ADAPTERS = ("lynx_full", "lynx_lite")
PUBLISHED_PACKS = ("buffalo_l", "antelopev2")
PUBLISHED_ENCODER = "recognition_arcface_ir_se50.pth"


def register_folders() -> None:
    """Make models/lynx known to the host, beside paths that the user has configured for it."""
    default = str(Path(folder_paths.models_dir) / LYNX_FOLDER)
    paths, extensions = folder_paths.folder_names_and_paths.get(LYNX_FOLDER, ([], set()))
    paths = list(paths) if default in paths else [*paths, default]
    extensions = set(extensions) | set(folder_paths.supported_pt_extensions) | {".gguf"}
    folder_paths.folder_names_and_paths[LYNX_FOLDER] = (paths, extensions)


def list_adapter_files() -> list[str]:
    """List files under models/lynx, relative, with forward slashes."""
    names = (name.replace("\\", "/") for name in folder_paths.get_filename_list(LYNX_FOLDER))
    return sorted(name for name in names if not name.startswith(f"{FACES_FOLDER}/"))


def list_adapters() -> list[str]:
    """List what can be opened as an adapter: folders and single files, and the published names always."""
    files = list_adapter_files()
    folders = {str(PurePosixPath(name).parent) for name in files if "/" in name}
    single = {name for name in files if "/" not in name}
    return sorted(folders | single | set(PUBLISHED_ADAPTERS))


def find_adapter(name: str) -> Path:
    """Find an adapter's file or folder.

    Raises:
        FileNotFoundError: with the folder it belongs in and the command that fetches it.
    """
    folders = folder_paths.get_folder_paths(LYNX_FOLDER)
    for folder in folders:
        if (Path(folder) / name).exists():
            return Path(folder) / name
    raise FileNotFoundError(
        f"The Lynx adapter {name!r} is not there: put it into {Path(folders[-1]) / name}"
        + (f", or fetch it with '{download_command(name)}'." if name in PUBLISHED_ADAPTERS else ".")
    )


def shorten_paths(text: str) -> str:
    """Name files below models/lynx as the loaders' lists do, without the folder itself."""
    for folder in folder_paths.get_folder_paths(LYNX_FOLDER):
        text = text.replace(f"{Path(folder)}{os.sep}", "")
    return text


def list_detector_packs() -> list[str]:
    """List insightface packs, and the published names always."""
    found = {
        pack.name
        for root in find_insightface_roots()
        for pack in (root / "models").glob("*")
        if pack.is_dir()
    }
    return sorted(found | set(PUBLISHED_PACKS))


def find_insightface_roots() -> list[Path]:
    """List the folders that hold `models/<pack>`, the user's own first."""
    configured = folder_paths.folder_names_and_paths.get("insightface", ([], set()))[0]
    roots = [*(Path(path) for path in configured), Path(folder_paths.models_dir) / "insightface"]
    return list(dict.fromkeys(roots))


def find_insightface_root(pack: str) -> Path:
    """Find the folder whose `models/` holds a pack; the host's own when none does."""
    roots = find_insightface_roots()
    return next((root for root in roots if (root / "models" / pack).is_dir()), roots[-1])


def list_encoders() -> list[str]:
    """List face encoders under models/lynx/faces, the packs' own, and the published name always."""
    prefix = f"{FACES_FOLDER}/"
    names = (name.replace("\\", "/") for name in folder_paths.get_filename_list(LYNX_FOLDER))
    files = {name.removeprefix(prefix) for name in names if name.startswith(prefix)}
    return [*sorted(files | {PUBLISHED_ENCODER}), PACK_ENCODER]


PACK_ENCODER = "the detector pack's own"


def find_encoder(name: str) -> Path:
    """Find a face encoder's file.

    Raises:
        FileNotFoundError: with the folder it belongs in and the command that fetches it.
    """
    folders = folder_paths.get_folder_paths(LYNX_FOLDER)
    for folder in folders:
        if (Path(folder) / FACES_FOLDER / name).is_file():
            return Path(folder) / FACES_FOLDER / name
    raise FileNotFoundError(
        f"The face encoder {name!r} is not there: put it into {Path(folders[-1]) / FACES_FOLDER}"
        + (f", or fetch it with '{download_command('faces')}'." if name == PUBLISHED_ENCODER else ".")
    )


def download_command(what: str) -> str:
    """Write the command that fetches published files into this host's model folder."""
    return f'comfy-lynx download {what} --models "{folder_paths.models_dir}"'
