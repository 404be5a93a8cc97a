"""A classifier that the user names leaves tracks out, and says which and why."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from drawn import PX, draw, make_config, write_photo
from PIL import Image
from test_curation import read_rows

from lynx_core.curate.curation import curate
from lynx_core.curate.errors import CurationError
from lynx_core.engine.stage import EngineError


def save_classifier(folder: Path) -> Path:
    """A tiny network that has learned to call dark pictures nsfw."""
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    network = transformers.ViTForImageClassification(
        transformers.ViTConfig(
            hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8, image_size=32,
            patch_size=32, id2label={0: "normal", 1: "nsfw"}, label2id={"normal": 0, "nsfw": 1},
        )
    )  # fmt: skip
    optimizer = torch.optim.Adam(network.parameters(), lr=0.02)
    for _ in range(150):
        level = torch.rand(32, 1, 1, 1)
        pictures = (level + 0.1 * torch.randn(32, 3, 32, 32) - 0.5) / 0.5
        wrong = network(pixel_values=pictures, labels=(level.flatten() < 0.3).long()).loss
        optimizer.zero_grad()
        wrong.backward()
        optimizer.step()
    network.save_pretrained(folder)
    size = {"height": 32, "width": 32}
    transformers.ViTImageProcessor(size=size, image_mean=[0.5] * 3, image_std=[0.5] * 3).save_pretrained(
        folder
    )
    return folder


def write_day_and_night(folder: Path) -> None:
    """Three photos of a person by day, one of them again at night."""
    for number, (name, place) in enumerate({"beach": 0, "snow": 5, "desert": 2}.items()):
        write_photo(folder / f"{name}.png", draw(0, number, place))
    dark = (draw(0, 4, 3).draw_frame(0, PX) * 0.4).astype("uint8")
    Image.fromarray(dark).save(folder / "night.png")
    (folder / "night.txt").write_text("A person at night.")


def test_unsafe_tracks_are_left_out_and_counted(tmp_path: Path) -> None:
    write_day_and_night(tmp_path / "footage")
    quality = {"min_face_px": 60, "brightness": [5, 225], "max_clipped": 1.0, "min_sharpness": 1}
    loose = {"threshold": 0.2}  # the recogniser has seen no night
    folder = save_classifier(tmp_path / "classifier")
    whole = curate(make_config(tmp_path / "footage", tmp_path / "set", identity=loose, quality=quality))
    assert len(read_rows(tmp_path / "set")) == 4 and whole.reasons["safety", "unsafe picture"] == 0
    safety = {"classifier": str(folder)}
    checked = curate(
        make_config(tmp_path / "footage", tmp_path / "set", identity=loose, quality=quality, safety=safety)
    )
    assert checked.reasons["safety", "unsafe picture"] == 1
    rows = read_rows(tmp_path / "set")
    assert sorted(Path(row["target"]).name for row in rows) == ["beach.png", "desert.png", "snow.png"]


def test_a_wrong_classifier_is_named(tmp_path: Path) -> None:
    write_photo(tmp_path / "footage" / "beach.png", draw(0, 1, 0))
    with pytest.raises(CurationError, match=r"holds no config\.json"):
        curate(make_config(tmp_path / "footage", tmp_path / "set", safety={"classifier": str(tmp_path)}))
    safety = {"classifier": str(save_classifier(tmp_path / "classifier")), "labels": ["porn"]}
    with pytest.raises(EngineError, match="no label 'porn'; it has: normal, nsfw"):
        curate(make_config(tmp_path / "footage", tmp_path / "set", safety=safety))
