"""From a folder to a manifest: what comes out, that nothing vanishes, and that a rerun does what is left."""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
from collections import Counter, defaultdict
from pathlib import Path

import pytest
from drawn import draw, draw_frames, make_config, write_clip, write_photo
from pyarrow import parquet

from lynx_core.cli.main import main
from lynx_core.curate.configuration import CurationConfig
from lynx_core.curate.curation import CurationReport, curate
from lynx_core.curate.errors import CurationError
from lynx_core.data.manifest import read_manifest

sys.path.append(str(Path(__file__).parents[1] / "training"))

Curated = tuple[CurationConfig, CurationReport]


def read_rows(output: Path) -> list[dict]:
    paths = [output / f"{split}.parquet" for split in ("train", "heldout")]
    return [row for path in paths if path.is_file() for row in parquet.read_table(path).to_pylist()]


def read_rejections(output: Path) -> list[dict]:
    return parquet.read_table(output / "rejections.parquet").to_pylist()


def test_people_are_found_across_photos_clips_and_shots(curated: Curated) -> None:
    people: dict[str, set[str]] = defaultdict(set)
    for row in read_rows(curated[0].output):
        people[row["person"]].add(Path(row["target"]).parent.name)
    assert sorted(sorted(folders) for folders in people.values()) == [["a"], ["b"], ["c"], ["d"], ["e"]]


def test_all_raw_kinds_and_augmented_pairs_are_made(curated: Curated) -> None:
    rows = read_rows(curated[0].output)
    assert {(row["raw_kind"], row["kind"]) for row in rows} >= {
        ("multi-scene images", "multi-scene"),
        ("multi-scene videos", "multi-scene"),
        ("single video", "single-scene"),
        ("single image", "augmented"),
    }
    figures = json.loads((curated[0].output / "curation.json").read_text())
    assert sum(kind["pairs"] for kind in figures["kinds"].values()) == len(rows)
    assert sum(kind["share"] for kind in figures["kinds"].values()) == pytest.approx(1)
    # Rows drawn by their weight give each kind alike.
    drawn = Counter()
    for row in rows:
        drawn[row["kind"]] += row["weight"]
    assert len({round(weight, 6) for weight in drawn.values()}) == 1


def test_no_reference_is_a_frame_of_its_target_unless_edited(curated: Curated) -> None:
    rows = read_rows(curated[0].output)
    # A reference that is no variant carries the name of its track.
    own = [row for row in rows if Path(row["references"][0]).name.split("-")[0] == row["target_track"]]
    assert own, "the clip of one scene pairs with itself"
    for row in own:
        assert row["kind"] == "single-scene"
        assert row["frame_range"] is not None


def test_an_augmenter_takes_its_share_wherever_the_footage_lies(footage: Path, tmp_path: Path) -> None:
    def count_kinds(folder: Path) -> Counter[str]:
        config = make_config(folder, folder.with_name("set"), augmented=True)
        curate(config)
        return Counter(row["kind"] for row in read_rows(config.output) if row["raw_kind"] == "single video")

    kinds = []
    for name in ("one", "another"):
        folder = tmp_path / name / "footage"
        folder.mkdir(parents=True)
        shutil.copytree(footage.with_name("backgrounds"), folder.with_name("backgrounds"))
        for path in (footage / "e").iterdir():  # the clip and its caption
            shutil.copy(path, folder)
        kinds.append(count_kinds(folder))
    # Half of three pairs is one or two of them, never none or all.
    assert kinds[0] == kinds[1] and set(kinds[0].values()) == {1, 2}, kinds


def test_every_file_is_in_a_pair_or_has_a_reason(curated: Curated, footage: Path) -> None:
    output = curated[0].output
    used = {row["target"] for row in read_rows(output)}
    rejected = read_rejections(output)
    for path in footage.rglob("*.*"):
        if path.suffix != ".txt" and str(path) not in used:
            assert any(item["subject"].startswith(str(path)) for item in rejected), path
    reasons = {(Path(item["subject"].split(", ")[0]).name, item["reason"]) for item in rejected}
    assert reasons >= {
        ("notes.pdf", "no photo or clip"),
        ("broken.jpg", "does not decode"),
        ("empty.png", "no face"),
        ("room small.jpg", "nearly the same as another file"),
        ("both.mp4", "several people in the target"),
    }
    assert all(item["detail"] for item in rejected)
    assert sum(curated[1].reasons.values()) == len(rejected)


