"""Videos made by real ComfyUI servers: each once, whatever dies on the way."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from comfy_host import ComfyHost, list_files
from PIL import Image
from small_benchmark import MINI, REPO, make_matrix
from standin_installation import write_photo
from standin_models import write_standin_models

from lynx_core.evaluation.cells import Matrix
from lynx_core.evaluation.configuration import read_toml
from lynx_core.evaluation.errors import GenerationError
from lynx_core.evaluation.generation import generate, locate_video
from lynx_core.evaluation.ledger import VideoRow, open_videos
from lynx_core.evaluation.video import read_video
from lynx_core.hashing import hash_every_byte

pytestmark = pytest.mark.host
WORKFLOWS = REPO / "assets" / "benchmark" / "workflows"
INPUTS = {"photo": "photo.image", "prompt": "prompt.text", "seed": "sample.seed", "output": "save"}


def write_workflow(folder: Path, name: str, **changes: Any) -> Path:
    """A shipped workflow of few steps, with some inputs of its sampler changed."""
    nodes = json.loads((WORKFLOWS / f"{name}.json").read_text())
    nodes["sample"]["inputs"] |= {"steps": 1, **changes}
    path = folder / f"{name}.json"
    path.write_text(json.dumps(nodes))
    return path


def make_method(folder: Path, name: str, **changes: Any) -> dict[str, Any]:
    inputs = {key: place for key, place in INPUTS.items() if key != "photo" or name != "mini_base"}
    workflow = write_workflow(folder, name, **changes)
    return {"name": name, "conditioned_by": [], "workflow": workflow, "inputs": inputs}


def count_runs(host: ComfyHost, prefix: str) -> int:
    """How many prompts the server has run or holds whose video goes to `benchmark/<prefix>`."""
    queue = host.get("/queue").json()
    prompts = [entry["prompt"][2] for entry in host.get("/history").json().values()]
    prompts += [item[2] for name in ("queue_running", "queue_pending") for item in queue[name]]
    return sum(p.get("save", {}).get("inputs", {}).get("filename_prefix") == prefix for p in prompts)


def mark_workflow(path: Path, prefix: str) -> None:
    """Make the runs of one test tell from those of others."""
    nodes = json.loads(path.read_text())
    nodes["save"]["inputs"]["filename_prefix"] = prefix
    path.write_text(json.dumps(nodes))


def read_rows(matrix: Matrix) -> list[VideoRow]:
    return open_videos(matrix.output).read()


def test_every_cell_is_made_once_and_traced_to_bytes(
    comfy_host: ComfyHost, data: Path, tmp_path: Path
) -> None:
    methods = [make_method(tmp_path, "mini_full"), make_method(tmp_path, "mini_base")]
    generation = {"servers": [comfy_host.url], "models": [MINI]}
    matrix = make_matrix(data, tmp_path / "out", methods, generation=generation, max_subjects=2)
    said: list[str] = []
    generate(matrix, said.append)
    rows = read_rows(matrix)
    assert {(row.method, row.subject, row.prompt) for row in rows} == {
        (method, subject, prompt)
        for method in ("mini_full", "mini_base")
        for subject in ("drawn_000", "drawn_001")
        for prompt in ("caption_00", "caption_01")
    }
    for row in rows:
        assert row.error is None and row.latency_s and row.latency_s > 0 and row.peak_memory_gb
        assert hash_every_byte(locate_video(matrix.output, row)) == row.video_sha256
        assert row.photo_sha256 == matrix.subjects[row.subject].reference_hash
    full = next(row for row in rows if row.method == "mini_full")
    weights = json.loads(full.model_files)
    assert weights["lynx_mini.safetensors"] == hash_every_byte(MINI / "lynx" / "lynx_mini.safetensors")
    assert len({row.video_sha256 for row in rows}) == 8, "photo, prompt and seed should each change the video"
    base = next(row for row in rows if row.method == "mini_base")
    assert base.parameters and full.parameters and full.parameters > base.parameters + 10**6

    said.clear()
    generate(matrix, said.append)
    assert said == ["all videos are there"]

    locate_video(matrix.output, full).unlink()
    generate(matrix, said.append)
    assert said[1] == "1 videos to make" and locate_video(matrix.output, full).is_file()


def write_toml(path: Path, data: Path, out: Path, method: dict[str, Any], servers: list[str]) -> Path:
    inputs = "\n".join(f'{key} = "{value}"' for key, value in method["inputs"].items())
    path.write_text(
        f'subjects = "{data}/subjects.jsonl"\nprompts = "{data}/prompts.toml"\noutput = "{out}"\n'
        f"[generation]\nservers = {json.dumps(servers)}\n"
        f'[[methods]]\nname = "{method["name"]}"\nconditioned_by = []\nworkflow = "{method["workflow"]}"\n'
        f"[methods.inputs]\n{inputs}\n"
    )
    return path


def start_cli(*words: str) -> subprocess.Popen[str]:
    environment = os.environ | {"PYTHONPATH": str(REPO), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "lynx_core.cli.main", "evaluate", *words]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment
    )


def test_a_killed_run_loses_no_video_and_makes_none_twice(
    comfy_host: ComfyHost, data: Path, tmp_path: Path
) -> None:
    method = make_method(tmp_path, "mini_base", steps=3)
    mark_workflow(method["workflow"], "benchmark/killed")
    config = write_toml(tmp_path / "b.toml", data, tmp_path / "out", method, [comfy_host.url])
    run = start_cli("generate", str(config))
    assert run.stdout is not None
    for line in run.stdout:
        if line.startswith("2 of 6"):
            break
    time.sleep(0.3)  # into the third
    run.send_signal(signal.SIGKILL)
    run.wait()
    before = {row.video_sha256 for row in open_videos(tmp_path / "out").read()}
    assert len(before) >= 2

    again = start_cli("generate", str(config))
    output, _ = again.communicate(timeout=240)
    assert again.returncode == 0, output
    rows = open_videos(tmp_path / "out").read()
    assert len(rows) == 6 and before <= {row.video_sha256 for row in rows}
    assert count_runs(comfy_host, "benchmark/killed") == 6


def test_another_server_takes_over_from_one_that_dies(
    comfy_host: ComfyHost, comfyui_dirs: dict[str, Path], data: Path, tmp_path: Path
) -> None:
    method = make_method(tmp_path, "mini_base", steps=4)
    with ComfyHost(comfyui_dirs["0.30.0"], tmp_path / "mortal") as mortal:
        generation = {"servers": [mortal.url, comfy_host.url], "patience_s": 1}
        matrix = make_matrix(data, tmp_path / "out", [method], generation=generation)
        process: Any = mortal._process

        def kill_when_busy() -> None:
            while not mortal.get("/queue").json()["queue_running"]:
                time.sleep(0.02)
            os.killpg(process.pid, signal.SIGKILL)

        threading.Thread(target=kill_when_busy, daemon=True).start()
        said: list[str] = []
        generate(matrix, said.append)
    assert any("stays away" in line or "does not answer" in line for line in said)
    rows = read_rows(matrix)
    assert len(rows) == 6 and all(row.error is None for row in rows)


def test_what_fails_is_an_error_and_is_made_once_it_is_mended(
    comfy_host: ComfyHost, data: Path, tmp_path: Path
) -> None:
    method = make_method(tmp_path, "mini_base")
    good = method["workflow"].read_text()
    method["workflow"].write_text(good.replace('"euler"', '"no_such_sampler"'))
    generation = {"servers": [comfy_host.url], "attempts": 2}
    matrix = make_matrix(data, tmp_path / "out", [method], generation=generation, max_subjects=1)
    with pytest.raises(GenerationError, match="2 of 2 videos are missing"):
        generate(matrix, lambda _: None)
    rows = read_rows(matrix)
    assert all(row.video_sha256 is None and "no_such_sampler" in (row.error or "") for row in rows)
    assert {row.attempts for row in rows} == {2}
    method["workflow"].write_text(good)
    generate(matrix, lambda _: None)
    assert all(row.error is None for row in read_rows(matrix))


def test_no_server_at_all_ends_with_what_to_do(data: Path, tmp_path: Path) -> None:
    generation = {"servers": ["http://127.0.0.1:9"], "patience_s": 0}
    matrix = make_matrix(data, tmp_path / "out", [make_method(tmp_path, "mini_base")], generation=generation)
    with pytest.raises(GenerationError, match="run the same command again"):
        generate(matrix, lambda _: None)


def test_shipped_workflows_fit_the_host(each_comfy_host: ComfyHost) -> None:
    info = each_comfy_host.object_info()
    paths = sorted(WORKFLOWS.glob("*.json"))
    assert len(paths) == 11
    for path in paths:
        for name, node in json.loads(path.read_text()).items():
            schema = info[node["class_type"]]["input"]
            known = {**schema.get("required", {}), **schema.get("optional", {})}
            assert set(node["inputs"]) <= set(known), f"{path.name}: {name}"
            missing = [key for key, spec in schema.get("required", {}).items() if key not in node["inputs"]]
            assert not missing, f"{path.name}: {name} lacks {missing}"


PEER_FILES = {
    "diffusion_models/Phantom-Wan-14B_fp8_e4m3fn.safetensors": "wan_t2v",  # of the base's layout
}


@pytest.mark.parametrize("name", ["wan_base", "lynx_full", "lynx_lite", "vace", "phantom"])
def test_a_method_on_the_14b_files_makes_a_video_and_sees_the_photo(
    name: str, comfy_host: ComfyHost, tmp_path: Path
) -> None:
    write_standin_models(comfy_host.base_dir / "models", PEER_FILES)
    nodes = json.loads((WORKFLOWS / f"{name}.json").read_text())
    for node in nodes.values():
        small = {"width": 96, "height": 64, "length": 9, "target_width": 96, "target_height": 64, "steps": 2}
        node["inputs"] |= {key: value for key, value in small.items() if key in node["inputs"]}
    nodes["prompt"]["inputs"]["text"] = "A person waves on a beach."
    photos = [comfy_host.upload_image(write_photo(tmp_path / "six.png"))]
    if "photo" in nodes:  # mirrored: another face is the largest one's crop
        Image.open(tmp_path / "six.png").transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(
            tmp_path / "mirror.png"
        )
        photos.append(comfy_host.upload_image(tmp_path / "mirror.png"))
    made = []
    for photo in photos:
        if "photo" in nodes:
            nodes["photo"]["inputs"]["image"] = photo
        (video,) = list_files(comfy_host.queue(nodes), ".mp4")
        frames = read_video(comfy_host.fetch(video, tmp_path / str(len(made)))).frames
        assert frames.shape == (9, 64, 96, 3)
        made.append(frames.astype(float))
    if len(made) == 2:
        assert np.abs(made[0] - made[1]).mean() > 0.5, "the photo plays no part"


def test_the_shipped_workflows_are_what_the_script_writes() -> None:
    command = [sys.executable, str(REPO / "scripts" / "build_benchmark_workflows.py"), "--check"]
    checked = subprocess.run(command, capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stderr


def test_configurations_name_files_that_are_there() -> None:
    for path in sorted((REPO / "configs").glob("benchmark_*.toml")):
        for method in read_toml(path)["methods"]:
            if "workflow" in method:
                assert (REPO / method["workflow"]).is_file(), method["workflow"]
