"""Importing the pack changes nothing in the host but what it is asked for: nodes, and the folder `models/lynx`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from comfy_host import PACK_NAME, REPO_DIR

COMPARE = """
import json, sys, types
from pathlib import Path

host, tests_host, base, pack_name, plant = sys.argv[1:]
sys.path.insert(0, tests_host)
import in_process
from comfy_host import default_packs, prepare_base_dir

base = Path(base)
prepare_base_dir(base, {pack_name: default_packs()[pack_name]})
for name in ("input/mine.png", "models/lynx/mine.safetensors", "models/vae/mine.safetensors"):
    (base / name).parent.mkdir(exist_ok=True)
    (base / name).touch()
nodes = in_process.load_comfyui(Path(host), base)
import folder_paths

CODE = (types.FunctionType, type, types.MethodType, types.BuiltinFunctionType, staticmethod, classmethod, property)

def list_state():
    state = {}
    for module_name, module in list(sys.modules.items()):
        if not str(getattr(module, "__file__", None) or "").startswith(host):
            continue
        for name, value in list(vars(module).items()):
            if isinstance(value, CODE):
                state[f"{module_name}.{name}"] = id(value)
            if isinstance(value, type) and value.__module__ == module_name:
                for inner, member in list(vars(value).items()):
                    if isinstance(member, CODE):
                        state[f"{module_name}.{name}.{inner}"] = id(member)
            if isinstance(value, (list, tuple, set)) and all(isinstance(v, (str, int, float)) for v in value):
                state[f"{module_name}.{name}"] = repr(value)
    for key, (paths, extensions) in folder_paths.folder_names_and_paths.items():
        state[f"folder {key}"] = repr((paths, sorted(extensions)))
        state[f"files of {key}"] = repr(folder_paths.get_filename_list(key))
    for path in sorted(base.rglob("*")):
        state[f"disk {path.relative_to(base)}"] = path.stat().st_mtime_ns if path.is_file() else 0
    return state

before = list_state()
nodes_before = dict(nodes.NODE_CLASS_MAPPINGS)
if plant:
    import comfy.sd
    exec(plant)
in_process.load_pack(nodes, base / "custom_nodes" / pack_name)
after = list_state()
differing = sorted(key for key in before if before[key] != after.get(key))
# A module that was imported later brings names of its own; a new folder or file is a change.
differing += sorted(key for key in after if key not in before and key.startswith(("folder ", "files ", "disk ")))
differing += sorted(n for n in nodes_before if nodes.NODE_CLASS_MAPPINGS[n] is not nodes_before[n])
added = sorted(set(nodes.NODE_CLASS_MAPPINGS) - set(nodes_before))
lynx = {key: after[f"files of {key}"] for key in ("lynx", "lynx_faces")}
print(json.dumps([len(before), differing, added, lynx]))
"""

LYNX_FOLDERS = ["files of lynx", "files of lynx_faces", "folder lynx", "folder lynx_faces"]


def compare(
    comfyui_dir: Path, base_dir: Path, plant: str = ""
) -> tuple[int, list[str], list[str], dict[str, str]]:
    """Load the pack in a fresh process: facts compared, those that differ, new nodes, files in lists of our own."""
    arguments = [
        str(comfyui_dir.resolve()),
        str(REPO_DIR / "tests" / "host"),
        str(base_dir),
        PACK_NAME,
        plant,
    ]
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-c", COMPARE, *arguments], capture_output=True, text=True, timeout=240, cwd=base_dir, env=environment, check=False
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return tuple(json.loads(done.stdout.strip().splitlines()[-1]))


@pytest.mark.parametrize("version", ["0.30.0", "0.16.3"])
def test_nothing_but_models_lynx_is_added(
    comfyui_dirs: dict[str, Path], tmp_path: Path, version: str
) -> None:
    num_facts, differing, added, lynx = compare(comfyui_dirs[version], tmp_path)
    assert num_facts > 5000
    assert differing == LYNX_FOLDERS
    assert added and all(name.startswith("Lynx") for name in added)
    assert lynx == {"lynx": "['mine.safetensors']", "lynx_faces": "[]"}


PLANTS = {
    "comfy.sd.load_clip": "load = comfy.sd.load_clip; comfy.sd.load_clip = lambda *a, **k: load(*a, **k)",
    "comfy.sd.CLIP.tokenize": "comfy.sd.CLIP.tokenize = lambda self, text: None",
    "files of vae": f"folder_paths.add_model_folder_path('vae', {str(REPO_DIR / 'assets/mini/vae')!r})",
    "disk input/example.png": "(base / 'input' / 'example.png').touch()",
}
"""What differs, and what a pack may do to a host."""


def test_each_change_of_the_host_is_seen(comfyui_dirs: dict[str, Path], tmp_path: Path) -> None:
    _, differing, _, _ = compare(comfyui_dirs["0.30.0"], tmp_path, "\n".join(PLANTS.values()))
    assert set(PLANTS) <= set(differing)
