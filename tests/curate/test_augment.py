"""Augmenters edit, and the pipeline asks afterwards who is in the picture."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from drawn import MINI, draw, make_config
from PIL import Image

from lynx_core.curate.augment.comfyui import fill_workflow, read_workflow
from lynx_core.curate.augment.interface import FaceImage
from lynx_core.curate.augment.registry import make_augmenter
from lynx_core.curate.augment.relight import draw_normals, evaluate_harmonics
from lynx_core.curate.augment.warp import solve_spline
from lynx_core.curate.configuration import AugmenterConfig
from lynx_core.curate.errors import CurationError
from lynx_core.curate.face_looks import cut_picture
from lynx_core.curate.head_pose import HEAD_MODEL, estimate_pose
from lynx_core.curate.media import read_jpeg
from lynx_core.curate.networks import FaceNetworks, embed_crops
from lynx_core.curate.records import Variant, VariantRequest
from lynx_core.curate.variants import OpenVariants, choose_augmenter
from lynx_core.engine.stage import Rejected
from lynx_core.faces.crops import crop_for_id


@pytest.fixture(scope="module")
def networks(tmp_path_factory) -> FaceNetworks:
    return FaceNetworks(make_config(MINI / "none", tmp_path_factory.mktemp("set")).faces)


@pytest.fixture(scope="module")
def request_(networks) -> VariantRequest:
    pixels = draw(0, 1, 0).draw_frame(0, 256)
    (face,) = networks.detector.detect(pixels)
    picture, landmarks = cut_picture(pixels, face)
    embedding = embed_crops(networks.recogniser, [crop_for_id(pixels, face.landmarks)])[0]
    return VariantRequest("pair", "photo.png", picture, landmarks.ravel(), embedding)


@pytest.fixture(scope="module")
def backgrounds(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("backgrounds")
    Image.fromarray(np.full((64, 64, 3), (20, 200, 40), np.uint8)).save(folder / "green.png")
    return folder


def open_variants(networks, *configs, threshold=0.6):
    return OpenVariants(tuple(configs), networks.config, threshold)()


@pytest.mark.parametrize("name", ["background", "relight", "warp"])
def test_a_built_in_augmenter_changes_the_picture_and_not_the_person(name, networks, request_, backgrounds):
    options = {"folder": str(backgrounds)} if name == "background" else {}
    make = open_variants(networks, AugmenterConfig(name, options))
    ((variant,),) = make([request_])
    assert isinstance(variant, Variant), variant
    assert 0.6 <= variant.similarity < 1 and variant.augmenter == name and variant.licence
    before, after = read_jpeg(request_.picture).astype(int), read_jpeg(variant.picture).astype(int)
    assert np.abs(after - before).mean() > 1
    ((again,),) = make([request_])
    assert again.picture == variant.picture
    if name == "background":
        corner = after[:12, :12].reshape(-1, 3).mean(0)
        assert corner[1] > 150 and corner[0] < 80, "the corner is the new background"
        middle = request_.landmarks.reshape(5, 2).mean(0).astype(int)
        face = (slice(middle[1] - 8, middle[1] + 8), slice(middle[0] - 8, middle[0] + 8))
        assert np.abs(after[face] - before[face]).mean() < 8


SCRIPT = """
import json, shutil, sys
from pathlib import Path
given, taken, what = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
assert len(json.loads((given / "faces.json").read_text())["landmarks"]) == len(list(given.glob("*.png")))
if what == "nothing":
    sys.exit("the model is missing")
for path in given.glob("*.png"):
    shutil.copy(what if what != "same" else path, taken / path.name)
