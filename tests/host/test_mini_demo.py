"""The demo: what it runs, what it says when files or words are missing, and the whole of it once."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from comfy_host import REPO_DIR, ComfyHost, PromptError
from PIL import Image
from video import read_video
from workflow import workflow_to_prompt

from subgraphs import flatten

sys.path.insert(0, str(REPO_DIR / "scripts"))

import demo
import prompt_edits
from demo_models import FULL_WORKFLOW, MINI_MODELS, MINI_WORKFLOW, DemoModel, MissingFiles, choose_model
from demo_sheet import LINE, Sheet, SheetRow, draw_sheet
from demo_workflow import PHOTO_NAME, edit_workflow


def write_models(models_dir: Path) -> Path:
    """Files of the real model's names, a byte each."""
    for name in (
        "unet/wan2.1_t2v_14B_fp8_e4m3fn.safetensors",
        "text_encoders/umt5_xxl_fp8_e4m3fn_scaled.safetensors",
        "vae/wan_2.1_vae.safetensors",
        "lynx/lynx_full/resampler.safetensors",
        "lynx/lynx_full/ip_layers.safetensors",
        "lynx/lynx_full/ref_layers.safetensors",
        "lynx/faces/recognition_arcface_ir_se50.pth",
        "insightface/models/buffalo_l/det_10g.onnx",
    ):
        (models_dir / name).parent.mkdir(parents=True, exist_ok=True)
        (models_dir / name).write_bytes(b"x")
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
    with pytest.raises(MissingFiles, match=r"insightface/models/lynx_mini\n.*lynx_mini_arcface"):
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
    rows = [SheetRow("with", frames, scores), SheetRow("without", frames, [None] * num_frames)]
    lines = {"another picture": 0.8, "a stranger": 0.1}
    sheet = draw_sheet(Sheet("a prompt " * 30, Image.new("RGB", (50, 70)), rows, lines, "a note"))
    assert sheet.width < 2400 and sheet.height < 1200
    assert np.asarray(sheet).std() > 5


def test_the_curve_stops_where_there_is_no_face() -> None:
    def count_blue(scores: list[float | None]) -> int:
        rows = [SheetRow("with", np.full((5, 48, 48, 3), 200, np.uint8), scores)]
        sheet = draw_sheet(Sheet("a prompt", Image.new("RGB", (50, 50)), rows, {}, "a note"))
        return int(np.all(np.asarray(sheet) == LINE, axis=2).sum())

    assert count_blue([0.7, 0.7, None, 0.7, 0.7]) < 0.75 * count_blue([0.7] * 5)


def test_a_part_of_the_adapter_that_is_missing_is_named(tmp_path: Path) -> None:
    models_dir = write_models(tmp_path / "models")
    (models_dir / "lynx/lynx_full/ref_layers.safetensors").unlink()
    with pytest.raises(MissingFiles, match=r"\n  lynx/lynx_full/ref_layers\.safetensors\n") as refusal:
        choose_model(models_dir, {})
    assert "none" not in str(refusal.value)


def test_files_of_no_bytes_are_missing(tmp_path: Path) -> None:
    models_dir = write_models(tmp_path / "models")
    for name in ("vae/wan_2.1_vae.safetensors", "insightface/models/buffalo_l/det_10g.onnx"):
        (models_dir / name).write_bytes(b"")
    with pytest.raises(MissingFiles) as refusal:
        choose_model(models_dir, {})
    assert "vae/wan_2.1_vae.safetensors" in str(refusal.value)
    assert "insightface/models/buffalo_l" in str(refusal.value)


def test_an_empty_folder_does_not_hide_the_files_in_another(tmp_path: Path) -> None:
    models_dir = write_models(tmp_path / "models")
    for name in ("lynx/lynx_full", "insightface/models/buffalo_l"):
        (tmp_path / "disk" / name).parent.mkdir(parents=True)
        (models_dir / name).rename(tmp_path / "disk" / name)
        (models_dir / name).mkdir()
    (tmp_path / "extra_model_paths.yaml").write_text(
        "d:\n  base_path: disk\n  lynx: lynx\n  insightface: insightface\n"
    )
    model, _ = choose_model(models_dir, {})
    assert model.find_face_models()[0] == tmp_path / "disk" / "insightface"
    model.write_paths(tmp_path / "for_the_host.yaml")
    assert str(tmp_path / "disk" / "lynx") in (tmp_path / "for_the_host.yaml").read_text()


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["--seed", "-1"], "--seed is 0 to 18446744073709551615, got -1"),
        (["--seed", str(2**64)], "--seed is 0 to"),
        (["--seed", "one"], "invalid int value: 'one'"),
        (["--steps", "0"], "--steps is 1 to"),
        (["--width", "-64"], "--width is 16 to"),
        (["--height", "40"], "--height must be a multiple of 16"),
        (["--frames", "-3"], "--frames is 1 to"),
        (["--prompt", " "], "--prompt is empty"),
        (["--photo", "nowhere.png"], "there is no file nowhere.png"),
        (["--models", "nowhere"], "there is no folder nowhere"),
    ],
)
def test_wrong_arguments_are_said_before_anything_starts(
    capsys: pytest.CaptureFixture[str], words: list[str], reason: str
) -> None:
    with pytest.raises(SystemExit) as ending:
        demo.main(words)
    assert ending.value.code == 2 and reason in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("empty.jpg", b"", "is empty"),
        ("text.jpg", b"hello there, general", "no known picture format"),
        ("cut.png", (MINI_MODELS / "example.png").read_bytes()[:900], "breaks off"),
        ("cut.heic", b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "breaks off"),
    ],
)
def test_a_photo_that_cannot_be_read_is_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, content: bytes, reason: str
) -> None:
    (tmp_path / name).write_bytes(content)
    assert demo.main(["--photo", str(tmp_path / name), "--out", str(tmp_path / "out")]) == 1
    said = capsys.readouterr().err
    assert said.startswith(f"The demo cannot run: {name} ") and reason in said and said.count("\n") == 1


