"""Where adapters and face models lie among the host's model folders, and how to get the published ones.

The loaders list published files before they are there, marked so.
"""

from __future__ import annotations

import hashlib
import os
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath

import folder_paths

from ...lynx_core.faces.detection import PACK_FILES, find_pack_folder
from ...lynx_core.faces.errors import FaceError
from ...lynx_core.faces.yunet import SUFFIX as YUNET_SUFFIX
from ...lynx_core.formats.published_files import BUNDLES, Source
from ...lynx_core.formats.tensor_file import TENSOR_FILE_SUFFIXES
from ...lynx_core.spec import RELEASE_RECOGNISER

LYNX_FOLDER = "lynx"
FACES_FOLDER = "faces"
"""Inside models/lynx: face recognisers, no adapters."""

IDENTITIES_FOLDER = "identities"
"""Inside models/lynx: identity files, no adapters."""

FACES_KEY = "lynx_faces"
"""The host's name for these folders, by which the editor says where a missing recogniser belongs."""

PACK_DIR = Path(__file__).resolve().parents[2]

MINI = "lynx_mini"
"""The names of Mini Lynx's files in `assets/mini` begin with it; graphs of earlier versions name them in loaders."""

NONE = "none"
RELEASE_FILE = "recognition_arcface_ir_se50.pth"
"""The file of the face recogniser of the Lynx release."""

PACK_RECOGNISER = "the detector pack's own"
DEFAULT_PACK = "buffalo_l"
YUNET_FILE = "face_detection_yunet_2023mar.onnx"


def register_folders() -> None:
    """Make models/lynx known to the host, after paths of the user's own."""
    default = str(Path(folder_paths.models_dir) / LYNX_FOLDER)
    paths, extensions = folder_paths.folder_names_and_paths.get(LYNX_FOLDER, ([], set()))
    paths = list(paths) if default in paths else [*paths, default]
    extensions = set(extensions) | set(folder_paths.supported_pt_extensions) | {".gguf"}
    folder_paths.folder_names_and_paths[LYNX_FOLDER] = (paths, extensions)
    faces = [str(Path(path) / FACES_FOLDER) for path in paths]
    folder_paths.folder_names_and_paths[FACES_KEY] = (faces, extensions)


def list_adapter_files() -> list[str]:
    """List files under models/lynx, relative, with forward slashes."""
    others = (f"{FACES_FOLDER}/", f"{IDENTITIES_FOLDER}/")
    return [name for name in list_lynx_files() if not name.startswith(others)]


def list_adapters() -> list[str]:
    """List what can be opened as an adapter: folders and single files."""
    files = list_adapter_files()
    folders = {str(PurePosixPath(name).parent) for name in files if "/" in name}
    return sorted(folders | {name for name in files if "/" not in name})


def list_recognisers() -> list[str]:
    """List face recognisers under models/lynx/faces."""
    prefix = f"{FACES_FOLDER}/"
    return [name.removeprefix(prefix) for name in list_lynx_files() if name.startswith(prefix)]


def list_lynx_files() -> list[str]:
    """List all files under models/lynx, relative, with forward slashes."""
    return sorted(name.replace("\\", "/") for name in folder_paths.get_filename_list(LYNX_FOLDER))


def list_detector_packs() -> list[str]:
    """List the folders of insightface model packs."""
    folders = (pack for root in find_insightface_roots() for pack in (root / "models").glob("*"))
    return sorted({pack.name for pack in folders if pack.is_dir() and not pack.name.startswith(".")})


def list_yunet_files() -> list[str]:
    """List YuNet's files under models/lynx/faces; the host's list leaves ONNX files out."""
    folders = (Path(folder) / FACES_FOLDER for folder in folder_paths.get_folder_paths(LYNX_FOLDER))
    files = (file for folder in folders for file in folder.glob(f"*{YUNET_SUFFIX}"))
    return sorted({file.name for file in files if "yunet" in file.name.lower() and file.is_file()})


def list_detectors() -> list[str]:
    """List what finds faces: insightface model packs, and YuNet's files."""
    return [*list_detector_packs(), *list_yunet_files()]


def locate_detector_root(name: str) -> Path | None:
    """Find the folder from which a detector of this name is opened; None when it is not there, or empty."""
    if not name.endswith(YUNET_SUFFIX):
        return locate_insightface_root(name)
    file = locate_recogniser(name) if Path(name).name == name else None
    return None if file is None else file.parent


def list_detector_files(name: str) -> list[Path]:
    """List the files of a detector; none when it is not there."""
    root = locate_detector_root(name)
    if root is None:
        return []
    return [root / name] if name.endswith(YUNET_SUFFIX) else list_pack_files(root, name)


def locate_adapter(name: str) -> Path | None:
    """Find an adapter's file or folder; None when there is none, or nothing in it.

    An empty file or folder does not hide a whole one in a later folder of the host's list.
    """
    return locate_lynx_file(name)


def locate_recogniser(name: str) -> Path | None:
    """Find a face recogniser's file; None when there is none, or nothing in it."""
    return locate_lynx_file(f"{FACES_FOLDER}/{name}")


def explain_recogniser(recogniser: str) -> str:
    """Say which node and which of its choices give a recogniser of this canonical name."""
    if recogniser.startswith(MINI):
        return "Connect face_analyzer of Lynx Load Mini."
    return f"In Lynx Load Face Analyzer, choose {_find_choice(recogniser)}."


