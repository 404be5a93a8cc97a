"""Where adapters and face models lie among the host's model folders."""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

import folder_paths

from ..lynx_core.faces.detection import PACK_FILES, find_pack_folder
from ..lynx_core.faces.errors import FaceError
from ..lynx_core.formats.tensor_file import TENSOR_FILE_SUFFIXES
from ..lynx_core.spec import RELEASE_RECOGNISER

LYNX_FOLDER = "lynx"
FACES_FOLDER = "faces"
"""Inside models/lynx: networks that embed faces, no adapters."""

FACES_KEY = "lynx_faces"
"""The host's name for these folders, by which the editor says where a missing encoder belongs."""

SHIPPED_DIR = Path(__file__).resolve().parents[1] / "assets" / "mini"
"""Mini Lynx, which comes with this pack: folders named as in the host's own `models`."""

SHIPPED_FOLDERS = ("diffusion_models", "vae", "text_encoders", LYNX_FOLDER)

EXAMPLE_PHOTO = "lynx_mini_example.png"
"""In the host's input folder: workflows/lynx_mini.json loads it."""

NONE = "none"
ENCODER = "recognition_arcface_ir_se50.pth"
"""The face encoder of the Lynx release."""

PACK_ENCODER = "the detector pack's own"


def register_folders() -> None:
    """Make models/lynx and the shipped miniature known to the host, after paths of the user's own."""
    default = str(Path(folder_paths.models_dir) / LYNX_FOLDER)
    paths, extensions = folder_paths.folder_names_and_paths.get(LYNX_FOLDER, ([], set()))
    paths = list(paths) if default in paths else [*paths, default]
    extensions = set(extensions) | set(folder_paths.supported_pt_extensions) | {".gguf"}
    folder_paths.folder_names_and_paths[LYNX_FOLDER] = (paths, extensions)
    faces = [str(Path(path) / FACES_FOLDER) for path in paths]
    folder_paths.folder_names_and_paths[FACES_KEY] = (faces, extensions)
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
    return [name for name in _list_lynx_files() if not name.startswith(f"{FACES_FOLDER}/")]


def list_adapters() -> list[str]:
    """List what can be opened as an adapter: folders and single files."""
    files = list_adapter_files()
    folders = {str(PurePosixPath(name).parent) for name in files if "/" in name}
    return sorted(folders | {name for name in files if "/" not in name})


def list_encoders() -> list[str]:
    """List face encoders under models/lynx/faces."""
    prefix = f"{FACES_FOLDER}/"
    return [name.removeprefix(prefix) for name in _list_lynx_files() if name.startswith(prefix)]


def _list_lynx_files() -> list[str]:
    return sorted(name.replace("\\", "/") for name in folder_paths.get_filename_list(LYNX_FOLDER))


def list_detector_packs() -> list[str]:
    """List the folders of insightface packs."""
    folders = (pack for root in find_insightface_roots() for pack in (root / "models").glob("*"))
    return sorted({pack.name for pack in folders if pack.is_dir() and not pack.name.startswith(".")})


def locate_adapter(name: str) -> Path | None:
    """Find an adapter's file or folder; None when there is none, or nothing in it.

    An empty file or folder does not hide a whole one in a later folder of the host's list.
    """
    return _locate(name)


def locate_encoder(name: str) -> Path | None:
    """Find a face encoder's file; None when there is none, or nothing in it."""
    return _locate(f"{FACES_FOLDER}/{name}")


def find_recogniser_choice(recogniser: str) -> str:
    """Say what to choose in LynxLoadFaceAnalyzer, by its lists, to get a recogniser of this canonical name."""
    if recogniser == RELEASE_RECOGNISER:
        return f"the encoder {ENCODER!r}"
    for pack, (_, file_name) in PACK_FILES.items():
        if recogniser == f"insightface/{pack}/{Path(file_name).stem}":
            return f"the encoder {PACK_ENCODER!r} and the detector_pack {pack!r}"
    return f"an encoder file of {recogniser!r}"


def _locate(name: str) -> Path | None:
    inside = PurePosixPath(name)
    if inside.is_absolute() or Path(name).is_absolute() or ".." in inside.parts:
        return None  # a name from an edited prompt must not reach files outside the model folders
    places = (Path(folder) / name for folder in folder_paths.get_folder_paths(LYNX_FOLDER))
    return next((place for place in places if list_weight_files(place)), None)


def list_weight_files(path: Path) -> list[Path]:
    """List the files of weights that a path stands for, empty ones left out."""
    files = (
        (file for file in path.iterdir() if file.suffix.lower() in TENSOR_FILE_SUFFIXES)
        if path.is_dir()
        else (path,)
    )
    return sorted(file for file in files if file.is_file() and file.stat().st_size)


def find_insightface_roots() -> list[Path]:
    """List the folders that hold `models/<pack>`, the user's own first, the shipped one last."""
    configured = folder_paths.folder_names_and_paths.get("insightface", ([], set()))[0]
    roots = [*(Path(path) for path in configured), own_insightface_root(), SHIPPED_DIR / "insightface"]
    return list(dict.fromkeys(roots))


def own_insightface_root() -> Path:
    """The folder in which a user's packs belong, below `models`."""
    return Path(folder_paths.models_dir) / "insightface"


def locate_insightface_root(pack: str) -> Path | None:
    """Find the folder whose `models/` holds a pack's files; None when none does."""
    return next((root for root in find_insightface_roots() if list_pack_files(root, pack)), None)


def find_insightface_root(pack: str) -> Path:
    """Find the folder whose `models/` holds a pack's files; the host's own when none does."""
    return locate_insightface_root(pack) or own_insightface_root()


def list_pack_files(root: Path, pack: str) -> list[Path]:
    """List the files of an insightface pack; none when one of its networks is an empty file."""
    if Path(pack).name != pack:
        return []  # a name from an edited prompt must not reach files outside the model folders
    try:
        files = sorted(file for file in find_pack_folder(root, pack).iterdir() if file.is_file())
    except FaceError:
        return []
    return [] if any(file.suffix == ".onnx" and not file.stat().st_size for file in files) else files


def stamp_files(files: Iterable[Path]) -> str:
    """Hash names, sizes and times of files: another value once one of them is replaced."""
    digest = hashlib.sha256()
    for file in files:
        stat = file.stat()
        digest.update(f"{file}\n{stat.st_size} {stat.st_mtime_ns}\n".encode())
    return digest.hexdigest()


def shorten_paths(text: str) -> str:
    """Name files as the loaders' lists do, without the folders that are this machine's own."""
    folders = [Path(folder) for folder in folder_paths.get_folder_paths(LYNX_FOLDER)]
    # Below an insightface folder a pack goes by "insightface/models/<pack>", wherever the folder is.
    folders += [root.parent for root in find_insightface_roots()]
    for folder in folders:
        text = text.replace(f"{folder}{os.sep}", "")
    return text
