"""The shipped miniature needs no set-up: its folders are known, its text encoder opens."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from in_process import InProcessComfy

FOLDERS = ("diffusion_models", "vae", "text_encoders", "lynx")


@pytest.fixture
def shipped(comfy: InProcessComfy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The module `nodes.model_files`, with a folder of ours for the shipped one."""
    files = comfy.pack_module("nodes.model_files")
    known = files.folder_paths.folder_names_and_paths
    for folder in (*FOLDERS, "insightface"):
        (tmp_path / folder).mkdir()
        if folder in known:
            paths, extensions = known[folder]
            own = [path for path in paths if not Path(path).is_relative_to(files.SHIPPED_DIR)]
            monkeypatch.setitem(known, folder, (own, extensions))
    pack = tmp_path / "insightface" / "models" / "lynx_mini"
    pack.mkdir(parents=True)
    for path in (pack / "det.onnx", tmp_path / "lynx" / "lynx_mini.safetensors"):
        path.write_bytes(b"not looked into")
    monkeypatch.setattr(files, "SHIPPED_DIR", tmp_path)
    return files


def test_shipped_folders_come_after_the_users_own_and_once(shipped: Any, tmp_path: Path) -> None:
    before = {folder: shipped.folder_paths.get_folder_paths(folder) for folder in FOLDERS}
    for _ in range(2):
        shipped.register_folders()
    for folder in FOLDERS:
        found = shipped.folder_paths.get_folder_paths(folder)
        assert found == [*before[folder], str(tmp_path / folder)]
    assert shipped.locate_adapter("lynx_mini.safetensors") == tmp_path / "lynx" / "lynx_mini.safetensors"
    assert "lynx_mini" in shipped.list_detector_packs()
    assert shipped.find_insightface_root("lynx_mini") == tmp_path / "insightface"


def test_missing_files_belong_in_the_users_own_folder(shipped: Any, tmp_path: Path) -> None:
    shipped.register_folders()
    models = Path(shipped.folder_paths.models_dir)
    assert shipped.locate_adapter("no_such_adapter") is None
    assert shipped.find_insightface_root("buffalo_x") == models / "insightface"


def test_an_empty_folder_or_file_hides_no_whole_one_in_a_later_folder(shipped: Any, tmp_path: Path) -> None:
    shipped.register_folders()
    models = Path(shipped.folder_paths.models_dir)
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
        assert shipped.locate_adapter("hidden") == whole[0].parent
        assert shipped.locate_adapter("hidden.safetensors") == whole[1]
        assert shipped.find_insightface_root("hidden") == tmp_path / "insightface"
    finally:
        for folder in empty:
            folder.rmdir()
        (models / "lynx" / "hidden.safetensors").unlink()


@pytest.mark.parametrize("name", ["../vae/wan_2.1_vae.safetensors", "/etc/hostname"])
def test_a_name_reaches_no_file_outside_the_model_folders(shipped: Any, name: str) -> None:
    assert shipped.locate_adapter(name) is None and shipped.locate_encoder(name) is None
    assert shipped.locate_insightface_root(name) is None


def test_without_shipped_files_nothing_is_added(shipped: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    before = shipped.folder_paths.get_folder_paths("vae")
    monkeypatch.setattr(shipped, "SHIPPED_DIR", shipped.SHIPPED_DIR / "missing")
    shipped.register_folders()
    assert shipped.folder_paths.get_folder_paths("vae") == before


def make_shapes(layers: int, biases: int, dim: int = 64, heads: int = 4, d_kv: int = 8) -> dict[str, Any]:
    """Tensors of a T5-like encoder, those that tell its size, and the key by which the host knows it."""
    import torch

    shapes = {"shared.weight": (320, dim), "encoder.block.23.layer.1.DenseReluDense.wi_1.weight": (10240, 1)}
    for block in range(layers):
        name = f"encoder.block.{block}.layer"
        shapes[f"{name}.0.SelfAttention.q.weight"] = (heads * d_kv, dim)
        shapes[f"{name}.1.DenseReluDense.wi_0.weight"] = (96, dim)
        if block < biases:
            shapes[f"{name}.0.SelfAttention.relative_attention_bias.weight"] = (32, heads)
    return {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}


def test_size_of_a_umt5_is_read_from_its_shapes(comfy: InProcessComfy) -> None:
    derive = comfy.pack_module("nodes.small_text_encoder").derive_config
    assert derive(make_shapes(layers=3, biases=3)) == {
        "vocab_size": 320, "d_model": 64, "num_layers": 3, "num_heads": 4, "d_kv": 8, "d_ff": 96,
    }  # fmt: skip


@pytest.mark.parametrize(("layers", "biases"), [(24, 24), (3, 1), (0, 0)], ids=["XXL", "T5", "no T5"])
def test_other_text_encoders_are_left_alone(comfy: InProcessComfy, layers: int, biases: int) -> None:
    derive = comfy.pack_module("nodes.small_text_encoder").derive_config
    assert derive(make_shapes(layers, biases)) is None


def test_loading_is_wrapped_once_and_hands_the_size_on(
    comfy: InProcessComfy, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = comfy.pack_module("nodes.small_text_encoder")
    wrapped = module.comfy.sd.load_text_encoder_state_dicts
    module.accept_small_text_encoders()
    assert module.comfy.sd.load_text_encoder_state_dicts is wrapped
    calls = []

    def load(state_dicts: Any = (), clip_type: Any = None, model_options: Any = None) -> None:
        calls.append(model_options)

    monkeypatch.setattr(module.comfy.sd, "load_text_encoder_state_dicts", load)
    module.accept_small_text_encoders()
    small, large = make_shapes(2, 2), make_shapes(24, 24)
    options = {"dtype": "kept"}
    for state_dicts in ([small], [large], [small, large]):
        module.comfy.sd.load_text_encoder_state_dicts(state_dicts, clip_type="wan", model_options=options)
    assert calls[0]["umt5xxl_model_config"]["num_layers"] == 2 and calls[0]["dtype"] == "kept"
    assert calls[1:] == [options, options] and "umt5xxl_model_config" not in options