def test_the_trainer_reads_the_manifests(curated: Curated) -> None:
    output = curated[0].output
    for split in ("train", "heldout"):
        manifest = read_manifest(output / f"{split}.parquet", min_face_similarity=0.6)
        assert manifest.pairs and not manifest.rejections and not manifest.ignored_columns
        assert all(path.is_file() for pair in manifest.pairs for path in (pair.target, *pair.references))
    facts = json.loads(parquet.read_schema(output / "train.parquet").metadata[b"lynx_curation"])
    assert facts["threshold"] == 0.6 and facts["recogniser"] == "lynx_mini_arcface"


def test_nobody_is_in_two_splits_and_consent_is_carried(curated: Curated) -> None:
    splits: dict[str, set[str]] = defaultdict(set)
    for row in read_rows(curated[0].output):
        splits[row["person"]].add(row["split"])
        assert (row["consent"], row["licence"]) == ("drawn", "Apache-2.0")
    assert all(len(some) == 1 for some in splits.values())
    assert {split for some in splits.values() for split in some} == {"train", "heldout"}


def copy_output(curated: Curated, footage: Path, tmp_path: Path, **sections) -> CurationConfig:
    shutil.copytree(curated[0].output, tmp_path / "set")
    return make_config(footage, tmp_path / "set", augmented=True, **sections)


def test_a_rerun_gives_the_same_files_and_scans_nothing(
    curated: Curated, footage: Path, tmp_path: Path
) -> None:
    config = copy_output(curated, footage, tmp_path)
    # The copied parts name their own folder, as after a move of the whole set.
    for part in (config.output / "work").rglob("*.parquet"):
        assert str(curated[0].output).encode() not in part.read_bytes()
    before = {path.name: path.read_bytes() for path in config.output.glob("*.parquet")}
    shown: list[tuple[str, int, int]] = []
    curate(config, lambda *count: shown.append(count))
    assert {path.name: path.read_bytes() for path in config.output.glob("*.parquet")} == before
    assert [count[1:] for count in shown if count[0] in ("scan", "captions", "variants")] == [
        (total, total) for name, _, total in shown if name in ("scan", "captions", "variants")
    ]


def test_other_bounds_decode_nothing_again(curated: Curated, footage: Path, tmp_path: Path) -> None:
    config = copy_output(curated, footage, tmp_path, quality={"min_face_px": 60, "max_yaw_deg": 20})
    shown: list[tuple[str, int, int]] = []
    report = curate(config, lambda *count: shown.append(count))
    scans = [count for count in shown if count[0] == "scan"]
    assert scans == [("scan", scans[0][2], scans[0][2])]
    assert report.reasons["quality", "look: face turned away"] > 0


