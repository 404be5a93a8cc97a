"""Which model the demo runs: Mini Lynx from this repository, or the real one where its files are."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from lynx_core.cli.models_folder import ModelFolders
from subgraphs import flatten

REPO_DIR = Path(__file__).resolve().parents[1]
MINI_MODELS = REPO_DIR / "assets" / "mini"
MINI_WORKFLOW = REPO_DIR / "workflows" / "Try-Lynx.json"
FULL_WORKFLOW = REPO_DIR / "workflows" / "Photo-to-video.json"

LOADERS = {
    "UNETLoader": ("diffusion_models/",),
    "CLIPLoader": ("text_encoders/",),
    "VAELoader": ("vae/",),
    "LynxLoadAdapter": ("lynx/",) * 4,
    "LynxLoadFaceAnalyzer": ("insightface/models/", "lynx/faces/"),
}
"""Loader -> for each of its first widgets the place below `models`."""
NO_FILE = "none"
MINI_FACES = ("insightface/models/lynx_mini", "lynx/faces/lynx_mini_arcface.safetensors")
"""What the demo itself opens of the miniature; the rest is LynxLoadMini's."""

KINDS = ("diffusion_models", "text_encoders", "vae", "lynx", "insightface")
"""Kinds of models that the workflows need, by the host's names of their folders."""


class MissingFiles(RuntimeError):
    """The chosen model cannot run; the message names the files, the folder and the way out."""


@dataclass(frozen=True)
class DemoModel:
    """A workflow, and the folder with the files that it names."""

    workflow: Path
    models_dir: Path

    @property
    def is_mini(self) -> bool:
        return self.workflow == MINI_WORKFLOW

    def read_workflow(self) -> dict[str, Any]:
        return json.loads(self.workflow.read_text(encoding="utf-8"))

    @cached_property
    def folders(self) -> ModelFolders:
        """Where the host looks for models.

        Raises:
            ModelsFolderError: when the host's extra_model_paths.yaml cannot be read.
        """
        return ModelFolders(self.models_dir)

    def list_files(self) -> list[str]:
        """What the workflow loads: files and folders, as paths below `models`."""
        if self.is_mini:
            return [*MINI_FACES, "example.png"]
        return [
            f"{place}{name}"
            for node in flatten(self.read_workflow())["nodes"]
            for place, name in zip(
                LOADERS.get(node["type"], ()), node.get("widgets_values", ()), strict=False
            )
            if name != NO_FILE
        ]

    def find_places(self, target: str) -> list[Path]:
        """The files, and folders of files, that the host may take for a path below `models`; none is empty."""
        if self.is_mini:
            return [self.models_dir / target] if _is_there(self.models_dir / target) else []
        kind, _, name = target.partition("/")
        return [folder / name for folder in self.folders.list_folders(kind) if _is_there(folder / name)]

    def list_missing(self) -> list[str]:
        """Paths below `models` of what is not there; an empty file or folder counts as missing."""
        return [target for target in self.list_files() if not self.find_places(target)]

    def find_face_models(self) -> tuple[Path, str, Path]:
        """The folder that holds `models/<pack>`, the detector's pack, and the recogniser's file."""
        targets = self.list_files()
        pack_dir, recogniser = (
            self.find_places(next(target for target in targets if target.startswith(place)))[0]
            for place in LOADERS["LynxLoadFaceAnalyzer"]
        )
        return pack_dir.parents[1], pack_dir.name, recogniser

    def write_paths(self, path: Path) -> list[str]:
        """Write the file by which ComfyUI finds this folder; the command line arguments that name it."""
        if self.is_mini:
            return []
        path.parent.mkdir(parents=True, exist_ok=True)
        kinds = {kind: "\n".join(map(str, self.folders.list_folders(kind))) for kind in KINDS}
        path.write_text(json.dumps({"lynx_demo": kinds}), encoding="utf-8")
        return ["--extra-model-paths-config", str(path)]


def _is_there(path: Path) -> bool:
    if path.is_dir():
        return any(_is_there(entry) for entry in path.iterdir())
    return path.is_file() and path.stat().st_size > 0


def choose_model(models_dir: Path | None, environment: Mapping[str, str]) -> tuple[DemoModel, str]:
    """Choose what to run.

    Args:
        models_dir: the folder that was asked for; its files must be there.
        environment: `COMFYUI_DIR` there names a ComfyUI whose models are taken if they are complete.

    Returns:
        The model, and what there is to say about the choice.

    Raises:
        MissingFiles: when a file of the chosen model is missing.
    """
    if models_dir is not None:
        return check_files(DemoModel(FULL_WORKFLOW, models_dir.resolve())), f"models: {models_dir}"
    note = ""
    if environment.get("COMFYUI_DIR"):
        own = DemoModel(FULL_WORKFLOW, (Path(environment["COMFYUI_DIR"]) / "models").resolve())
        missing = own.list_missing()
        if not missing:
            return own, f"models: {own.models_dir}"
        note = f"the 14B files are not all in {own.models_dir} ({', '.join(missing)}), so the miniature runs"
    return check_files(DemoModel(MINI_WORKFLOW, MINI_MODELS)), note


def check_files(model: DemoModel) -> DemoModel:
    """Give the model back when all its files are there.

    Raises:
        MissingFiles: when one is not.
    """
    missing = model.list_missing()
    if not missing:
        return model
    way_out = (
        "They come with this repository: 'git checkout -- assets', or clone it again."
        if model.is_mini
        else f"'comfy-lynx download wan lynx_full faces --models \"{model.models_dir}\"' fetches them (40 GB); "
        "without --models the miniature runs."
    )
    lines = "\n".join(f"  {name}" for name in missing)
    raise MissingFiles(f"these files are not in {model.models_dir}:\n{lines}\n{way_out}")
