"""The recipe of docs/training.md, as it stands there, in an empty folder with stand-ins for the models."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest
from small_media import write_video
from small_run import REPO_DIR, plain_configuration

from lynx_core.cli.main import main
from lynx_core.training.configuration import read_configuration

CONFIGS = sorted((REPO_DIR / "configs").glob("single_*.toml"))


def test_a_folder_of_clips_becomes_a_data_set(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In the places that the configurations name."""
    monkeypatch.chdir(tmp_path)
    clips = tmp_path / "data" / "clips"
    clips.mkdir(parents=True)
    for number in range(7):
        write_video(clips / f"clip {number}.mp4", num_frames=5, size=(32, 32), seed=number)
        (clips / f"clip {number}.txt").write_bytes(b"\xef\xbb\xbfa man b\r\n")
    text = (REPO_DIR / "docs" / "training.md").read_text()
    (recipe,) = (block for block in re.findall(r"```bash\n(.*?)```", text, re.DOTALL) if "clips/" in block)
    subprocess.run(["bash", "-euc", recipe], check=True)
    rows = [json.loads(line) for line in Path("data/train.jsonl").read_text().splitlines()]
    assert [row["id"] for row in rows] == ["clip 4", "clip 5", "clip 6"]
    assert {row["caption"] for row in rows} == {"a man b"}
    for path in CONFIGS:
        data = read_configuration(path).data
        assert (data.manifest, data.validation_manifest) == (
            Path("data/train.jsonl"),
            Path("data/heldout.jsonl"),
        )

    values = plain_configuration(world, tmp_path / "run")
    models = [
        f"data.{key}={values['data'][key]}" for key in ("vae", "text_encoder", "tokenizer", "face_recogniser")
    ]
    chosen = [*models, "data.face_models=", "data.faces_aligned=true", "run.output=run", "run.device=cpu"]
    assert main(["prepare", str(CONFIGS[-1]), *chosen]) == 0
    shown = capsys.readouterr().out
    assert "3 pairs ready, 0 skipped" in shown and "4 pairs ready, 0 skipped" in shown
    assert Path("data/cache/latents").is_dir()


def test_download_puts_the_models_where_the_configurations_name_them() -> None:
    from lynx_core.formats.published_files import BUNDLES

    text = (REPO_DIR / "docs" / "training.md").read_text()
    assert "comfy-lynx download lynx_full faces --models models" in text
    fetched = [
        f"models/{s.target}" for name in ("lynx_full", "lynx_lite", "faces") for s in BUNDLES[name].sources
    ]
    for path in CONFIGS:
        config = read_configuration(path)
        named = [*config.adapter.init, config.data.face_recogniser, config.data.face_models]
        for place in named:
            assert any(target.startswith(str(place)) for target in fetched), place
