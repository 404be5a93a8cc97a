"""The verbs: what they print, their exit codes, and one clear line for every error."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
from importlib import metadata

import pytest
from safetensors.torch import load_file, save_file

from lynx_core.cli import doctor
from lynx_core.cli.main import main
from lynx_core.cli.models_folder import ModelsFolderError, resolve_models_folder
from lynx_core.formats.adapter import open_adapter
from lynx_core.formats.published_files import BUNDLES


def test_convert_writes_what_it_says(lite_release, tmp_path, capsys):
    out = tmp_path / "me.safetensors"
    assert main(["convert", str(lite_release), "--to", "comfy-lynx", "--out", str(out)]) == 0
    shown = capsys.readouterr().out
    assert "lynx_lite kind, 2 blocks of width 32" in shown and "facexlib/arcface_ir_se50" in shown
    assert f"wrote {out} ({out.stat().st_size:,} bytes)" in shown
    assert open_adapter(out).id.blocks == (0, 2)


def test_convert_dry_run_writes_nothing(lite_release, tmp_path, capsys):
    out = tmp_path / "out"
    assert main(["convert", str(lite_release), "--to", "kijai", "--out", str(out), "--dry-run"]) == 0
    assert "would write" in capsys.readouterr().out
    assert not out.exists()


def test_errors_are_one_line_on_stderr(tmp_path, capsys):
    missing = tmp_path / "nothing"
    assert main(["convert", str(missing), "--to", "release", "--out", str(tmp_path / "o")]) == 1
    output = capsys.readouterr()
    assert output.err.startswith(f"comfy-lynx: {missing} does not exist") and output.err.count("\n") == 1
    assert output.out == ""


def test_unwritable_destination_is_one_line(lite_release, tmp_path, capsys):
    (tmp_path / "file").touch()
    assert main(["convert", str(lite_release), "--to", "release", "--out", str(tmp_path / "file" / "x")]) == 1
    error = capsys.readouterr().err
    assert str(tmp_path / "file") in error and error.count("\n") == 1


def test_interruption_ends_130(lite_release, tmp_path, monkeypatch, capsys):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("lynx_core.formats.conversion.convert_adapter", interrupt)
    assert main(["convert", str(lite_release), "--to", "release", "--out", str(tmp_path / "o")]) == 130
    assert "interrupted" in capsys.readouterr().err


def test_command_is_installed_and_runs_without_torch(tmp_path):
    code = "import sys; from lynx_core.cli.main import main; code = main(); assert 'torch' not in sys.modules; sys.exit(code)"
    command = [sys.executable, "-c", code, "download", "faces", "--dry-run", "--models", str(tmp_path)]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "recognition_arcface_ir_se50.pth" in done.stdout
    (entry,) = [e for e in metadata.entry_points(group="console_scripts") if e.name == "comfy-lynx"]
    assert entry.load() is main


@pytest.fixture
def models(lite_release, tmp_path):
    folder = tmp_path / "models"
    (folder / "lynx").mkdir(parents=True)
    lite_release.rename(folder / "lynx" / "lynx_lite")
    return folder


def write_weights(path, num_bytes):
    """A safetensors file of that size whose single tensor is a hole."""
    header = json.dumps(
        {"x": {"dtype": "U8", "shape": [num_bytes - 208], "data_offsets": [0, num_bytes - 208]}}
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(struct.pack("<Q", 200) + header.encode().ljust(200))
    os.truncate(path, num_bytes)


def write_wan(models, **folders):
    """The files of `wan`, each kind in the folder that is named for it."""
    for source in BUNDLES["wan"].sources:
        kind, name = source.target.split("/")
        write_weights(models / folders.get(kind, kind) / name, source.num_bytes or 1000)


def test_doctor_shows_versions_files_and_adapters(models, capsys):
    write_wan(models)
    assert main(["doctor", "--models", str(models)]) == 0
    shown = capsys.readouterr().out
    assert f"torch {metadata.version('torch')}" in shown
    assert "wan: complete" in shown and "lynx_lite: complete" in shown
    assert "lynx_full: 3 of 3 missing; comfy-lynx download lynx_full" in shown
    assert "lynx_lite kind, 2 blocks of width 32" in shown


@pytest.mark.parametrize(
    ("num_bytes", "fault"),
    [(0, "is empty (0 bytes)"), (253_815_317, "has 253,815,317 bytes instead of 253,815,318")],
)
def test_doctor_finds_a_file_of_wrong_size(models, capsys, num_bytes, fault):
    write_wan(models)
    os.truncate(models / "vae/wan_2.1_vae.safetensors", num_bytes)
    assert main(["doctor", "--models", str(models)]) == 1
    shown = capsys.readouterr().out
    assert "wan: 1 of 3 unusable; comfy-lynx download wan --replace" in shown
    assert f"PROBLEM: {models / 'vae/wan_2.1_vae.safetensors'} {fault}" in shown


def test_doctor_finds_a_cut_file_whose_size_nobody_knows(models, capsys):
    write_wan(models)
    os.truncate(models / "diffusion_models/wan2.1_t2v_14B_fp8_e4m3fn.safetensors", 900)
    assert main(["doctor", "--models", str(models)]) == 1
    assert "wan2.1_t2v_14B_fp8_e4m3fn.safetensors is cut short" in capsys.readouterr().out


def test_doctor_looks_in_every_folder_of_the_host(models, capsys):
    write_wan(models, diffusion_models="unet", text_encoders="clip", vae="../disk/decoders")
    (models.parent / "extra_model_paths.yaml").write_text("d:\n  base_path: disk\n  vae: decoders\n")
    assert main(["doctor", "--models", str(models)]) == 0
    shown = capsys.readouterr().out
    assert "wan: complete" in shown
    for folder in (models / "unet", models / "clip", models.parent / "disk" / "decoders"):
        assert f"is in {folder}\n" in shown


def test_an_empty_folder_does_not_hide_the_complete_one(models, lite_release, capsys):
    other = models.parent / "disk"
    for folder in ("lynx", "insightface/models"):
        (other / folder).mkdir(parents=True)
    (models / "lynx" / "lynx_lite").rename(other / "lynx" / "lynx_lite")
    (models / "lynx" / "lynx_lite").mkdir()
    (models / "insightface/models/antelopev2").mkdir(parents=True)
    for source in BUNDLES["antelopev2"].sources:
        path = other / source.target
        path.parent.mkdir(exist_ok=True)
        path.touch()
        os.truncate(path, source.num_bytes)
    config = models.parent / "own.yaml"
    config.write_text(f"d:\n  base_path: {other}\n  lynx: lynx\n  insightface: insightface\n")
    assert main(["doctor", "--models", str(models), "--extra-model-paths-config", str(config)]) == 0
    shown = capsys.readouterr().out
    assert "lynx_lite: complete" in shown and "antelopev2: complete" in shown
    assert "lynx_lite: an empty folder" in shown and "lynx_lite kind, 2 blocks of width 32" in shown


def test_doctor_finds_a_damaged_adapter(models, capsys):
    path = models / "lynx" / "lynx_lite" / "ip_layers.safetensors"
    os.truncate(path, path.stat().st_size - 10)
    assert main(["doctor", "--models", str(models)]) == 1
    assert f"PROBLEM: {path} is cut short" in capsys.readouterr().out


def test_doctor_names_the_part_in_a_loose_file(models, capsys):
    resampler = load_file(models / "lynx" / "lynx_lite" / "resampler.safetensors")
    save_file(resampler, models / "lynx" / "some_name.safetensors")
    assert main(["doctor", "--models", str(models)]) == 0
    assert "some_name.safetensors: resampler" in capsys.readouterr().out


def test_doctor_says_what_a_missing_package_disables(models, monkeypatch, capsys):
    def version(package):
        if package == "gguf":
            raise metadata.PackageNotFoundError(package)
        return "1.0"

    monkeypatch.setattr(doctor.metadata, "version", version)
    assert main(["doctor", "--models", str(models)]) == 0
    shown = capsys.readouterr().out
    assert "gguf missing, which disables: adapters in GGUF files. pip install gguf" in shown


def test_models_folder_follows_from_where_the_pack_lies(tmp_path):
    pack = tmp_path / "ComfyUI" / "custom_nodes" / "ComfyUI-Lynx"
    pack.mkdir(parents=True)
    (tmp_path / "ComfyUI" / "models").mkdir()
    assert resolve_models_folder(None, pack) == tmp_path / "ComfyUI" / "models"
    with pytest.raises(ModelsFolderError, match="--models DIR"):
        resolve_models_folder(None, tmp_path / "elsewhere")
    with pytest.raises(ModelsFolderError, match=r"nowhere does not exist.*--models DIR"):
        resolve_models_folder(tmp_path / "nowhere")
