"""Where adapters and face models lie among the host's model folders."""

from __future__ import annotations

import logging
import os
import shutil
from pathlib import Path, PurePosixPath

import folder_paths

LYNX_FOLDER = "lynx"
FACES_FOLDER = "faces"
"""Inside models/lynx: networks that embed faces, no adapters."""

SHIPPED_DIR = Path(__file__).resolve().parents[1] / "assets" / "mini"
"""Mini Lynx, which comes with this pack: folders named as in the host's own `models`."""

SHIPPED_FOLDERS = ("diffusion_models", "vae", "text_encoders", LYNX_FOLDER)

EXAMPLE_PHOTO = "lynx_mini_example.png"
"""In the host's input folder: workflows/lynx_mini.json loads it."""

NONE = "none"

PUBLISHED_ADAPTERS = ("lynx_full", "lynx_lite")
PUBLISHED_PACKS = ("buffalo_l", "antelopev2")
PUBLISHED_ENCODER = "recognition_arcface_ir_se50.pth"


def register_folders() -> None:
    """Make models/lynx and the shipped miniature known to the host, after paths of the user's own."""
    default = str(Path(folder_paths.models_dir) / LYNX_FOLDER)
    paths, extensions = folder_paths.folder_names_and_paths.get(LYNX_FOLDER, ([], set()))
    paths = list(paths) if default in paths else [*paths, default]
    extensions = set(extensions) | set(folder_paths.supported_pt_extensions) | {".gguf"}
    folder_paths.folder_names_and_paths[LYNX_FOLDER] = (paths, extensions)
    for folder in SHIPPED_FOLDERS:
        if (SHIPPED_DIR / folder).is_dir():
            folder_paths.add_model_folder_path(folder, str(SHIPPED_DIR / folder))


def provide_example_photo() -> None:
    """Copy the miniature's portrait to where LoadImage looks, unless there is one of that name."""
    source, target = SHIPPED_DIR / "example.png", Path(folder_paths.get_input_directory()) / EXAMPLE_PHOTO
    if not source.is_file() or target.exists():
        return
    try:
        shutil.copyfile(source, target)
    except (
        OSError
    ) as error:  # without it the pack is as good, and the editor says that the picture is missing
        logging.warning("Lynx could not copy its example portrait: %s", error)


def own_lynx_folder() -> Path:
    """The folder in which a user's adapters belong: the last one that this pack did not bring along."""
    folders = (Path(folder) for folder in folder_paths.get_folder_paths(LYNX_FOLDER))
    return [folder for folder in folders if folder != SHIPPED_DIR / LYNX_FOLDER][-1]


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
    for folder in folder_paths.get_folder_paths(LYNX_FOLDER):
        if (Path(folder) / name).exists():
            return Path(folder) / name
    raise FileNotFoundError(
        f"The Lynx adapter {name!r} is not there: put it into {own_lynx_folder() / name}"
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
    """List the folders that hold `models/<pack>`, the user's own first, the shipped one last."""
    configured = folder_paths.folder_names_and_paths.get("insightface", ([], set()))[0]
    roots = [*(Path(path) for path in configured), own_insightface_root(), SHIPPED_DIR / "insightface"]
    return list(dict.fromkeys(roots))


def own_insightface_root() -> Path:
    """The folder in which a user's packs belong, below `models`."""
    return Path(folder_paths.models_dir) / "insightface"


def find_insightface_root(pack: str) -> Path:
    """Find the folder whose `models/` holds a pack; the host's own when none does."""
    roots = find_insightface_roots()
    return next((root for root in roots if (root / "models" / pack).is_dir()), own_insightface_root())


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
    for folder in folder_paths.get_folder_paths(LYNX_FOLDER):
        if (Path(folder) / FACES_FOLDER / name).is_file():
            return Path(folder) / FACES_FOLDER / name
    raise FileNotFoundError(
        f"The face encoder {name!r} is not there: put it into {own_lynx_folder() / FACES_FOLDER}"
        + (f", or fetch it with '{download_command('faces')}'." if name == PUBLISHED_ENCODER else ".")
    )


def download_command(what: str) -> str:
    """Write the command that fetches published files into this host's model folder."""
    return f'comfy-lynx download {what} --models "{folder_paths.models_dir}"'
