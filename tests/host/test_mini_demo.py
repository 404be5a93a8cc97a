"""The demo: what it runs, what it says when files or words are missing, and the whole of it once."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from comfy_host import REPO_DIR
from PIL import Image
from video import read_video

sys.path.insert(0, str(REPO_DIR / "scripts"))

import demo
from demo_models import FULL_WORKFLOW, MINI_WORKFLOW, MissingFiles, choose_model
from demo_sheet import Sheet, draw_sheet


def write_models(models_dir: Path) -> Path:
    """Empty files of the real model's names."""
    for name in (
        "unet/wan2.1_t2v_14B_fp8_e4m3fn.safetensors",
        "text_encoders/umt5_xxl_fp8_e4m3fn_scaled.safetensors",
        "vae/wan_2.1_vae.safetensors",
        "lynx/lynx_full/resampler.safetensors",
        "lynx/faces/recognition_arcface_ir_se50.pth",
        "insightface/models/buffalo_l/det_10g.onnx",
    ):
        (models_dir / name).parent.mkdir(parents=True, exist_ok=True)
        (models_dir / name).touch()
    return models_dir


def test_the_real_model_runs_where_its_files_are(tmp_path: Path) -> None:
    models_dir = write_models(tmp_path / "models")
    for model, note in (choose_model(models_dir, {}), choose_model(None, {"COMFYUI_DIR": str(tmp_path)})):
        assert model.workflow == FULL_WORKFLOW and model.models_dir == models_dir
        assert str(models_dir) in note


def test_a_missing_file_of_the_real_model_is_named(tmp_path: Path) -> None:
    models_dir = write_models(tmp_path / "models")
    (models_dir / "vae" / "wan_2.1_vae.safetensors").unlink()
    with pytest.raises(MissingFiles) as refusal:
        choose_model(models_dir, {})
    for part in (str(models_dir), "vae/wan_2.1_vae.safetensors", "comfy-lynx download"):
        assert part in str(refusal.value)
    assert "unet" not in str(refusal.value)
    model, note = choose_model(None, {"COMFYUI_DIR": str(tmp_path)})
    assert model.workflow == MINI_WORKFLOW and "vae/wan_2.1_vae.safetensors" in note


def test_a_missing_file_of_the_miniature_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("demo_models.MINI_MODELS", tmp_path)
    with pytest.raises(MissingFiles, match="lynx_mini_wan_t2v"):
        choose_model(None, {})


def test_unknown_words_bring_a_hint(capsys: pytest.CaptureFixture[str]) -> None:
    demo.print_unknown_words("A person smiles on a beach")
    assert capsys.readouterr().out == ""
    demo.print_unknown_words("a pirate smiles, by the ocean")
    said = capsys.readouterr().out
    assert "does not know: pirate, ocean" in said and "by the sea" in said


@pytest.mark.parametrize("num_frames", [1, 9, 81])
def test_sheet_shows_any_number_of_frames(num_frames: int) -> None:
    frames = np.full((num_frames, 48, 80, 3), 200, np.uint8)
    scores = [None, *[0.5] * (num_frames - 1)]
    sheet = draw_sheet(Sheet("a prompt " * 30, Image.new("RGB", (50, 70)), frames, scores, "a note"))
    assert sheet.width < 2400 and sheet.height < 1200
    assert np.asarray(sheet).std() > 5


@pytest.mark.host
def test_demo_makes_a_video_and_a_sheet_from_the_shipped_files(tmp_path: Path) -> None:
    command = [sys.executable, str(REPO_DIR / "scripts" / "demo.py"), "--out", str(tmp_path), "--steps", "4"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert read_video(tmp_path / "lynx.mp4").frames.shape == (9, 64, 64, 3)
    assert Image.open(tmp_path / "lynx_contact_sheet.png").width > 1000
    assert "drawn people" in done.stdout