def _find_choice(recogniser: str) -> str:
    if recogniser == RELEASE_RECOGNISER:
        return f"the encoder {RELEASE_FILE!r}"
    choices = find_face_choices(recogniser)
    if choices is not None:
        return f"the encoder {choices[1]!r} and the detector_pack {choices[0]!r}"
    return f"an encoder file of {recogniser!r}"


def find_face_choices(recogniser: str) -> tuple[str, str] | None:
    """Find the detector_pack and the encoder that give a recogniser of this canonical name; None for one of a user's own."""
    if recogniser == RELEASE_RECOGNISER:
        return DEFAULT_PACK, RELEASE_FILE
    for pack, (_, file_name) in PACK_FILES.items():
        if recogniser == f"insightface/{pack}/{Path(file_name).stem}":
            return pack, PACK_RECOGNISER
    return None


def locate_lynx_file(name: str) -> Path | None:
    """Find a file or folder under models/lynx that is not empty; None when there is none, or it lies elsewhere."""
    if leaves_folder(name):
        return None
    places = (Path(folder) / name for folder in folder_paths.get_folder_paths(LYNX_FOLDER))
    return next((place for place in places if list_weight_files(place)), None)


def leaves_folder(name: str) -> bool:
    """Whether a name would reach files outside of the folder that it is put behind, on any system.

    A name comes from a prompt, which anyone may have edited. Links below a model folder are the owner's own, and are
    followed.
    """
    path = PureWindowsPath(name)  # it knows both separators, and what a drive is
    return bool(path.drive or path.root) or ".." in path.parts


def list_weight_files(path: Path) -> list[Path]:
    """List the files of weights that a path stands for, empty ones left out."""
    files = (
        (file for file in path.iterdir() if file.suffix.lower() in TENSOR_FILE_SUFFIXES)
        if path.is_dir()
        else (path,)
    )
    return sorted(file for file in files if file.is_file() and file.stat().st_size)


def find_insightface_roots() -> list[Path]:
    """List the folders that hold `models/<pack>`: those the user has configured, then the host's own."""
    configured = folder_paths.folder_names_and_paths.get("insightface", ([], set()))[0]
    roots = [*(Path(path) for path in configured), own_insightface_root()]
    return list(dict.fromkeys(roots))


def own_insightface_root() -> Path:
    """The folder in which a user's packs belong, below `models`."""
    return Path(folder_paths.models_dir) / "insightface"


def locate_insightface_root(pack: str) -> Path | None:
    """Find the folder whose `models/` holds a pack's files; None when none does."""
    return next((root for root in find_insightface_roots() if list_pack_files(root, pack)), None)


def list_pack_files(root: Path, pack: str) -> list[Path]:
    """List the files of an insightface model pack; none when one of its networks is an empty file."""
    if leaves_folder(pack) or len(PureWindowsPath(pack).parts) != 1:
        return []
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
    folders += [PACK_DIR, *(root.parent for root in find_insightface_roots())]
    for folder in folders:
        text = text.replace(f"{folder}{os.sep}", "")
    return text


# --- published files ---

NOT_THERE = " (not downloaded)"
"""Behind a name in a list. Saved workflows hold the name with or without it."""

ADAPTERS = ("lynx_full", "lynx_lite")
DETECTOR_PACKS = {"buffalo_l": "faces", "antelopev2": "antelopev2", YUNET_FILE: "yunet"}
"""Detector to the word of the download command that fetches it."""

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
    """What messages call it, with its name."""

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
    """Describe a detector that is missing: an insightface model pack, or a file of YuNet."""
    if pack.endswith(YUNET_SUFFIX):
        folder = f"{LYNX_FOLDER}/{FACES_FOLDER}"
        published = BUNDLES["yunet"].sources if pack == YUNET_FILE else ()
        return Missing(f"The detector {pack!r}", folder, published, "yunet" if published else None)
    folder = f"insightface/models/{pack}"
    bundle = DETECTOR_PACKS.get(pack)
    sources = BUNDLES[bundle].sources if bundle else ()
    chosen = tuple(source for source in sources if source.target.startswith(f"{folder}/"))
    return Missing(f"The detector pack {pack!r}", folder, chosen, bundle)


def find_missing_recogniser(name: str) -> Missing:
    """Describe a face recogniser that is missing."""
    folder = f"{LYNX_FOLDER}/{FACES_FOLDER}"
    chosen = tuple(source for source in BUNDLES["faces"].sources if source.target == f"{folder}/{name}")
    return Missing(f"The face recogniser {name!r}", folder, chosen, "faces" if chosen else None)


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
    if any(f"'{MINI}" in each.what for each in missing):
        sentences.append(
            "The files of Mini Lynx are in no model folder: use Lynx Load Mini, which opens all of them."
        )
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
    if num_bytes >= 1e9:
        return f"{about}{num_bytes / 1e9:.2g} GB"
    return f"{about}{num_bytes / 1e6:.0f} MB" if num_bytes >= 1e6 else f"{about}{num_bytes / 1e3:.0f} kB"


def download_command(*bundles: str, replace: bool = False) -> str:
    """Write the command that fetches published files into this host's model folder.

    It needs no installation of this pack: the Python that runs here, started in the pack's folder.
    """
    arguments = [sys.executable, "-m", "lynx_core.cli.main", "download", *bundles]
    arguments += ["--models", str(folder_paths.models_dir), *(["--replace"] if replace else [])]
    if os.name == "nt":
        return f"cd /d {subprocess.list2cmdline([str(PACK_DIR)])} && {subprocess.list2cmdline(arguments)}"
    return f"cd {shlex.quote(str(PACK_DIR))} && {shlex.join(arguments)}"
