"""Normals and light from a face mesh; with MediaPipe's own file where LYNX_FACE_MESH names it."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from lynx_core.curate.augment.face_mesh import FaceMesh, draw_mesh_normals
from lynx_core.curate.augment.interface import FaceImage
from lynx_core.curate.augment.relight import Relight
from lynx_core.curate.augment.warp import LandmarkWarp, move_mesh
from lynx_core.curate.errors import CurationError
from lynx_core.faces.crops import ARCFACE_TEMPLATE

REAL = os.environ.get("LYNX_FACE_MESH", "")


def test_normals_of_a_dome_point_outwards() -> None:
    rng = np.random.default_rng(0)
    flat = rng.uniform(-0.8, 0.8, (468, 2))
    flat = flat[np.linalg.norm(flat, axis=1) < 0.8]
    points = 100 + 80 * np.column_stack([flat, np.sqrt(1 - (flat**2).sum(1))])
    normals, weight = draw_mesh_normals(points, (200, 200))
    rows, columns = np.nonzero(weight > 0)
    wanted = np.column_stack([(columns - 100) / 80, (rows - 100) / 80])
    found = normals[rows, columns]
    inner = np.linalg.norm(wanted, axis=1) < 0.5
    assert inner.sum() > 1000
    assert np.abs(found[inner, :2] - wanted[inner]).mean() < 0.1
    assert np.allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)
    assert weight[5, 5] == 0 and normals[5, 5].tolist() == [0, 0, 1]


def test_a_file_that_is_no_mesh_is_named(tmp_path: Path) -> None:
    pytest.importorskip("ai_edge_litert")
    with pytest.raises(CurationError, match="there is no face mesh"):
        FaceMesh(tmp_path / "none.tflite")
    (tmp_path / "odd.tflite").write_bytes(b"x" * 100)
    with pytest.raises(CurationError, match="no model that LiteRT opens"):
        FaceMesh(tmp_path / "odd.tflite")


@pytest.mark.skipif(not REAL, reason="LYNX_FACE_MESH names mediapipe's face_landmark.tflite")
def test_the_real_mesh_lies_on_a_real_face() -> None:
    from PIL import Image

    from lynx_core.curate.networks import MTCNNDetector

    images = Path(pytest.importorskip("insightface").__file__).parent / "data" / "images"
    pixels = np.array(Image.open(images / "Tom_Hanks_54745.png").convert("RGB"))
    face = max(MTCNNDetector(0.6).detect(pixels), key=lambda found: found.area)
    image = FaceImage(pixels, face.landmarks)
    points = FaceMesh(Path(REAL)).find(image)
    assert isinstance(points, np.ndarray)
    eyes = np.array([points[[33, 133]].mean(0), points[[362, 263]].mean(0)])[:, :2]
    apart = np.linalg.norm(face.landmarks[1] - face.landmarks[0])
    assert np.abs(eyes - face.landmarks[:2]).max() < 0.15 * apart
    assert np.abs(points[1, :2] - face.landmarks[2]).max() < 0.25 * apart
    assert points[1, 2] > points[[234, 454], 2].max() + 0.3 * apart, "the nose is nearer than the ears"
    show = os.environ.get("LYNX_SHOW")
    light = Relight.from_options({"mesh": REAL, "strength": "1.0"})
    light.load()
    (lit,) = light([image], np.random.default_rng(3))
    if show:
        Image.fromarray(lit.pixels).save(f"{show}/lit.png")
    change = lit.pixels.astype(int) - pixels
    left, top = points[:, :2].min(0).astype(int)
    right, bottom = points[:, :2].max(0).astype(int)
    inside = change[top:bottom, left:right]
    assert np.abs(inside).mean() > 5
    assert np.abs(change[:, : max(left - 20, 1)]).mean() < np.abs(inside).mean()
    warp = LandmarkWarp.from_options({"mesh": REAL})
    warp.load()
    (smile,) = warp([image], np.random.default_rng(0))
    if show:
        Image.fromarray(smile.pixels).save(f"{show}/smile.png")
    assert np.linalg.norm(smile.landmarks[3:] - face.landmarks[3:], axis=1).min() > 0.02 * apart
    assert np.allclose(smile.landmarks[:3], face.landmarks[:3])
    moved = FaceMesh(Path(REAL)).find(smile)
    shift = (moved - points)[[61, 291], :2].mean(0)
    assert shift @ (smile.landmarks[3:] - face.landmarks[3:]).mean(0) > 0, (
        "the mesh finds the mouth where it went"
    )


def test_a_mesh_moves_mouth_and_brows_alone() -> None:
    points = np.random.default_rng(0).uniform(0, 112, (468, 2))
    source, target = move_mesh(points, ARCFACE_TEMPLATE, 2.0, 3.0, 1.0)
    moves = target - source
    assert np.allclose(moves[:2], [[-2, -3], [2, -3]], atol=1e-4)
    assert np.allclose(moves[-25:], 0) and np.allclose(source[0], points[61])
