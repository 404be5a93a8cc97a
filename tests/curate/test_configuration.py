"""What a configuration refuses, what lies in a folder, and the page."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from drawn import make_config

from lynx_core.curate.configuration import CurationConfig, SourceConfig
from lynx_core.curate.curation import hold_output
from lynx_core.curate.errors import CurationError
from lynx_core.curate.page import render_page
from lynx_core.curate.sources import list_sources
from lynx_core.offline_page import make_histogram
from lynx_core.spec import LynxError
from lynx_core.training.configuration_file import read_settings

REPO = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"identity": {}}, "identity.threshold is given, or identity.calibration names a file"),
        ({"identity": {"threshold": 1.5}}, "identity.threshold is a cosine"),
        ({"identity": {"threshold": 0.5, "calibration": "x.json"}}, "identity.threshold"),
        ({"faces": {"detector": "haar"}}, "faces.detector is one of insightface, mtcnn, yunet, got 'haar'"),
        ({"faces": {"detector": "insightface"}}, "faces.detector_models"),
        (
            {"faces": {"detector": "mtcnn", "recogniser": "dlib", "looks_per_s": 0}},
            "faces.looks_per_s is above 0",
        ),
        ({"targets": {"min_s": 9.0, "max_s": 2.0}}, "up to max_s 2.0, got 9.0"),
        ({"quality": {"brightness": [200, 30]}}, "quality.brightness"),
        ({"captions": {"source": "server"}}, "captions.url"),
        ({"augmenters": [{"name": "warp", "share": 0}]}, "augmenters.share"),
        ({"splits": {"heldout_share": 1.0}}, "splits.heldout_share"),
        ({"workers": 0}, "workers is 1 or more, got 0"),
        (
            {"kind_weights": {"multi": 2.0}},
            "kind_weights is one of single-scene, multi-scene, augmented, got 'multi'",
        ),
        ({"sources": []}, "sources"),
        ({"quality": {"min_face": 3}}, "unknown key quality.min_face"),
    ],
)
def test_a_wrong_value_is_refused_by_its_name(sections, message, tmp_path):
    with pytest.raises(LynxError) as caught:
        make_config(tmp_path / "footage", tmp_path / "set", **sections)
    assert message in str(caught.value)


def test_the_output_may_not_lie_in_a_source(tmp_path):
    with pytest.raises(LynxError, match="outside of the sources"):
        make_config(tmp_path, tmp_path / "set")


@pytest.mark.parametrize("path", sorted((REPO / "configs").glob("curate_*.toml")), ids=lambda path: path.name)
def test_the_shipped_configurations_are_read(path):
    config = read_settings(CurationConfig, path)
    assert config.sources


def test_files_are_listed_with_their_captions_and_people(tmp_path):
    folder = tmp_path / "people"
    for name in (
        "Анна/a.jpg",
        "Анна/.hidden.jpg",
        "Анна/clip.MP4",
        "loose.png",
        "王芳/deep/b.heic",
        "notes.docx",
    ):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"x")
    (folder / "Анна/a.txt").write_text("\ufeffa person reads\r\n", encoding="utf-8")
    (folder / "Анна/clip.MP4.txt").write_text("a person walks", encoding="utf-16")
    (folder / "王芳/deep/b.txt").write_bytes(b"caf\xe9 in latin")
    (folder / "Анна/._a.jpg").write_bytes(b"x")
    files, rejected = list_sources([SourceConfig(folder, "folder", "signed", "CC0")])
    assert [(Path(file.path).name, file.folder_name, file.sidecar) for file in files] == [
        ("a.jpg", "Анна", "a person reads"),
        ("clip.MP4", "Анна", "a person walks"),
    ]
    assert {(Path(item.subject).name, item.reason) for item in rejected} == {
        ("loose.png", "in no person's folder"),
        ("notes.docx", "no photo or clip"),
        ("b.heic", "the caption file is no text"),
    }
    assert files[0].consent == "signed" and files[0].licence == "CC0"


def test_a_name_that_is_no_text_is_rejected_and_not_fatal(tmp_path):
    (tmp_path / "good.png").write_bytes(b"x")
    try:
        (tmp_path / os.fsdecode(b"bad\xff.png")).write_bytes(b"x")
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    files, rejected = list_sources([SourceConfig(tmp_path)])
    assert len(files) == 1 and rejected[0].reason == "the name is no text"


@pytest.mark.parametrize("state", ["missing", "empty"])
def test_a_folder_without_media_is_an_error(state, tmp_path):
    folder = tmp_path / "none"
    if state == "empty":
        folder.mkdir()
    with pytest.raises(CurationError, match="no folder" if state == "missing" else "no photos or clips"):
        list_sources([SourceConfig(folder)])


def test_one_process_at_a_time_works_in_an_output(tmp_path):
    output = tmp_path / "set"
    with (
        hold_output(output),
        pytest.raises(CurationError, match="another process works in"),
        hold_output(output),
    ):
        pass
    with hold_output(output):
        pass


def test_the_page_escapes_what_users_wrote_and_needs_no_network():
    data = {
        "facts": {"threshold": 0.5, "recogniser": "<b>net</b>", "threshold_origin": "given", "too_alike": 0.98, "licences": {"x": "MIT"},
                  "kinds": {"multi-scene": {"share": 1.0, "weight": 1.0}}, "sources": [{"pairs": 1, "licence": "", "consent": "<i>"}]},
        "num_files": 1, "num_people": 1, "stages": [{"name": "scan", "records": 1, "reasons": []}],
        "people": [{"name": "<script>alert(1)</script>", "tracks": 1, "files": 1, "scenes": 1, "pairs": 1, "split": "train",
                    "lowest": 1.0, "look_alike": "", "faces": []}],
        "kinds": {"multi-scene": {"count": 0, "pairs": []}}, "worst": [], "best": [], "look_alikes": [],
        "histograms": [make_histogram("<u>", {"a<b": [0.1, 0.5]}, {"threshold": 0.4}), make_histogram("empty", {}, {})],
    }  # fmt: skip
    page = render_page(data)
    assert "<script>" not in page and "&lt;script&gt;" in page and "<b>net" not in page and "<u>" not in page
    assert "http://" not in page and "https://" not in page and ' src="data:' not in page.replace("<img", "")
