"""`comfy-lynx bake` with the miniature's face models, on drawn people."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image

from lynx_core.cli.main import main
from lynx_core.formats.identity_file import open_identity
from miniature.world.identity import draw_identity
from miniature.world.portrait import draw_portrait
from miniature.world.scene import draw_pose, draw_scene

MINI = Path(__file__).resolve().parents[2] / "assets" / "mini"
MODELS = [
    *("--models", str(MINI), "--pack", "lynx_mini"),
    *("--recogniser", str(MINI / "lynx" / "faces" / "lynx_mini_arcface.safetensors")),
]


def draw_photo(path: Path, person: int, scene: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = draw_portrait(draw_identity(person), draw_scene(scene), draw_pose(scene), 256)
    Image.fromarray(pixels).save(path)


@pytest.fixture
def people(tmp_path: Path) -> Path:
    folder = tmp_path / "people"
    for scene in (1, 2, 3):
        draw_photo(folder / "Ann" / f"{scene}.png", 1_000_001, scene)
    draw_photo(folder / "Ben" / "only.png", 1_000_002, 4)
    (folder / "nobody").mkdir()
    return folder


def test_each_folder_becomes_an_identity(
    people: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert (
        main(["bake", str(people), "--out", str(out), *MODELS, "--licence", "CC0", "--consent", "asked"]) == 0
    )
    assert sorted(file.name for file in out.iterdir()) == ["Ann.safetensors", "Ben.safetensors"]
    ann, ben = (open_identity(out / f"{name}.safetensors") for name in ("Ann", "Ben"))
    assert len(ann.photos) == 3 and len(ben.photos) == 1
    assert (ann.licence, ann.consent) == ("CC0", "asked")
    # The average stands between the photos, and the two people apart.
    assert float((ann.photo_embeddings @ ann.embedding).min()) > float(ann.embedding @ ben.embedding)
    assert "2 of 2 people" in capsys.readouterr().out


def test_a_stranger_is_named_and_left_out_on_request(
    people: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    draw_photo(people / "Ann" / "9_wrong.png", 1_000_003, 9)
    command = ["bake", str(people), *MODELS, "--overwrite"]
    assert main([*command, "--out", str(tmp_path / "a"), "--min-cosine", "0.5"]) == 0
    out = capsys.readouterr().out
    assert "9_wrong.png: left out: unlike the other photos" in out
    kept = open_identity(tmp_path / "a" / "Ann.safetensors")
    assert len(kept.photos) == 3
    assert main([*command, "--out", str(tmp_path / "b")]) == 0
    with_stranger = open_identity(tmp_path / "b" / "Ann.safetensors")
    assert len(with_stranger.photos) == 4
    assert not torch.equal(kept.embedding, with_stranger.embedding)


def test_a_photo_without_a_face_costs_that_photo_and_a_person_without_any_is_said(
    people: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Image.new("RGB", (200, 200), "green").save(people / "Ann" / "field.png")
    (people / "Ben" / "only.png").write_bytes(b"no picture")
    assert main(["bake", str(people), "--out", str(tmp_path / "out"), *MODELS]) == 1
    said = capsys.readouterr()
    assert "field.png: left out: no face found" in said.out and "Ann: 3 of 4 photos" in said.out
    assert "Ben: no photo can be used: only.png" in said.err and "1 of 2 people" in said.out
    assert [file.name for file in (tmp_path / "out").iterdir()] == ["Ann.safetensors"]


def test_nothing_is_overwritten_and_an_empty_folder_is_said(
    people: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["bake", str(people), "--out", str(tmp_path / "out"), *MODELS]
    assert main(command) == 0
    assert main(command) == 1
    assert "Ann: " in (err := capsys.readouterr().err) and "already there" in err
    (tmp_path / "empty").mkdir()
    assert main(["bake", str(tmp_path / "empty"), "--out", str(tmp_path / "out"), *MODELS]) == 1
    assert "no photos" in capsys.readouterr().err