def test_an_output_folder_that_is_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").touch()
    assert demo.main(["--out", str(tmp_path / "file")]) == 1
    said = capsys.readouterr().err
    assert str(tmp_path / "file") in said and said.count("\n") == 1


def test_a_person_erased_by_transparency_is_not_the_identity(tmp_path: Path) -> None:
    """The erased person is twice as large, so that the largest face would be hers."""
    visible = Image.open(MINI_MODELS / "example.png").convert("RGBA")
    erased = visible.resize((visible.width * 2, visible.height * 2))
    erased.putalpha(0)
    photo = Image.new("RGBA", (visible.width * 3, visible.height * 2), (128, 128, 128, 255))
    photo.paste(visible, (0, 0))
    photo.paste(erased, (visible.width, 0))
    photo.save(tmp_path / "two.png")
    model = DemoModel(MINI_WORKFLOW, MINI_MODELS)
    alone = demo.find_face(model, MINI_MODELS / "example.png", tmp_path)
    chosen = demo.find_face(model, tmp_path / "two.png", tmp_path)
    assert not chosen.is_aligned
    likeness = alone.analyzer.recogniser.embed([alone.crop.id_crop, chosen.crop.id_crop])
    assert float(likeness[0] @ likeness[1]) > 0.8
    assert 0.8 < chosen.crop.face_px / alone.crop.face_px < 1.25


def test_a_broken_detector_is_no_photo_without_a_face(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "insightface.app", None)
    with pytest.raises(demo.FaceError, match="insightface"):
        demo.find_face(DemoModel(MINI_WORKFLOW, MINI_MODELS), None, tmp_path)


@pytest.mark.host
def test_an_output_that_the_host_refuses_is_an_error_with_its_reason(comfy_host: ComfyHost) -> None:
    """The preview is fine without a seed, so the host answers 200 and runs that much."""
    prompt = workflow_to_prompt(
        DemoModel(MINI_WORKFLOW, MINI_MODELS).read_workflow(), comfy_host.object_info()
    )
    prompt_edits.set_photo(prompt, comfy_host.upload_image(MINI_MODELS / "example.png"))
    prompt_edits.set_seed(prompt, -1)
    with pytest.raises(PromptError, match=r"seed.*-1|-1.*seed|smaller than min"):
        comfy_host.submit(prompt)
    prompt_edits.set_seed(prompt, 1)
    prompt_edits.set_steps(prompt, 1)
    assert comfy_host.queue(prompt), "the refused prompt has left the queue"


@pytest.mark.host
def test_demo_makes_a_video_and_a_sheet_from_the_shipped_files(tmp_path: Path) -> None:
    mine = [tmp_path / "photo.png", tmp_path / "comfyui" / "main.py"]
    mine[1].parent.mkdir()
    for path in mine:
        path.write_text("mine")
    command = [sys.executable, str(REPO_DIR / "scripts" / "demo.py"), "--out", str(tmp_path), "--steps", "4"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert read_video(tmp_path / "lynx.mp4").frames.shape == (9, 64, 64, 3)
    with Image.open(tmp_path / "lynx_contact_sheet.png") as sheet:
        assert sheet.width > 1000
        nodes = flatten(json.loads(sheet.text["workflow"]))["nodes"]
        (sampler,) = [node for node in nodes if node["type"] == "LynxSampler"]
        assert sampler["widgets_values"][4] == 4, "steps are those of the run"
    assert "drawn people" in done.stdout
    assert not [path for path in tmp_path.rglob("*") if path.is_symlink()], "no way round through the pack"
    assert all(path.read_text() == "mine" for path in mine)


def test_the_workflow_that_travels_in_the_video_is_the_one_that_ran(tmp_path: Path) -> None:
    with Image.open(MINI_MODELS / "example.png") as portrait:
        portrait.save(tmp_path / "photo.png")
    shipped = json.loads(MINI_WORKFLOW.read_text(encoding="utf-8"))
    values = {"prompt": "someone nods", "seed": 7, "width": 96, "steps": None}
    edited = edit_workflow(shipped, values, tmp_path / "photo.png", is_aligned=True)
    assert shipped == json.loads(MINI_WORKFLOW.read_text(encoding="utf-8")), "the shipped one is not changed"
    flat = flatten(edited)
    held = {value for node in flat["nodes"] for value in node.get("promoted", {}).values()}
    assert "someone nods" in held
    (sampler,) = [node for node in flat["nodes"] if node["type"] == "LynxSampler"]
    assert sampler["widgets_values"][2:5] == [7, "fixed", 20], "the seed is kept, steps are the workflow's"
    (photo,) = [node for node in flat["nodes"] if node["type"] == "LoadImage"]
    (crop,) = [node for node in flat["nodes"] if node["type"] == "LynxCropFace"]
    assert photo["widgets_values"][0] == PHOTO_NAME and crop["widgets_values"] == ["largest", 1, True]
    link = next(row for row in flat["links"] if row[0] == crop["inputs"][0]["link"])
    assert link[1] == photo["id"], "the person comes from the photo"
    assert edited["extra"]["lynx_pictures"][PHOTO_NAME].startswith("data:image/jpeg;base64,")
