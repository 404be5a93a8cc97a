"""The shipped face models, opened as the nodes open them, on people whom they were never shown."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from lynx_core.faces.analyzer import FaceAnalyzer
from lynx_core.faces.crops import crop_face
from miniature.world.clip import Shot
from miniature.world.draws import FIRST_HELD_OUT_IDENTITY, draw_shot
from miniature.world.identity import MARK_COLOURS, draw_identity
from miniature.world.scene import draw_pose, relight, replace_background

ASSETS = Path(__file__).parents[2] / "assets" / "mini"
NUM_PEOPLE = 16
LAST_FRAME = 8


@pytest.fixture(scope="module")
def analyzer() -> FaceAnalyzer:
    torch.set_num_threads(1)
    encoder = ASSETS / "lynx" / "faces" / "lynx_mini_arcface.safetensors"
    return FaceAnalyzer(ASSETS / "insightface", "lynx_mini", "CPU", encoder)


def shoot(number: int, seed: int) -> Shot:
    """Held-out person `number` in some scene."""
    return draw_shot(draw_identity(FIRST_HELD_OUT_IDENTITY + 5000 + number), seed)


def embed_photo(analyzer: FaceAnalyzer, photo: np.ndarray) -> torch.Tensor:
    crop, _ = crop_face(photo, analyzer.detector, "largest", 0)
    return analyzer.recogniser.embed([crop.id_crop])[0]


def test_the_recogniser_says_its_name(analyzer: FaceAnalyzer) -> None:
    assert analyzer.recogniser.name == "lynx_mini_arcface"


@pytest.mark.parametrize("size_px", [64, 320, 512])
def test_a_face_is_found_where_it_was_drawn(analyzer: FaceAnalyzer, size_px: int) -> None:
    for number in range(4):
        shot = shoot(number, number)
        faces = analyzer.detector.detect(shot.draw_frame(LAST_FRAME, size_px))
        assert len(faces) == 1
        off = np.linalg.norm(faces[0].landmarks - shot.find_landmarks(LAST_FRAME, size_px), axis=1).mean()
        assert off < 0.08 * size_px * shot.pose_at(LAST_FRAME).scale


def test_a_place_without_anybody_has_no_face(analyzer: FaceAnalyzer) -> None:
    from miniature.parts.detector_pictures import draw_nobody

    assert analyzer.detector.detect(draw_nobody(np.random.default_rng(1), 256)) == []


def test_people_are_recognised_in_another_pose_and_place(analyzer: FaceAnalyzer) -> None:
    photos = torch.stack([embed_photo(analyzer, shoot(n, n).draw_frame(0, 256)) for n in range(NUM_PEOPLE)])
    frames = torch.stack(
        [embed_photo(analyzer, shoot(n, 100 + n).draw_frame(LAST_FRAME, 64)) for n in range(NUM_PEOPLE)]
    )
    cosines = frames @ photos.T
    assert (cosines.argmax(1) == torch.arange(NUM_PEOPLE)).sum() >= NUM_PEOPLE - 1
    assert cosines.diagonal().mean() > 0.7
    assert cosines[~torch.eye(NUM_PEOPLE, dtype=torch.bool)].mean() < 0.2


def test_another_mark_is_not_seen_and_another_person_is(analyzer: FaceAnalyzer) -> None:
    shot = shoot(3, 7)
    first = embed_photo(analyzer, shot.draw_frame(0, 256))
    other = (shot.identity.mark_colour + 2) % len(MARK_COLOURS)
    marked = replace(shot, identity=replace(shot.identity, mark_colour=other))
    assert first @ embed_photo(analyzer, marked.draw_frame(0, 256)) > 0.95
    stranger = replace(shot, identity=shoot(4, 0).identity)
    assert first @ embed_photo(analyzer, stranger.draw_frame(0, 256)) < 0.5


def test_another_place_light_and_pose_keep_the_person(analyzer: FaceAnalyzer) -> None:
    shot = shoot(5, 11)
    first = embed_photo(analyzer, shot.draw_frame(0, 256))
    elsewhere = replace(shot, scene=replace_background(relight(shot.scene, 3), 4), pose=draw_pose(5))
    assert first @ embed_photo(analyzer, elsewhere.draw_frame(0, 256)) > 0.7


def test_insightface_opens_the_pack_with_its_106_points() -> None:
    from insightface.app import FaceAnalysis

    pack = ASSETS / "insightface" / "models" / "lynx_mini"
    analysis = FaceAnalysis(
        name=str(pack), root=str(ASSETS / "insightface"), providers=["CPUExecutionProvider"]
    )
    analysis.prepare(ctx_id=0, det_thresh=0.5, det_size=(640, 640))
    shot = shoot(6, 13)
    (face,) = analysis.get(shot.draw_frame(0, 256))
    assert face.landmark_2d_106.shape == (106, 2)
    eyes = face.landmark_2d_106[[33, 87]]
    off = np.linalg.norm(eyes - shot.find_landmarks(0, 256)[:2], axis=1).max()
    assert off < 0.1 * 256 * shot.pose.scale
