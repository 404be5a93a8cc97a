"""The pack where nothing of it may be written: folder of the pack and folder of the models on a read-only mount."""

from __future__ import annotations

import contextlib
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from comfy_host import PACK_NAME, REPO_DIR

RUN = """
import sys
from pathlib import Path

host, tests_host, base, pack_name = sys.argv[1:]
sys.path.insert(0, tests_host)
import in_process

base = Path(base)
for folder in (base / "models", base / "custom_nodes" / pack_name):
    try:
        (folder / "probe").touch()
    except OSError:
        continue
    raise SystemExit(f"{folder} can be written")
nodes = in_process.load_comfyui(Path(host), base)
pack = in_process.load_pack(nodes, base / "custom_nodes" / pack_name)
comfy = in_process.InProcessComfy(base, nodes, pack)
model, clip, vae, adapter, analyzer, photo = comfy.run("LynxLoadMini")
positive, negative = (comfy.run("CLIPTextEncode", clip=clip, text=text)[0] for text in ("a person smiles", ""))
applied = comfy.run("LynxPerson", image=photo, model=model, clip=clip, vae=vae, positive=positive,
                    negative=negative, loaded_adapter=adapter, face_analyzer=analyzer)
(latent,) = comfy.run("EmptyHunyuanLatentVideo", width=64, height=64, length=5)
names = ("model", "positive", "negative", "middle")
(sampled,) = comfy.run("LynxSampler", **dict(zip(names, applied)), latent_image=latent, seed=1, steps=1,
                       sampler_name="euler", scheduler="simple")
(images,) = comfy.run("VAEDecode", samples=sampled, vae=vae)
print("images", list(images.shape))
(face, *_) = comfy.run("LynxCropFace", image=photo, face_analyzer=analyzer)
(identity,) = comfy.run("LynxEncodeID", face_analyzer=analyzer, face=face)
try:
    comfy.run("LynxSaveIdentity", id=identity, face=face, name="Ann")
except Exception as error:
    print(f"refused: {type(error).__name__}: {error}")
"""


def find_namespace() -> list[str]:
    """A command in front of which mounts are the command's own; none where the system does not allow it."""
    for options in (["--mount"], ["--mount", "--map-root-user"]):
        command = ["unshare", *options]
        probe = [*command, "mount", "-t", "tmpfs", "none", "/mnt"]
        with contextlib.suppress(OSError):
            if subprocess.run(probe, check=False, capture_output=True).returncode == 0:
                return command
    return []


@pytest.mark.host
def test_mini_lynx_runs_from_a_read_only_installation(comfyui_dirs: dict[str, Path], tmp_path: Path) -> None:
    namespace = find_namespace()
    if not namespace:
        pytest.skip("this system lets no process mount folders for itself")
    pack, models = tmp_path / "custom_nodes" / PACK_NAME, tmp_path / "models"
    for folder in (pack, models, *(tmp_path / name for name in ("input", "output", "temp", "user"))):
        folder.mkdir(parents=True)
    host, tests_host = comfyui_dirs["0.30.0"].resolve(), pack / "tests" / "host"
    run = [sys.executable, "-c", RUN, str(host), str(tests_host), str(tmp_path), PACK_NAME]
    mounts = [
        shlex.join(command)
        for source, place in ((REPO_DIR, pack), (models, models))
        for command in (
            ["mount", "--bind", str(source), str(place)],
            ["mount", "-o", "remount,ro,bind", str(place)],
        )
    ]
    script = " && ".join([*mounts, f"exec {shlex.join(run)}"])
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*namespace, "bash", "-c", script],
        check=False,
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
    )
    said = done.stdout + done.stderr
    assert done.returncode == 0, said
    assert "images [5, 64, 64, 3]" in said and "Traceback" not in said
    refusal = "refused: ValueError: identities/Ann.safetensors"
    assert refusal in said and "could not be written: Read-only file system" in said
