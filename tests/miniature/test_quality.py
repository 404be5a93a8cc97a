"""The figures for how clean made pictures are, on pictures of which that is known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from miniature.experiment.points import (
    PLACES,
    WEIGHTS_NAME,
    PointReader,
    bend,
    draw_bent,
    export_points,
    list_points,
    load_points,
    train_points,
)
from miniature.experiment.quality import (
    FaceProbe,
    estimate_quality,
    lay_over,
    measure_frechet,
    measure_shape_error,
    to_pose,
)
from miniature.making import Making
from miniature.world.clip import NUM_FRAMES, Shot
from miniature.world.draws import FIRST_HELD_OUT_IDENTITY, draw_shot
from miniature.world.head import Head
from miniature.world.identity import draw_identity
from miniature.world.labels import pose_numbers


def test_frechet_distance_of_gaussians_is_that_of_the_formula() -> None:
    rng = np.random.default_rng(0)
    drawn = rng.normal(size=(40_000, 3))
    made = rng.normal(size=(40_000, 3)) * 2 + 1
    assert measure_frechet(made, drawn) == pytest.approx(3 * 1 + 3 * (2 - 1) ** 2, rel=0.03)
    assert measure_frechet(drawn, drawn) == pytest.approx(0, abs=1e-9)


def test_a_face_elsewhere_turned_and_larger_has_the_same_shape() -> None:
    head = Head(draw_identity(3), to_pose(np.zeros(6)), 64)
    points = list_points(head).astype(float)
    turn = np.array([[0.8, -0.6], [0.6, 0.8]])
    assert np.allclose(lay_over(points @ turn.T * 1.7 + 5, points), points)
    assert measure_shape_error(points @ turn.T * 1.7 + 5, head) == pytest.approx(0, abs=1e-4)
    assert measure_shape_error(points * (1.0, 1.3), head) > 0.05


def test_a_pose_comes_back_from_its_numbers() -> None:
    shot = draw_shot(draw_identity(1), 1)
    back = to_pose(pose_numbers(shot.pose))
    for name in ("yaw", "pitch", "roll", "scale", "smile", "mouth_open"):
        assert getattr(back, name) == pytest.approx(getattr(shot.pose, name), abs=1e-6)


def test_empty_places_are_told_from_drawn_faces() -> None:
    shots = [
        draw_shot(draw_identity(FIRST_HELD_OUT_IDENTITY + number), 7 * 10**8 + number) for number in range(6)
    ]
    clips = np.stack([shot.draw_clip()[:3] for shot in shots])
    blank = np.broadcast_to(np.uint8([90, 140, 200]), clips.shape).copy()
    probe = FaceProbe(Making().assets, PointReader().eval())
    people = [shot.identity for shot in shots]
    poses = np.stack([_list_poses(shot)[:3] for shot in shots])
    faces = {name: probe.probe(each, people, poses) for name, each in (("drawn", clips), ("blank", blank))}
    assert faces["drawn"]["found"].all() and not faces["blank"]["found"].any()
    assert np.isnan(faces["blank"]["landmark_error"]).all()
    assert np.isfinite(faces["drawn"]["landmark_error"]).all()
    # A case without any face counts among the finds, and not among the errors.
    rows = {"frame_embeddings": np.random.default_rng(0).normal(size=(6, 3, 8))}
    mixed = {
        name: np.concatenate([each[:4], faces["blank"][name][4:]]) for name, each in faces["drawn"].items()
    }
    found = estimate_quality([rows], [mixed], rows)
    assert found["found"]["mean"] == pytest.approx(2 / 3, abs=1e-3)
    assert found["landmark_error"]["n"] == 4 and found["frechet"]["mean"] == pytest.approx(0, abs=1e-6)


def test_points_move_with_the_picture_that_is_bent() -> None:
    picture = np.zeros((128, 128, 3), np.uint8)
    points = np.array([[30.0, 40.0], [64.0, 64.0], [90.0, 50.0], [70.0, 100.0]])
    for number, (x, y) in enumerate(points.astype(int)):
        picture[y - 2 : y + 3, x - 2 : x + 3, number % 3] = 80 * (1 + number // 3)
    field = np.random.default_rng(4).normal(size=(5, 5, 2)).astype(np.float32) * 4
    bent, moved = bend(picture, points, field)
    assert np.abs(moved - points).max() > 2
    for number, (x, y) in enumerate(moved):
        rows, columns = np.nonzero(bent[..., number % 3] > 0)
        nearest = np.hypot(columns - x, rows - y).min()
        assert nearest < 1.5
    still, same = bend(picture, points, np.zeros((5, 5, 2), np.float32))
    assert np.array_equal(still, picture) and np.allclose(same, points)


def test_points_lie_on_the_face_and_a_picture_is_drawn_alike_twice() -> None:
    picture, points = draw_bent(3)
    again, _ = draw_bent(3)
    assert np.array_equal(picture, again) and points.shape == (len(PLACES), 2)
    assert ((points > 0.05) & (points < 0.95)).all()
    found = PointReader().eval().find(np.stack([picture, picture]))
    assert found.shape == (2, len(PLACES), 2) and np.array_equal(found[0], found[1])


def test_the_network_of_points_is_trained_written_and_opened(tmp_path: Path) -> None:
    making = Making(tmp_path, share=1 / 800)
    making.folder.mkdir()
    assert train_points(making)
    export_points(making)
    opened = load_points(making.assets / WEIGHTS_NAME)
    picture, _ = draw_bent(1)
    assert np.isfinite(opened.find(picture[None])).all()


def _list_poses(shot: Shot) -> np.ndarray:
    return np.stack([pose_numbers(shot.pose_at(frame)) for frame in range(NUM_FRAMES)])
