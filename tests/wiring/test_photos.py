"""Photos: several faces, several photos, ready crops; and what is said when they do not fit."""

from __future__ import annotations

import re

import cv2
import numpy as np
import pytest
from editor import Editor, Run, assert_other, assert_same
from graphs import BLANK, DARK_PHOTO, make_lynx, node
from standin_faces import six_faces

pytestmark = [pytest.mark.host, pytest.mark.browser]

FACES = six_faces()
"""The people of the photo from left to right."""

HIGHLIGHT = np.array([40, 220, 90])


def read_number(picture: np.ndarray, person: int) -> int:
    """Read the number that the preview writes at a person's box: the digit that matches best."""
    left, top = np.maximum(FACES[person].bbox[:2].round().astype(int) - 40, 0)
    corner = cv2.cvtColor(np.ascontiguousarray(picture[top : top + 60, left : left + 80]), cv2.COLOR_RGB2GRAY)
    scores = {}
    for digit in range(10):
        plate = np.full((17, 14), 230, np.uint8)
        cv2.putText(plate, str(digit), (1, 15), cv2.FONT_HERSHEY_SIMPLEX, 0.6, 20, 1, cv2.LINE_AA)
        scores[digit] = max(
            cv2.matchTemplate(corner, cv2.resize(plate, None, fx=scale, fy=scale), cv2.TM_CCOEFF_NORMED).max()
            for scale in np.linspace(0.8, 2.2, 15)
        )
    return max(scores, key=lambda digit: scores[digit])


def find_highlighted(picture: np.ndarray) -> int:
    """Which person's box the preview draws in green."""
    counts = []
    for face in FACES:
        left, top, _, bottom = np.maximum(face.bbox.round().astype(int), 0)
        edge = picture[top:bottom, max(left - 2, 0) : left + 3].astype(int)
        counts.append((np.abs(edge - HIGHLIGHT).max(-1) < 30).sum())
    return int(np.argmax(counts))


def read_preview(run: Run) -> np.ndarray:
    """The picture that Lynx Crop Face shows."""
    return run.pictures["face"][0]


@pytest.mark.parametrize("order", ["largest", "left to right"])
def test_typing_the_number_of_the_preview_takes_that_person(editor: Editor, order: str) -> None:
    prompt = make_lynx()
    for name in ("apply", "reference", "sample", "save", "id"):
        del prompt[name]  # the crop can be queued alone
    editor.build(prompt)
    editor.edit("face", order=order)
    preview = read_preview(editor.run())
    numbers = [read_number(preview, person) for person in range(len(FACES))]
    assert sorted(numbers) == [1, 2, 3, 4, 5, 6], f"the preview shows {numbers}"
    if order == "left to right":
        assert numbers == [1, 2, 3, 4, 5, 6]
    for person in (0, 3, 5):
        editor.edit("face", face_number=numbers[person])
        shown = read_preview(editor.run())
        assert find_highlighted(shown) == person
        assert read_number(shown, person) == numbers[person]


def test_a_number_beyond_the_faces_names_the_choice(editor: Editor) -> None:
    editor.build(make_lynx())
    editor.edit("face", face_number=7)
    run = editor.run()
    assert "7" in run.message and "6 faces" in run.message and "1 to 6" in run.message
    assert run.red == {"face"}

    editor.edit("face", face_number=1)
    assert_same(editor.run(), editor.render(make_lynx()))


def test_a_batch_of_photos_is_averaged_and_one_of_them_is_the_reference(editor: Editor) -> None:
    batch = {
        "photo_b": node("LoadImage", image=DARK_PHOTO),
        "batch": node("ImageBatch", image1=["photo", 0], image2=["photo_b", 0]),
    }
    editor.build(make_lynx() | batch)
    editor.link("face", image=("batch", 0))
    first = editor.run()
    assert len(first.pictures["face"]) == 2, "the preview shows both"
    assert_other(first.latent, editor.render(make_lynx()))

    editor.edit("reference", photo_number=2)
    assert_other(editor.run().latent, first.latent)

    editor.edit("reference", photo_number=3)
    run = editor.run()
    assert "photo_number" in run.message and "3" in run.message and "2 photos" in run.message
    assert run.red == {"reference"}

    editor.link("face", image=("photo", 0))
    run = editor.run()
    assert "photo_number" in run.message and re.search("(one|1) photo\\b", run.message), run.said


def test_already_aligned_on_a_whole_photo_names_the_switch(editor: Editor) -> None:
    editor.build(make_lynx())
    editor.edit("face", already_aligned=True)
    run = editor.run()
    assert "already_aligned" in run.message and "1280" in run.message and "886" in run.message
    assert run.red == {"face"}

    editor.edit("face", already_aligned=False)
    assert_same(editor.run(), editor.render(make_lynx()))


def test_the_reference_crop_goes_round_as_an_aligned_photo(editor: Editor) -> None:
    prompt = make_lynx()
    again = node("LynxCropFace", image=["face", 2], order="largest", face_number=1, already_aligned=True)
    editor.build(prompt | {"again": again})
    editor.link("reference", face=("again", 0))
    assert_same(editor.run(), editor.render(prompt))


def test_a_square_picture_without_a_face_may_be_called_aligned(editor: Editor) -> None:
    """It is cropped by hand, so nothing can be checked but its sharpness: the note says that it is blurred."""
    square = node(
        "ImageScale", image=["photo", 0], upscale_method="area", width=256, height=256, crop="center"
    )
    prompt = make_lynx() | {"square": square}
    prompt["photo"]["inputs"]["image"] = BLANK
    editor.build(prompt)
    editor.link("face", image=("square", 0))
    editor.edit("face", already_aligned=True)
    run = editor.run()
    assert run.latents and "blurred" in run.notes["face"], run.said
