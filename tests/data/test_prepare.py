"""Preparation: fills the cache, resumes where it stopped, and keeps an account of every row and photo."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from small_encoders import make_small_encoders, save_small_models
from small_media import read_cache, write_image, write_rows

from lynx_core.data.cache.tensor_cache import decode_entry
from lynx_core.data.dataset import PairDataset
from lynx_core.data.encoders import Encoders, WanVideoEncoder
from lynx_core.data.manifest import read_manifest
from lynx_core.data.media import decoding
from lynx_core.data.media.decoding import DecodingConfig
from lynx_core.data.prepare import PreparedDataset, Progress, prepare_dataset
from lynx_core.training.progress import ProgressLine

DECODING = DecodingConfig(max_px=64 * 64, max_frames=5)
Row = dict[str, Any]


def read_lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_preparation_fills_the_cache_and_goes_on_where_it_stopped(
    folder: Path, rows: list[Row], models_dir: Path
) -> None:
    (folder / "b.mp4").write_bytes(b"no video" * 100)
    write_image(folder / "face_d.png", (100, 60))
    manifest = read_manifest(write_rows(folder / "pairs.jsonl", [*rows, "no row"]))
    seen: list[Progress] = []
    cache_dir = folder / "cache"

    class Stopped(Exception):
        pass

    def stop_at_latents(progress: Progress) -> None:
        if progress.stage == "latents":
            raise Stopped

    with pytest.raises(Stopped):
        prepare_dataset(manifest, cache_dir, make_small_encoders(models_dir), stop_at_latents, DECODING)
    quarantine = folder / "run" / "pairs-quarantine.jsonl"
    report = prepare_dataset(
        manifest,
        cache_dir,
        make_small_encoders(models_dir),
        seen.append,
        DECODING,
        quarantine_path=quarantine,
    )
    assert (report.num_pairs, report.num_skipped) == (2, 3)
    assert report.reused > 0
    assert "2 pairs ready, 3 skipped" in str(report) and "no face" in str(report)
    assert [p.stage for p in seen if p.done == 0] == ["files", "faces", "captions", "latents"]
    assert [p.stage for p in seen if p.done == p.total] == ["files", "faces", "captions", "latents"]
    assert [(line["line"], line["id"], line["reason"]) for line in read_lines(quarantine)] == [
        (5, "", "unreadable row"),
        (2, "b", "does not decode"),
        (4, "d", "no face"),
    ]
    assert all(line["detail"] for line in read_lines(quarantine))

    source = PairDataset(manifest, make_small_encoders(models_dir), DECODING, cache_dir=cache_dir)
    source.load(0), source.load(1), source.nulls()
    assert source.features.cache.counts.made == 0, "training makes nothing that was prepared"

    again = prepare_dataset(manifest, cache_dir, make_small_encoders(models_dir), None, DECODING)
    # The broken files are tried again each time; nothing was made of them.
    assert (again.made, again.num_skipped) == (0, 3)


def prepare(folder: Path, rows: list[Row], encoders: Encoders) -> PreparedDataset:
    return prepare_dataset(
        read_manifest(write_rows(folder / "pairs.jsonl", rows)),
        folder / "cache",
        encoders,
        None,
        DECODING,
        quarantine_path=folder / "run" / "pairs-quarantine.jsonl",
        warnings_path=folder / "run" / "pairs-warnings.jsonl",
    )


def embed_alone(folder: Path, rows: list[Row], encoders: Encoders, references: list[str]) -> torch.Tensor:
    manifest = read_manifest(write_rows(folder / "alone.jsonl", [{**rows[0], "references": references}]))
    embedding = PairDataset(manifest, encoders, DECODING).load(0).embedding
    assert embedding is not None
    return embedding


def test_a_bad_photo_of_several_costs_that_photo(
    folder: Path, rows: list[Row], encoders: Encoders, models_dir: Path
) -> None:
    """Without a face, cut off, empty, and not there; wherever it stands in the list."""
    write_image(folder / "wall.png", (100, 60))
    (folder / "cut.png").write_bytes((folder / "face_a.png").read_bytes()[:60])
    (folder / "empty.png").touch()
    rows[0]["references"] = ["wall.png", "gone.png", "face_a.png", "empty.png", "cut.png", "face_b.png"]
    report = prepare(folder, rows, encoders)
    assert (report.num_pairs, report.num_skipped) == (4, 0)
    lines = read_lines(folder / "run" / "pairs-warnings.jsonl")
    lost = {
        line["detail"].split(": ")[0].split("/")[-1]: line
        for line in lines
        if line["reason"] != "112 px crop"
    }
    assert {name: line["reason"] for name, line in lost.items()} == {
        "wall.png": "no face",
        "gone.png": "reference not found",
        "empty.png": "reference is empty",
        "cut.png": "does not decode",
    }
    assert all((line["id"], line["line"]) == ("a", 1) for line in lost.values())
    assert "1 to look at: no face; first: line 1, id a" in str(report)
    assert str(folder / "run" / "pairs-warnings.jsonl") in str(report)

    source = PairDataset(
        read_manifest(folder / "pairs.jsonl"),
        make_small_encoders(models_dir),
        DECODING,
        cache_dir=folder / "cache",
    )
    sample = source.load(0)
    assert source.features.cache.counts.made == 0
    assert torch.equal(sample.embedding, embed_alone(folder, rows, encoders, ["face_a.png", "face_b.png"]))


def test_a_pair_goes_when_no_photo_is_left(folder: Path, rows: list[Row], encoders: Encoders) -> None:
    write_image(folder / "wall.png", (100, 60))
    write_image(folder / "door.png", (60, 100))
    rows[0]["references"] = ["wall.png", "door.png"]
    rows[1]["references"] = ["gone.png", "lost.png"]
    report = prepare(folder, rows, encoders)
    assert (report.num_pairs, report.num_skipped) == (2, 2)
    found = {line["id"]: line for line in read_lines(folder / "run" / "pairs-quarantine.jsonl")}
    assert found["a"]["reason"] == "no face" and "none of the other 1 references" in found["a"]["detail"]
    assert found["b"]["reason"] == "reference not found"


def test_photo_without_a_face_is_detected_once(
    folder: Path, rows: list[Row], encoders: Encoders, models_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_image(folder / "wall.png", (100, 60))
    rows[0]["references"] = ["wall.png", "face_a.png"]
    prepare(folder, rows, encoders)

    def refuse(*_: Any) -> None:
        raise AssertionError("the detector ran again")

    monkeypatch.setattr("lynx_core.data.encoders.AnalyzerRecogniser.crop", refuse)
    prepare(folder, rows, make_small_encoders(models_dir))
    assert "no face" in {line["reason"] for line in read_lines(folder / "run" / "pairs-warnings.jsonl")}


def test_small_and_blurred_faces_are_kept_and_counted(
    folder: Path, rows: list[Row], encoders: Encoders
) -> None:
    write_image(folder / "face_a.png", (48, 48))
    Image.new("RGB", (256, 256), (200, 150, 120)).save(folder / "face_b.png")
    report = prepare(folder, rows, encoders)
    assert report.num_pairs == 4
    lines = read_lines(folder / "run" / "pairs-warnings.jsonl")
    assert {(line["id"], line["reason"]) for line in lines} == {
        ("a", "small face"),
        ("b", "blurred face"),
        ("c", "112 px crop"),
        ("d", "112 px crop"),
    }
    assert all(line["detail"].startswith(str(folder)) and line["line"] for line in lines)
    assert "4 pairs ready, 0 skipped, 4 warnings" in str(report)
    assert "1 to look at: blurred face; first: line 2, id b" in str(report)
    again = prepare(folder, rows, encoders)
    assert len(again.skipped.warnings) == 4, "also when everything is in the cache"


def test_new_models_try_again_what_was_skipped(
    folder: Path, rows: list[Row], encoders: Encoders, models_dir: Path
) -> None:
    """A photo without a face stays in quarantine for that detector only."""
    write_image(folder / "face_c.png", (100, 60))
    path = folder / "quarantine.jsonl"
    manifest = read_manifest(write_rows(folder / "pairs.jsonl", rows))
    source = PairDataset(manifest, encoders, DECODING, quarantine_path=path)
    assert {sample.id for sample in source.load_pack([0, 1, 2, 3])} == {"a", "b", "d"}
    assert len(PairDataset(manifest, encoders, DECODING, quarantine_path=path).quarantine) == 1
    other_models = make_small_encoders(save_small_models(folder / "other", seed=1))
    other = PairDataset(manifest, other_models, DECODING, quarantine_path=path)
    assert len(other.quarantine) == 0
    assert not path.exists(), "the file tells of these models only"


def test_two_preparations_at_once_fill_one_cache(folder: Path, rows: list[Row], models_dir: Path) -> None:
    write_image(folder / "face_d.png", (100, 60))
    write_rows(folder / "pairs.jsonl", rows)
    (folder / "models").symlink_to(models_dir)
    code = """
