"""A real ComfyUI, over HTTP: the pack is loaded, prompts run, errors arrive."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from comfy_host import PACK_NAME, ComfyHost, PromptError, list_files, pack_errors
from prompts import make_gated_prompt, make_lynx_prompt, make_person_prompt, make_wan_prompt
from standin_installation import write_photo
from video import read_video

NODE_IDS = {
    "LynxLoadAdapter",
    "LynxLoadFaceAnalyzer",
    "LynxLoadMini",
    "LynxCropFace",
    "LynxEncodeID",
    "LynxEncodeReference",
    "LynxApply",
    "LynxGuider",
    "LynxSampler",
    "LynxPerson",
    "LynxFaceSimilarity",
    "LynxLikenessGate",
}

pytestmark = pytest.mark.host


@pytest.fixture(scope="module")
def photo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_photo(tmp_path_factory.mktemp("photo") / "six_faces.png")


def test_host_loads_the_pack_without_complaint(each_comfy_host: ComfyHost) -> None:
    assert list(pack_errors(each_comfy_host.read_log())) == []
    info = each_comfy_host.object_info()
    assert set(info) >= NODE_IDS
    assert {info[node_id]["python_module"] for node_id in NODE_IDS} == {f"custom_nodes.{PACK_NAME}"}


def test_plain_wan_gives_a_playable_video(each_comfy_host: ComfyHost, tmp_path: Path) -> None:
    outputs = each_comfy_host.queue(make_wan_prompt())
    (file,) = list_files(outputs, ".mp4")
    video = read_video(each_comfy_host.fetch(file, tmp_path))
    assert video.frames.shape == (5, 64, 64, 3)
    assert video.fps == 16
    assert video.frames.std() > 5, "the stand-in models should give noise, not a flat picture"


def test_lynx_gives_a_playable_video(each_comfy_host: ComfyHost, photo: Path, tmp_path: Path) -> None:
    name = each_comfy_host.upload_image(photo)
    videos = []
    for prompt in (make_wan_prompt(seed=3), make_lynx_prompt(name, seed=3), make_lynx_prompt(name, seed=4)):
        (file,) = list_files(each_comfy_host.queue(prompt), ".mp4")
        videos.append(read_video(each_comfy_host.fetch(file, tmp_path)).frames.astype(int))
    assert videos[1].shape == (5, 64, 64, 3)
    assert np.abs(videos[0] - videos[1]).mean() > 1, "the identity should change the video"
    assert np.abs(videos[2] - videos[1]).mean() > 1, "the seed should change the video"


def test_lynx_person_and_lynx_sampler_make_the_video_of_the_parts(
    each_comfy_host: ComfyHost, photo: Path, tmp_path: Path
) -> None:
    name = each_comfy_host.upload_image(photo)
    videos = []
    for prompt in (make_lynx_prompt(name, seed=6), make_person_prompt(name, seed=6)):
        (file,) = list_files(each_comfy_host.queue(prompt), ".mp4")
        videos.append(read_video(each_comfy_host.fetch(file, tmp_path)).frames.astype(int))
    assert np.array_equal(*videos)


def test_the_likeness_gate_keeps_the_best_of_several_videos(each_comfy_host: ComfyHost) -> None:
    before = len(each_comfy_host.read_log())
    outputs = each_comfy_host.queue(make_gated_prompt(-1.0, (1, 2, 3), "the best alone"))
    log = each_comfy_host.read_log()[before:]
    assert "of 3: likeness" in log and "This recogniser also conditioned the video" in log
    kept = [file for file in list_files(outputs, ".png") if "kept" in str(file)]
    assert len(kept) == 5, "the frames of one video"
    assert len([file for file in list_files(outputs, ".png") if "plot" in str(file)]) == 3


def test_the_likeness_gate_blocks_and_says_why(each_comfy_host: ComfyHost) -> None:
    before = len(each_comfy_host.read_log())
    outputs = each_comfy_host.queue(make_gated_prompt(1.0, (1,)))
    assert "save" not in outputs, "what comes behind the gate"
    assert {"plot", "sheet"} <= set(outputs), "what comes before it is kept"
    assert "no video passes" in each_comfy_host.read_log()[before:]


def test_crossed_outputs_of_lynx_apply_are_said(each_comfy_host: ComfyHost, photo: Path) -> None:
    """KSampler knows nothing of Lynx, and would give a video of anybody without a word."""
    prompt = make_lynx_prompt(each_comfy_host.upload_image(photo), seed=5)
    inputs = prompt["sample"]["inputs"]
    for name in ("middle", "identity_cfg"):
        del inputs[name]
    prompt["sample"] = {"class_type": "KSampler", "inputs": inputs}
    before = len(each_comfy_host.read_log())
    each_comfy_host.queue(prompt)
    assert "carries the" not in each_comfy_host.read_log()[before:]
    inputs |= {"positive": ["apply", 2], "negative": ["apply", 1]}
    each_comfy_host.queue(prompt)
    log = each_comfy_host.read_log()[before:]
    assert "positive carries the null identity alone" in log and "negative carries the person" in log


def test_a_refused_prompt_names_the_node_and_the_value(comfy_host: ComfyHost) -> None:
    prompt = make_wan_prompt()
    prompt["model"]["inputs"]["unet_name"] = "no_such_file.safetensors"
    error = comfy_host.queue_error(prompt)
    assert error.node_type == "UNETLoader"
    assert "no_such_file.safetensors" in str(error)


def test_a_failing_node_gives_its_own_message_and_the_next_run_works(comfy_host: ComfyHost) -> None:
    prompt = make_wan_prompt(seed=11)
    prompt["decode"]["inputs"]["vae"] = ["broken", 0]
    prompt["broken"] = {"class_type": "VAELoader", "inputs": {"vae_name": "broken.safetensors"}}
    broken = comfy_host.base_dir / "models" / "vae" / "broken.safetensors"
    broken.write_bytes(b"not a safetensors file")
    try:
        error = comfy_host.queue_error(prompt)
    finally:
        broken.unlink()
    assert error.node_id == "broken"
    assert list_files(comfy_host.queue(make_wan_prompt(seed=12)), ".mp4")


def test_interrupting_ends_the_run_and_the_next_one_works(comfy_host: ComfyHost) -> None:
    prompt_id = comfy_host.submit(make_wan_prompt(seed=21, steps=500))
    comfy_host.wait_until_running(prompt_id)
    comfy_host.interrupt()
    with pytest.raises(PromptError, match="interrupted"):
        comfy_host.wait(prompt_id)
    assert list_files(comfy_host.queue(make_wan_prompt(seed=22)), ".mp4")
