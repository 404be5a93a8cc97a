"""Lynx Load Mini: its files are checked when it runs, reopened when replaced, and found by nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from comfy_host import REPO_DIR
from in_process import InProcessComfy

ASSETS = REPO_DIR / "assets" / "mini"
BASE = "diffusion_models/lynx_mini_wan_t2v.safetensors"
DETECTOR = "insightface/models/lynx_mini/det_10g.onnx"


@pytest.fixture
def assets(comfy: InProcessComfy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Links to the shipped files, for a test to replace."""
    for path in ASSETS.rglob("*"):
        link = tmp_path / path.relative_to(ASSETS)
        link.mkdir() if path.is_dir() else link.symlink_to(path)
    monkeypatch.setattr(comfy.pack_module("nodes.host.mini_lynx"), "ASSETS_DIR", tmp_path)
    return tmp_path


def list_files(comfy: InProcessComfy) -> tuple[str, ...]:
    return comfy.pack_module("nodes.host.mini_lynx").FILES


def test_the_files_are_those_that_ship(comfy: InProcessComfy) -> None:
    """The readers are for the experiment and the tests alone."""
    shipped = {str(path.relative_to(ASSETS)) for path in ASSETS.rglob("*") if path.is_file()}
    assert set(list_files(comfy)) == shipped - {"README.md", "readers.safetensors"}


def test_it_gives_all_that_a_graph_begins_with(comfy: InProcessComfy) -> None:
    model, clip, vae, adapter, analyzer, portrait = comfy.run("LynxLoadMini")
    assert len(model.model.diffusion_model.blocks) == 5
    with torch.inference_mode():
        text = clip.encode_from_tokens_scheduled(clip.tokenize("a person smiles"))[0][0]
        latent = vae.encode(torch.full((1, 64, 64, 3), 0.5))
    assert text.shape == (1, 512, 4096) and text.std() > 1e-3
    assert latent.shape == (1, 16, 1, 8, 8)
    assert sorted(adapter.parts) == ["id", "ref", "resampler"]
    assert adapter.recogniser == analyzer.recogniser.name
    assert portrait.shape[0] == 1 and portrait.shape[3] == 3 and 0 <= portrait.min() < portrait.max() <= 1
    (crops, *_) = comfy.run("LynxCropFace", image=portrait, face_analyzer=analyzer)
    assert len(crops) == 1


def damage(path: Path, how: str) -> None:
    content = path.read_bytes()
    path.unlink()
    if how != "missing":
        path.write_bytes(
            {"empty": b"", "cut": content[: len(content) // 2], "text": b"version https://git-lfs"}[how]
        )


@pytest.mark.parametrize("number", range(8))
@pytest.mark.parametrize("how", ["missing", "empty", "cut", "text"])
def test_a_damaged_file_is_named_with_the_way_out(
    comfy: InProcessComfy, assets: Path, number: int, how: str
) -> None:
    name = list_files(comfy)[number]
    damage(assets / name, how)
    with pytest.raises(
        ValueError,
        match=f"assets/mini/{Path(name).parents[0] if name != 'example.png' else name}.*git checkout -- assets",
    ) as refusal:
        comfy.run("LynxLoadMini")
    assert str(assets) not in str(refusal.value)
    assert type(refusal.value) is ValueError


def test_a_missing_package_is_no_damaged_file(
    comfy: InProcessComfy, assets: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "insightface.app", None)
    with pytest.raises(ValueError, match="pip install insightface") as refusal:
        comfy.run("LynxLoadMini")
    assert "git checkout" not in str(refusal.value)


@pytest.mark.parametrize(
    ("node_id", "opened"),
    [("LynxLoadMini", ""), ("LynxPerson", "lynx/faces/"), ("LynxPerson", "insightface/")],
)
def test_replaced_files_are_opened_again(
    comfy: InProcessComfy, assets: Path, node_id: str, opened: str
) -> None:
    """Lynx Person opens Mini Lynx's face models by itself, for an adapter that was trained on them."""
    node = comfy.node_classes[node_id]
    before = node.fingerprint_inputs()
    assert node.fingerprint_inputs() == before
    for name in list_files(comfy):
        if name.startswith(opened):
            content = (assets / name).read_bytes()
            (assets / name).unlink()
            (assets / name).write_bytes(content)
            after = node.fingerprint_inputs()
            assert after != before, name
            before = after


@pytest.mark.parametrize(
    ("node", "inputs"),
    [
        ("LynxLoadAdapter", {"adapter": "lynx_mini.safetensors"}),
        ("LynxLoadFaceAnalyzer", {"detector_pack": "lynx_mini", "encoder": "lynx_mini_arcface.safetensors"}),
    ],
)
def test_graphs_that_name_the_files_in_loaders_are_told_of_the_node(
    comfy: InProcessComfy, node: str, inputs: dict[str, str]
) -> None:
    said = comfy.node_classes[node].validate_inputs(**inputs)
    assert "is not there" in said and "use Lynx Load Mini" in said
    other: Any = comfy.node_classes["LynxLoadAdapter"].validate_inputs(adapter="lynx_other.safetensors")
    assert "is not there" in other and "Mini" not in other