import sys
sys.path[:0] = sys.argv[2:]
from pathlib import Path
import json, torch
torch.set_num_threads(1)
from small_encoders import make_small_encoders
from test_prepare import prepare
folder = Path(sys.argv[1])
rows = [json.loads(line) for line in (folder / "pairs.jsonl").read_text().splitlines()]
print(prepare(folder, rows, make_small_encoders(folder / "models")))
"""
    tests = Path(__file__).parent
    command = [sys.executable, "-c", code, str(folder), str(tests), str(tests.parent / "host")]
    running = [
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(2)
    ]
    for process in running:
        out, err = process.communicate()
        assert process.returncode == 0, err
        assert "3 pairs ready, 1 skipped" in out
    assert {line["id"] for line in read_lines(folder / "run" / "pairs-quarantine.jsonl")} == {"d"}
    assert not list(folder.rglob("*.part"))
    source = PairDataset(
        read_manifest(folder / "pairs.jsonl"),
        make_small_encoders(models_dir),
        DECODING,
        cache_dir=folder / "cache",
    )
    for index in range(3):
        source.load(index)
    assert source.features.cache.counts.made == 0


def test_pictures_of_one_shape_go_through_the_vae_together(
    folder: Path, rows: list[Row], models_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a GPU: the same latents but for the last bits of float16, and a broken clip costs itself only."""
    monkeypatch.setattr("lynx_core.data.prepare_stages._NUM_BATCHES", 1)
    (folder / "b.mp4").write_bytes((folder / "b.mp4").read_bytes()[:-600])
    manifest = read_manifest(write_rows(folder / "pairs.jsonl", rows))
    sizes: list[int] = []
    real = WanVideoEncoder.encode_batch

    def encode_batch(encoder: WanVideoEncoder, pixels: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        sizes.append(len(pixels))
        return real(encoder, pixels)

    monkeypatch.setattr(WanVideoEncoder, "encode_batch", encode_batch)
    made = []
    for name, batch_pixels in (("alone", 0), ("together", 3 * 256 * 256)):
        encoders = make_small_encoders(models_dir)
        encoders.video.batch_pixels = batch_pixels
        report = prepare_dataset(manifest, folder / name, encoders, None, DECODING)
        made.append((report.num_pairs, report.made, read_cache(folder / name)))
        assert max(sizes) == (1 if name == "alone" else 3), sizes
    assert made[0][:2] == made[1][:2] and made[0][2].keys() == made[1][2].keys()
    for key, raw in made[0][2].items():
        one, other = decode_entry(raw), decode_entry(made[1][2][key])
        assert one is not None and other is not None
        for name, tensor in one.items():
            torch.testing.assert_close(other[name], tensor, rtol=1e-3, atol=1e-5)


def test_progress_shows_from_the_first_item(monkeypatch: pytest.MonkeyPatch) -> None:
    """A line at once, then one every few seconds, with rate and time left."""
    now = [100.0]
    monkeypatch.setattr("lynx_core.training.progress.time.monotonic", lambda: now[0])
    shown = io.StringIO()
    line = ProgressLine(shown)
    for done in range(101):
        line.show("latents", done, 100)
        now[0] += 2.0
    lines = shown.getvalue().splitlines()
    assert lines[0] == "latents: 0 of 100"
    assert lines[1] == "latents: 1 of 100, 2.0 s each, 3m18s left"
    assert lines[2].startswith("latents: 4 of 100") and lines[-1] == "latents: 100 of 100, 2.0 s each"
    assert len(lines) < 40
    line.show("files", 0, 1)
    assert shown.getvalue().splitlines()[-1] == "files: 0 of 1"


@pytest.mark.parametrize(("decoder", "remade"), [("video", {"latents"}), ("photo", {"latents", "crops"})])
def test_another_decoder_decodes_again(
    folder: Path,
    rows: list[Row],
    encoders: Encoders,
    monkeypatch: pytest.MonkeyPatch,
    decoder: str,
    remade: set[str],
) -> None:
    prepare(folder, rows, encoders)

    def count() -> dict[str, int]:
        names = list(read_cache(folder / "cache"))
        return {kind: sum(name.startswith(kind) for name in names) for kind in ("latents", "crops")}

    before = count()
    # An update of the package: its version is asked of the installed packages.
    name = {"video": "av", "photo": "pillow"}[decoder]
    real = decoding.version
    monkeypatch.setattr(decoding, "version", lambda package: "99.0" if package == name else real(package))
    prepare(folder, rows, encoders)
    assert {kind for kind, number in count().items() if number == 2 * before[kind]} == remade


@pytest.mark.timeout(1200)
@pytest.mark.skipif("LYNX_RAY" not in os.environ, reason="LYNX_RAY=1: minutes on a busy machine")
@pytest.mark.parametrize("runner", ["native", "ray"])
def test_several_workers_make_what_one_makes(
    folder: Path, rows: list[Row], models_dir: Path, runner: str
) -> None:
    many = [{**row, "id": f"{row['id']}{number}"} for number in range(4) for row in rows]
    write_rows(folder / "pairs.jsonl", [*many, {**rows[0], "target": "face_a.png"}])
    code = """
import sys
sys.path[:0] = sys.argv[4:]
from pathlib import Path
import torch
torch.set_num_threads(1)
from small_encoders import make_small_encoders
from lynx_core.data import prepare
from lynx_core.data.media.decoding import DecodingConfig
from lynx_core.data.manifest import read_manifest
folder, models, runner = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
prepare._MIN_PAIRS = 4
decoding = DecodingConfig(max_px=64 * 64, max_frames=5)
for name, count, kind in (("one", 1, "native"), ("two", 2, runner)):
    manifest = read_manifest(folder / "pairs.jsonl")
    workers = prepare.WorkerConfig(count, kind)
    encoders = make_small_encoders(models)
    print(prepare.prepare_dataset(manifest, folder / name, encoders, None, decoding, workers=workers))
"""
    tests = Path(__file__).parent
    # A process may choose one runner only.
    command = [sys.executable, "-c", code, str(folder), str(models_dir), runner]
    done = subprocess.run(
        [*command, str(tests), str(tests.parent / "host")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0 and done.stdout.count("17 pairs ready, 0 skipped") == 2, done.stderr[-3000:]
    made = [read_cache(folder / name) for name in ("one", "two")]
    assert len(made[0]) > 10 and made[0] == made[1]
