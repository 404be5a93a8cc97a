"""Where ComfyUI keeps its models: its models folder, and the folders of extra_model_paths.yaml.

The rules are the host's own (folder_paths.py, utils/extra_config.py), written again because this package
runs without it.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ..spec import LynxError

_PACK_DIR = Path(__file__).resolve().parents[2]

_EXTRA_PATHS_FILE = "extra_model_paths.yaml"
"""Beside ComfyUI's main.py, where the host reads it by itself."""

_SEARCHED_FOLDERS = {
    "diffusion_models": ("unet", "diffusion_models"),
    "text_encoders": ("text_encoders", "clip"),
}
"""Folder of a target -> those below `models` that the host searches, first one first; others are their own."""
_LEGACY_NAMES = {"unet": "diffusion_models", "clip": "text_encoders"}
_FACES = "faces"


class ModelsFolderError(LynxError):
    """A models folder or its configuration that is not there or cannot be read; the message says the way out."""


class ModelFolders:
    """Every folder in which the host looks for models.

    Args:
        models_dir: ComfyUI's models folder.
        extra_configs: files like extra_model_paths.yaml, beside the one that the host finds itself.

    Raises:
        ModelsFolderError: when such a file cannot be read.
    """

    def __init__(self, models_dir: Path, extra_configs: Sequence[Path] = ()) -> None:
        self.models_dir = models_dir
        self._extra: dict[str, list[Path]] = {}
        self._first: dict[str, list[Path]] = {}
        own_config = models_dir.parent / _EXTRA_PATHS_FILE
        for config in (*([own_config] if own_config.is_file() else []), *extra_configs):
            for name, folder, is_default in _read_extra_paths(config):
                folders = (self._first if is_default else self._extra).setdefault(name, [])
                folders.insert(0, folder) if is_default else folders.append(folder)

    def list_folders(self, name: str) -> list[Path]:
        """Folders of models of one kind, as "vae", the one that the host searches first in front."""
        own = [self.models_dir / folder for folder in _SEARCHED_FOLDERS.get(name, (name,))]
        return list(dict.fromkeys([*self._first.get(name, ()), *own, *self._extra.get(name, ())]))

    def find_place(self, target: str) -> Path:
        """The file that the host takes for `target`, a path below `models`; where it belongs, if there is none.

        Adapters and detectors are taken a folder at a time: the first of that name that is not empty.
        """
        kind, _, name = target.partition("/")
        places = [folder / name for folder in self.list_folders(kind)]
        if _is_in_folder_model(kind, name):
            nested = [place.parent / place.parent.name / place.name for place in places]
            both = (
                places
                if kind == "lynx"
                else [each for pair in zip(places, nested, strict=True) for each in pair]
            )
            found = [place for place in both if _holds_files(place.parent)]
        else:
            found = [place for place in places if place.is_file()]
        default = places[0] if kind in self._first else self.models_dir / target
        return found[0] if found else default


def add_models_argument(parser: argparse.ArgumentParser) -> None:
    """Add `--models DIR`, whose default follows from where this pack is installed, and further paths."""
    parser.add_argument(
        "--models",
        type=Path,
        metavar="DIR",
        help="ComfyUI's models folder (default: that of the ComfyUI this pack is installed in)",
    )
    parser.add_argument(
        "--extra-model-paths-config",
        type=Path,
        action="append",
        default=[],
        metavar="FILE",
        help=f"a file like {_EXTRA_PATHS_FILE}, if ComfyUI is started with one; that beside main.py is read anyway",
    )


def find_model_folders(arguments: argparse.Namespace) -> ModelFolders:
    """Give the folders that the arguments of `add_models_argument` name.

    Raises:
        ModelsFolderError: when the models folder or a configuration is not there.
    """
    return ModelFolders(resolve_models_folder(arguments.models), arguments.extra_model_paths_config)


def resolve_models_folder(chosen: Path | None, pack_dir: Path = _PACK_DIR) -> Path:
    """Give the models folder: the chosen one, or ComfyUI's around custom_nodes/<this pack>.

    Raises:
        ModelsFolderError: when it is not there.
    """
    if chosen is None:
        if pack_dir.parent.name != "custom_nodes":
            raise ModelsFolderError(
                f"{pack_dir} is not in a ComfyUI's custom_nodes, so its models folder is unknown; "
                "name it with --models DIR."
            )
        chosen = pack_dir.parents[1] / "models"
    if not chosen.is_dir():
        raise ModelsFolderError(
            f"The models folder {chosen} does not exist; name ComfyUI's with --models DIR."
        )
    return chosen.absolute()


def _is_in_folder_model(kind: str, name: str) -> bool:
    return "/" in name and (kind == "insightface" or (kind == "lynx" and not name.startswith(f"{_FACES}/")))


def _holds_files(folder: Path) -> bool:
    return folder.is_dir() and any(entry.is_file() and entry.name[0] != "." for entry in folder.iterdir())


def _read_extra_paths(path: Path) -> Iterator[tuple[str, Path, bool]]:
    """Name of the kind, folder, whether it is the default one: each line of a configuration.

    Raises:
        ModelsFolderError: when it cannot be read.
    """
    import yaml  # type: ignore[import-untyped]

    try:
        sections: Any = yaml.safe_load(path.read_text(encoding="utf-8"))
        for section in (sections or {}).values():
            if section is None:
                continue
            base = section.pop("base_path", None)
            base = path.absolute().parent / os.path.expandvars(os.path.expanduser(base)) if base else None  # noqa: PTH111
            is_default = bool(section.pop("is_default", False))
            for name, lines in section.items():
                for line in filter(None, lines.split("\n")):
                    folder = (base or path.absolute().parent) / line
                    yield _LEGACY_NAMES.get(name, name), Path(os.path.normpath(folder)), is_default
    except (OSError, UnicodeDecodeError, yaml.YAMLError, AttributeError, TypeError) as error:
        raise ModelsFolderError(
            f"{path} cannot be read as ComfyUI reads it: {str(error).splitlines()[0]}"
        ) from error
