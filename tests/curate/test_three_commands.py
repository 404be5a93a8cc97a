"""From real photos and drawn footage to an adapter of Mini Lynx: three commands, by the configurations that ship."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from drawn import draw, draw_frames, put_side_by_side, write_clip, write_photo
from test_curation import read_rows

from lynx_core.cli.main import main
from lynx_core.data.cache.shard_file import read_entries
from lynx_core.formats.adapter import open_adapter
from lynx_core.hashing import hash_file
from miniature.encoders import unpack_encoders

REPO = Path(__file__).resolve().parents[2]


def write_footage(folder: Path) -> None:
    """Seven real faces in two photos, and four drawn people in photos and clips, two of them together."""
    images = Path(pytest.importorskip("insightface").__file__).parent / "data" / "images"
    folder.mkdir(parents=True)
    for name in ("t1.jpg", "Tom_Hanks_54745.png"):
        shutil.copy(images / name, folder / name)
        (folder / name).with_suffix(".txt").write_text("People at a table.")
    for person in range(4):
        write_photo(folder / f"{person}.png", draw(person, 1, person), 256, "A person stands on a beach.")
        frames = draw_frames(draw(person, 3, person + 4, "turn left"), 16, 256)
        write_clip(folder / f"{person}.mp4", frames, "A person turns.")
    both = put_side_by_side(*(draw_frames(draw(p, 4, 3 + p, "smile"), 12, 192) for p in (0, 1)))
    write_clip(folder / "both.mp4", both, "Two people smile.")


def test_three_commands_lead_from_real_photos_to_an_adapter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("facenet_pytorch")
    pytest.importorskip("dlib")
    monkeypatch.chdir(tmp_path)
    write_footage(Path("data/footage"))
    assert main(["curate", str(REPO / "configs" / "curate_mini.toml")]) == 0, capsys.readouterr().err
    rows = read_rows(tmp_path / "data" / "curated")
    assert {row["kind"] for row in rows} >= {"multi-scene", "augmented"}
    assert any(row["target"].startswith("targets/") for row in rows)
    Path("assets").symlink_to(REPO / "assets")
    unpack_encoders(REPO / "assets" / "mini", Path(".miniature"))
    short = ["stages.0.steps=1", "stages.1.steps=1", "optimizer.decay_steps=0", "optimizer.warmup_steps=0"]
    for verb in (["prepare", "--workers", "1"], ["train"]):
        command = [*verb, str(REPO / "configs" / "curated_mini.toml"), *short]
        assert main(command) == 0, capsys.readouterr().err
    assert {"id", "ref"} <= set(open_adapter(Path("runs/curated_mini/adapter.safetensors")).parts)

    (cache,) = (path.parent for path in Path().rglob("shards") if path.is_dir())
    own = [row for row in rows if row["person"] == rows[0]["person"]]
    output = Path("data/curated")

    def list_sources() -> set[str]:
        return {
            entry.source
            for path in cache.glob("shards/*.safetensors")
            for entry in read_entries(path.open("rb"))
        }

    doomed = {hash_file(output / path) for row in own for path in (row["target"], *row["references"])}
    assert doomed & list_sources()
    assert main(["forget", rows[0]["person"], "--set", str(output), "--cache", str(cache)]) == 0
    assert list_sources() and not doomed & list_sources()