def test_a_folder_that_grows_is_taken_in_with_what_is_new_alone(tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    write_photo(folder / "one.png", draw(0, 1, 0))
    write_photo(folder / "two.png", draw(0, 2, 4))
    config = make_config(folder, tmp_path / "set")
    assert sum(curate(config).kinds.values()) == 2
    write_photo(folder / "three.png", draw(0, 3, 2))
    half = folder / "half.png"  # still being written
    half.write_bytes((folder / "one.png").read_bytes()[:2000])
    shown: list[tuple[str, int, int]] = []
    report = curate(config, lambda *count: shown.append(count))
    assert ("scan", 2, 4) in shown and sum(report.kinds.values()) == 3
    assert report.reasons["scan", "does not decode"] == 1
    write_photo(half, draw(0, 4, 5))
    assert sum(curate(config).kinds.values()) == 4


def test_nothing_to_pair_is_an_error_with_all_reasons(tmp_path: Path) -> None:
    write_photo(tmp_path / "photos" / "alone.png", draw(3, 1, 5))
    with pytest.raises(CurationError, match="only the target's own frames show the person"):
        curate(make_config(tmp_path / "photos", tmp_path / "set"))
    assert read_rejections(tmp_path / "set") and not (tmp_path / "set" / "train.parquet").exists()


def test_a_phone_clip_that_is_shown_turned_is_looked_at_upright(tmp_path: Path) -> None:
    folder = tmp_path / "footage"
    turned = [frame.swapaxes(0, 1)[:, ::-1] for frame in draw_frames(draw(0, 3, 3, "turn left"))]
    write_clip(folder / "phone.mp4", turned, rotation=90)
    write_photo(folder / "photo.png", draw(0, 1, 0))
    report = curate(make_config(folder, tmp_path / "set"))
    assert report.num_people == 1 and report.kinds["multi-scene"] >= 2


def write_toml(path: Path, footage: Path, **more: str) -> Path:
    config = make_config(footage, path.with_name("set"))
    text = f"""
output = "{config.output}"
[[sources]]
path = "{footage}"
[faces]
detector_models = "{config.faces.detector_models}"
pack = "lynx_mini"
recogniser = "{config.faces.recogniser}"
[identity]
threshold = 0.6
[quality]
min_face_px = 60
[targets]
min_s = 1.0
max_s = 1.5
[references]
form = "aligned"
[splits]
heldout_share = 0.4
"""
    path.write_text(text)
    return path


def test_three_commands_lead_from_a_folder_to_an_adapter(
    footage: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from small_run import save_small_world

    toml = write_toml(tmp_path / "curate.toml", footage)
    assert main(["curate", str(toml), "--dry-run"]) == 0
    shown = capsys.readouterr().out
    assert (
        "9 photos and 4 clips" in shown
        and "left to look at" in shown
        and "1 left out: no photo or clip" in shown
    )
    assert not (tmp_path / "set" / "train.parquet").exists()
    assert main(["curate", str(toml)]) == 0
    shown = capsys.readouterr()
    assert "multi-scene" in shown.out and "train.parquet" in shown.out
    assert re.search(r"scan: 13 of 13, [\d.]+(/s| s each)", shown.err)
    save_small_world(tmp_path / "mini")
    monkeypatch.chdir(tmp_path)
    repo = Path(__file__).resolve().parents[2]
    overrides = [
        "data.manifest=set/train.parquet",
        "data.validation_manifest=set/heldout.parquet",
        "data.max_quarantined=0.5",
        "decoding.max_px=1024",
        "packing.oversize=trim",
        "stages.0.steps=2",
        "stages.1.steps=2",
    ]
    for verb in (["prepare", "--workers", "1"], ["train"]):
        assert main([*verb, str(repo / "configs" / "mini_cpu.toml"), *overrides]) == 0, (
            capsys.readouterr().err
        )
    assert (tmp_path / "mini" / "run" / "adapter.safetensors").is_file()


def test_two_workers_make_the_same_manifest(curated: Curated, footage: Path, tmp_path: Path) -> None:
    config = make_config(footage, tmp_path / "set", augmented=True, workers=2)
    curate(config)
    assert read_rows(config.output) == read_rows(curated[0].output)


@pytest.mark.timeout(1200)
@pytest.mark.skipif(not os.environ.get("LYNX_RAY"), reason="starts a local Ray; LYNX_RAY=1 runs it")
def test_a_local_ray_makes_the_same_manifest(curated: Curated, footage: Path, tmp_path: Path) -> None:
    config = make_config(footage, tmp_path / "set", augmented=True, runner="ray", workers=2)
    curate(config)
    assert read_rows(config.output) == read_rows(curated[0].output)


def test_the_real_networks_tell_real_people_apart(tmp_path: Path) -> None:
    """Six faces in one photo of the wheel of insightface, and a seventh alone, by MTCNN and dlib."""
    pytest.importorskip("facenet_pytorch")
    pytest.importorskip("dlib")
    images = Path(pytest.importorskip("insightface").__file__).parent / "data" / "images"
    folder = tmp_path / "photos"
    folder.mkdir()
    for name in ("t1.jpg", "Tom_Hanks_54745.png"):
        shutil.copy(images / name, folder / name)
        (folder / name).with_suffix(".txt").write_text("People at a table.")
    config = make_config(
        folder,
        tmp_path / "set",
        faces={"detector": "mtcnn", "recogniser": "dlib"},
        identity={"threshold": 0.935},
        targets={"max_people": 6},
        augmenters=[{"name": "relight"}],
    )
    report = curate(config)
    assert report.num_people == 7
    assert report.kinds["augmented"] >= 5
    licences = json.loads((config.output / "curation.json").read_text())["licences"]
    assert "MIT" in licences["detector mtcnn"] and len(licences) == 3
