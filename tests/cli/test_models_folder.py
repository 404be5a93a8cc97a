"""The folders of models are those that the host itself searches, in its order."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from lynx_core.cli.models_folder import ModelFolders

KINDS = ("diffusion_models", "text_encoders", "vae", "loras")
ASK_HOST = """
import json, sys
base, config, kinds = sys.argv[1], sys.argv[2], sys.argv[3:]
sys.argv = ["main.py", "--base-directory", base, "--cpu"]
import comfy.options
comfy.options.enable_args_parsing()
import folder_paths
from utils.extra_config import load_extra_path_config
load_extra_path_config(config)
print(json.dumps({kind: folder_paths.get_folder_paths(kind) for kind in kinds}))
"""
CONFIGURATION = """
plain:
  base_path: disk/models
  unet: unet/
  clip: |
    clip
    text/encoders/
  vae: ../vae
no_base:
  vae: beside
  loras: /absolute/loras
first:
  base_path: $LYNX_TEST_DISK
  is_default: true
  vae: fast
  diffusion_models: fast_diffusion
nothing:
"""


@pytest.mark.parametrize("version", ["0.30.0", "0.16.3"])
def test_folders_are_the_hosts(
    tmp_path: Path, comfyui_dirs: dict[str, Path], monkeypatch: pytest.MonkeyPatch, version: str
) -> None:
    monkeypatch.setenv("LYNX_TEST_DISK", str(tmp_path / "fast disk"))
    config = tmp_path / "elsewhere" / "paths.yaml"
    config.parent.mkdir()
    config.write_text(CONFIGURATION)
    (tmp_path / "models").mkdir()
    command = [sys.executable, "-c", ASK_HOST, str(tmp_path), str(config), *KINDS]
    done = subprocess.run(command, capture_output=True, text=True, cwd=comfyui_dirs[version], check=False)
    assert done.returncode == 0, done.stderr
    folders = ModelFolders(tmp_path / "models", [config])
    ours = {kind: [str(folder) for folder in folders.list_folders(kind)] for kind in KINDS}
    assert ours == json.loads(done.stdout.splitlines()[-1])