"""


def make_command(tmp_path: Path, what: str) -> AugmenterConfig:
    script = tmp_path / "edit.py"
    script.write_text(SCRIPT)
    command = f"{sys.executable} {script} {{input}} {{output}} {what}"
    return AugmenterConfig("command", {"command": command, "kind": "expression", "licence": "mine"})


def test_a_command_that_changes_the_person_is_caught(networks, request_, tmp_path):
    Image.fromarray(draw(3, 1, 0).draw_frame(0, 256)).save(tmp_path / "other.png")
    ((rejected,),) = open_variants(networks, make_command(tmp_path, str(tmp_path / "other.png")))([request_])
    assert rejected.reason == "command: another person afterwards" and "cosine" in rejected.detail


@pytest.mark.parametrize(
    ("what", "reason"),
    [
        ("same", "the picture is unchanged"),
        ("nothing", "the augmenter made nothing"),
        ("blank", "no face afterwards"),
    ],
)
def test_a_command_that_does_not_do_its_work_is_told(what, reason, networks, request_, tmp_path):
    if what == "blank":
        what = str(tmp_path / "blank.png")
        Image.fromarray(np.full((200, 200, 3), 128, np.uint8)).save(what)
    ((rejected,),) = open_variants(networks, make_command(tmp_path, what))([request_])
    assert rejected.reason == f"command: {reason}"
    if what == "nothing":
        assert "the model is missing" in rejected.detail


def test_a_picture_of_the_same_person_passes_a_command(networks, request_, tmp_path):
    Image.fromarray(draw(0, 5, 3).draw_frame(0, 300)).save(tmp_path / "own.png")
    ((variant,),) = open_variants(networks, make_command(tmp_path, str(tmp_path / "own.png")))([request_])
    assert isinstance(variant, Variant) and variant.licence == "mine"


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("blend", {}, "no augmenter 'blend'; there is: background, relight"),
        ("background", {}, "needs the option 'folder'"),
        ("background", {"folder": "/no/such"}, "finds no pictures in /no/such"),
        ("relight", {"power": "2"}, "no option 'power'; it has: strength"),
        ("command", {"command": "run", "kind": "relight", "licence": "x"}, "{input} and {output}"),
        ("command", {"command": "run {input} {output}", "kind": "tint", "licence": "x"}, "got 'tint'"),
        (
            "comfyui",
            {"workflow": "/no.json", "servers": "http://x", "kind": "relight", "licence": "x"},
            "cannot be read",
        ),
    ],
)
def test_wrong_options_name_the_option(name, options, message):
    with pytest.raises(CurationError) as caught:
        make_augmenter(name, options)
    assert message in str(caught.value)


def test_augmenters_are_drawn_by_their_shares():
    configs = (AugmenterConfig("relight", share=0.75), AugmenterConfig("warp", share=0.25))
    chosen = [choose_augmenter(f"pair {number}", configs) for number in range(400)]
    assert 0.68 < chosen.count(0) / 400 < 0.82


def test_harmonics_are_orthonormal_over_the_sphere():
    rng = np.random.default_rng(0)
    points = rng.normal(size=(200_000, 3))
    basis = evaluate_harmonics(points / np.linalg.norm(points, axis=1, keepdims=True))
    assert np.allclose(4 * np.pi * basis.T @ basis / len(points), np.eye(9), atol=0.03)


def test_normals_face_the_viewer_in_the_middle_and_outwards_at_the_sides():
    landmarks = np.array([[80, 90], [120, 90], [100, 112], [85, 135], [115, 135]], np.float32)
    normals, weight = draw_normals(FaceImage(np.zeros((200, 200, 3), np.uint8), landmarks))
    assert normals[110, 100, 2] > 0.95 and weight[0, 0] == 0
    assert normals[110, 60, 0] < -0.5 and normals[110, 140, 0] > 0.5


def test_the_spline_goes_through_its_points_and_keeps_affine_maps():
    rng = np.random.default_rng(0)
    points, values = rng.uniform(0, 100, (8, 2)), rng.normal(size=(8, 2))
    assert np.allclose(solve_spline(points, values, points), values, atol=1e-6)
    affine = points @ np.array([[0.1, 0.2], [-0.3, 0.4]]) + 5
    places = rng.uniform(0, 100, (5, 2))
    assert np.allclose(
        solve_spline(points, affine, places), places @ np.array([[0.1, 0.2], [-0.3, 0.4]]) + 5, atol=1e-6
    )


@pytest.mark.parametrize(("yaw", "pitch"), [(0, 0), (30, 0), (-45, 0), (0, 20), (0, -25)])
def test_pose_is_read_from_five_points(yaw, pitch):
    y, p = np.radians([yaw, pitch])
    turn_y = np.array([[np.cos(y), 0, np.sin(y)], [0, 1, 0], [-np.sin(y), 0, np.cos(y)]])
    turn_x = np.array([[1, 0, 0], [0, np.cos(p), np.sin(p)], [0, -np.sin(p), np.cos(p)]])
    points = (turn_x @ turn_y @ HEAD_MODEL.T).T[:, :2] * 1.7 + 80
    assert np.allclose(estimate_pose(points), (yaw, pitch, 0), atol=1)


WORKFLOW = {
    "3": {"class_type": "LoadImage", "inputs": {"image": "x.png"}, "_meta": {"title": "Lynx Input"}},
    "5": {
        "class_type": "ImageSharpen",
        "inputs": {"image": ["3", 0], "sharpen_radius": 2, "sigma": 1.0, "alpha": 2.0},
    },
    "9": {"class_type": "PreviewImage", "inputs": {"images": ["5", 0]}, "_meta": {"title": "lynx output"}},
}


def test_a_workflow_needs_its_two_titles(tmp_path):
    path = tmp_path / "edit.json"
    path.write_text(json.dumps(WORKFLOW))
    graph = read_workflow(path)
    assert fill_workflow(graph, "me.png", 7)["3"]["inputs"]["image"] == "me.png"
    path.write_text(json.dumps({k: v for k, v in WORKFLOW.items() if k != "9"}))
    with pytest.raises(CurationError, match="0 nodes titled 'lynx output'"):
        read_workflow(path)
    path.write_text(json.dumps({"nodes": [], "links": []}))
    with pytest.raises(CurationError, match=r"Export \(API\)"):
        read_workflow(path)


@pytest.mark.host
def test_a_real_comfyui_edits_a_face(networks, request_, tmp_path, comfy_host):
    path = tmp_path / "edit.json"
    path.write_text(json.dumps(WORKFLOW))
    options = {"workflow": str(path), "servers": comfy_host.url, "kind": "relight", "licence": "GPL-3.0"}
    ((variant,),) = open_variants(networks, AugmenterConfig("comfyui", options))([request_])
    assert isinstance(variant, Variant), variant
    broken = json.loads(path.read_text())
    broken["5"]["class_type"] = "NoSuchNode"
    path.write_text(json.dumps(broken))
    ((rejected,),) = open_variants(networks, AugmenterConfig("comfyui", options))([request_])
    assert isinstance(rejected, Rejected) and rejected.retry and "refuses the workflow" in rejected.detail
