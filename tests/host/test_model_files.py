"""Where the loaders look for files: every folder that the host knows, and none beside them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from in_process import InProcessComfy


@pytest.fixture
def model_files(comfy: InProcessComfy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The module `nodes.host.model_files`, with a second folder of each kind behind the host's own."""
    files = comfy.pack_module("nodes.host.model_files")
    known = files.folder_paths.folder_names_and_paths
    for folder in ("lynx", "insightface"):
        (tmp_path / folder).mkdir()
        paths, extensions = known.get(folder, ([str(files.own_insightface_root())], set()))
        monkeypatch.setitem(known, folder, ([*paths, str(tmp_path / folder)], extensions))
    return files


def test_missing_files_belong_in_the_users_own_folder(model_files: Any) -> None:
    assert model_files.locate_adapter("no_such_adapter") is None
    root = Path(model_files.folder_paths.models_dir) / "insightface"
    assert model_files.locate_detector_root("buffalo_x") is None
    assert model_files.own_insightface_root() == root


def test_an_empty_folder_or_file_hides_no_whole_one_in_a_later_folder(
    model_files: Any, tmp_path: Path
) -> None:
    models = Path(model_files.folder_paths.models_dir)
    empty = [models / "lynx" / "hidden", models / "insightface" / "models" / "hidden"]
    for folder in empty:
        folder.mkdir(parents=True)
    (models / "lynx" / "hidden.safetensors").touch()
    try:
        whole = [tmp_path / "lynx" / "hidden" / "a.safetensors", tmp_path / "lynx" / "hidden.safetensors"]
        whole.append(tmp_path / "insightface" / "models" / "hidden" / "det.onnx")
        for path in whole:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"not looked into")
        assert model_files.locate_adapter("hidden") == whole[0].parent
        assert model_files.locate_adapter("hidden.safetensors") == whole[1]
        assert model_files.locate_detector_root("hidden") == tmp_path / "insightface"
    finally:
        for folder in empty:
            folder.rmdir()
        (models / "lynx" / "hidden.safetensors").unlink()


@pytest.mark.parametrize("name", ["../vae/wan_2.1_vae.safetensors", "/etc/hostname"])
def test_a_name_reaches_no_file_outside_the_model_folders(model_files: Any, name: str) -> None:
    assert model_files.locate_adapter(name) is None and model_files.locate_recogniser(name) is None
    assert model_files.locate_insightface_root(name) is None
