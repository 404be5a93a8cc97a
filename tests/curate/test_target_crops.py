"""Footage with two people: a target for each, cut out, that the trainer's reader takes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from drawn import PX, draw, draw_frames, make_config, put_side_by_side, write_clip, write_photo
from test_curation import read_rows

from lynx_core.curate.configuration import CurationConfig
from lynx_core.curate.curation import curate
from lynx_core.curate.forget import forget
from lynx_core.curate.media import open_footage
from lynx_core.curate.networks import FaceNetworks, embed_crops
from lynx_core.faces.crops import crop_for_id


@pytest.fixture
def both(tmp_path: Path) -> CurationConfig:
    """Two people side by side in a clip, and a photo of each elsewhere."""
    folder = tmp_path / "footage"
    pair = put_side_by_side(draw_frames(draw(0, 2, 4, "smile"), 16), draw_frames(draw(1, 5, 4, "nod"), 16))
    write_clip(folder / "both.mp4", pair)
    write_photo(folder / "a.png", draw(0, 1, 0))
    write_photo(folder / "b.png", draw(1, 1, 2))
    targets = {"min_s": 1.0, "max_s": 2.0, "crop": True, "min_crop_px": 64, "photos": False}
    return make_config(folder, tmp_path / "set", targets=targets)


def test_each_of_two_people_gets_a_clip_of_their_own(both: CurationConfig) -> None:
    report = curate(both)
    rows = read_rows(both.output)
    assert len(rows) == 2 and report.kinds == {"multi-scene": 2}
    networks = FaceNetworks(both.faces)
    for row in rows:
        assert row["frame_range"] is None and row["target"].startswith("targets/")
        frames = [pixels for _, pixels in open_footage(both.output / row["target"], 2000).read()]
        assert len(frames) == 16 and frames[0].shape[1] <= PX
        (face,) = networks.detector.detect(frames[5])
        photo = next(iter(open_footage(both.output / row["references"][0], 2000).read()))[1]
        (own,) = networks.detector.detect(photo)
        crops = [crop_for_id(frames[5], face.landmarks), crop_for_id(photo, own.landmarks)]
        one, other = embed_crops(networks.recogniser, crops)
        assert float(one @ other) > 0.6
    before = {path: path.stat().st_mtime_ns for path in (both.output / "targets").rglob("*.mp4")}
    curate(both)
    assert before == {path: path.stat().st_mtime_ns for path in (both.output / "targets").rglob("*.mp4")}


def test_without_crops_such_footage_is_left_out(both: CurationConfig) -> None:
    targets = {"min_s": 1.0, "max_s": 2.0}
    config = make_config(both.sources[0].path, both.output, targets=targets)
    curate(both)
    report = curate(config)
    assert report.reasons["pairs", "several people in the target"] == 2
    assert not list((both.output / "targets").rglob("*.mp4"))


def test_a_forgotten_person_is_in_no_crop(both: CurationConfig) -> None:
    curate(both)
    name = read_rows(both.output)[0]["person"]
    forget(both.output, name)
    assert not list(
        (both.output / "targets").rglob("*.mp4")
    )  # the other's clip shows the same place and time
    assert name not in {row["person"] for row in read_rows(both.output)}


def test_a_photo_of_two_people_is_cut_as_well(both: CurationConfig) -> None:
    from PIL import Image

    folder = both.sources[0].path
    two = np.concatenate([draw(0, 7, 5).draw_frame(0, PX), draw(1, 8, 5).draw_frame(0, PX)], 1)
    Image.fromarray(two).save(folder / "two.png")
    (folder / "two.txt").write_text("Two people in the snow.")
    curate(
        make_config(
            folder, both.output, targets={"min_s": 9.0, "max_s": 9.0, "crop": True, "min_crop_px": 64}
        )
    )
    cut = [row["target"] for row in read_rows(both.output) if row["target"].startswith("targets/")]
    assert len(cut) == 2
    for path in cut:
        with Image.open(both.output / path) as picture:
            assert picture.width <= PX
