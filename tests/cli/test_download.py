"""Downloads land where ComfyUI looks, checked and pinned, through the real huggingface_hub."""

from __future__ import annotations

import hashlib
import json
import shutil

import pytest

from lynx_core.cli import download_sources, hub_files
from lynx_core.cli.download_sources import BUNDLES, Source
from lynx_core.cli.hub_files import DownloadError, DownloadLock, fetch_file
from lynx_core.cli.main import main
from lynx_core.formats.adapter import open_adapter

FULL_SHA256 = 64


@pytest.fixture
def models(tmp_path):
    folder = tmp_path / "models"
    folder.mkdir()
    return folder


@pytest.fixture
def published(hub, lite_release):
    """The hub with a lynx_lite on it."""
    for name in ("resampler", "ip_layers"):
        content = (lite_release / f"{name}.safetensors").read_bytes()
        hub.files[f"ByteDance/lynx/lynx_lite/{name}.safetensors"] = content
    return hub


def run(models, *arguments):
    return main(["download", *arguments, "--models", str(models)])


def downloads(hub):
    return [request for request in hub.requests if request.startswith("GET /cdn")]


def test_release_arrives_pinned_and_opens(published, models, capsys):
    assert run(models, "lynx_lite") == 0
    assert open_adapter(models / "lynx" / "lynx_lite").id.blocks == (0, 2)
    lock = json.loads((models / hub_files.LOCK_FILE).read_text())
    path = models / "lynx/lynx_lite/ip_layers.safetensors"
    pin = lock["lynx/lynx_lite/ip_layers.safetensors"]
    assert pin["revision"] == "1" * 40
    assert pin["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert pin["num_bytes"] == path.stat().st_size
    assert [entry.name for entry in models.iterdir()] == ["lynx"], "nothing else is left behind"


def test_what_is_there_is_not_fetched_again(published, models, capsys):
    run(models, "lynx_lite")
    published.requests.clear()
    assert run(models, "lynx_lite") == 0
    assert published.requests == []
    assert capsys.readouterr().out.count("already there") == 2


def test_files_put_there_by_hand_are_recognised(published, lite_release, models, capsys):
    shutil.copytree(lite_release, models / "lynx" / "lynx_lite")
    assert run(models, "lynx_lite") == 0
    assert downloads(published) == []
    assert len(json.loads((models / hub_files.LOCK_FILE).read_text())) == 2


def test_later_downloads_keep_to_the_pin(published, models, capsys):
    run(models, "lynx_lite")
    published.commits["main"] = "2" * 40
    (models / "lynx/lynx_lite/ip_layers.safetensors").unlink()
    published.requests.clear()
    assert run(models, "lynx_lite") == 0
    assert all("1" * 40 in request for request in published.requests if "/resolve/" in request)
    assert len(downloads(published)) == 1
    key = "ByteDance/lynx/lynx_lite/ip_layers.safetensors"
    published.files[key] += b"tampered"
    (models / "lynx/lynx_lite/ip_layers.safetensors").unlink()
    assert run(models, "lynx_lite") == 1
    assert "It was not fetched" in capsys.readouterr().err
    assert not (models / "lynx/lynx_lite/ip_layers.safetensors").exists()
    assert run(models, "lynx_lite", "--latest") == 0
    assert json.loads((models / hub_files.LOCK_FILE).read_text())["lynx/lynx_lite/ip_layers.safetensors"][
        "revision"
    ] == ("2" * 40)


def test_a_different_file_in_the_place_is_kept_unless_asked(published, models, capsys):
    mine = models / "lynx/lynx_lite/resampler.safetensors"
    mine.parent.mkdir(parents=True)
    mine.write_text("mine")
    assert run(models, "lynx_lite") == 1
    error = capsys.readouterr().err
    assert str(mine) in error and "--replace" in error and "Traceback" not in error
    assert mine.read_text() == "mine"
    assert run(models, "lynx_lite", "--replace") == 0
    assert mine.read_bytes() == published.files["ByteDance/lynx/lynx_lite/resampler.safetensors"]


def test_wrong_content_is_thrown_away(published, models, capsys):
    published.wrong_content = True
    assert run(models, "lynx_lite") == 1
    assert "it was thrown away" in capsys.readouterr().err
    assert not list(models.rglob("*.safetensors"))
    published.wrong_content = False
    assert run(models, "lynx_lite") == 0


SOURCE = Source("some/repo", "main", "deep/in/weights.bin", "vae/weights.bin")


def test_broken_download_resumes(hub, models, monkeypatch):
    hub.files["some/repo/deep/in/weights.bin"] = content = bytes(range(256)) * 40_000
    hub.break_after = 4_000_000
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 1_000_000)
    monkeypatch.setattr("time.sleep", lambda _: None)  # the library waits between its retries
    with pytest.raises(DownloadError, match="run the same command again; it resumes"):
        fetch_file(SOURCE, models, DownloadLock(models), report=lambda _: None)
    assert not (models / "vae").exists()
    hub.down = False
    fetch_file(SOURCE, models, DownloadLock(models), report=lambda _: None)
    assert (models / "vae/weights.bin").read_bytes() == content
    assert downloads(hub)[-1].endswith("bytes=4000000-")


def test_sha256_on_record_is_held_against_the_hub(hub, models):
    hub.files["some/repo/deep/in/weights.bin"] = b"other"
    source = Source(
        "some/repo", "main", "deep/in/weights.bin", "vae/weights.bin", 4, hashlib.sha256(b"good").hexdigest()
    )
    with pytest.raises(DownloadError, match=r"should be [0-9a-f]{64}\. It was not fetched"):
        fetch_file(source, models, DownloadLock(models))
    assert downloads(hub) == []


def test_file_or_revision_that_is_gone(hub, models):
    with pytest.raises(DownloadError, match=r"The hub has no some/repo/deep/in/weights\.bin.*--latest"):
        fetch_file(SOURCE, models, DownloadLock(models))


def test_no_network(models, monkeypatch, capsys):
    from huggingface_hub import constants

    template = "http://127.0.0.1:9/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    assert run(models, "lynx_lite") == 1
    error = capsys.readouterr().err
    assert (
        error.startswith("comfy-lynx: ByteDance/lynx/lynx_lite/resampler.safetensors")
        and error.count("\n") == 1
    )
    assert "Check the connection" in error


def test_disk_too_full(hub, models, monkeypatch):
    hub.files["some/repo/deep/in/weights.bin"] = b"x" * 100
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(100, 90, 10))
    with pytest.raises(DownloadError, match="needs 100 bytes, and 10 are free"):
        fetch_file(SOURCE, models, DownloadLock(models))
    assert downloads(hub) == []


def test_dry_run_lists_everything_and_asks_nobody(hub, models, capsys):
    assert run(models, *BUNDLES, "--dry-run") == 0
    shown = capsys.readouterr().out
    for bundle in BUNDLES.values():
        for source in bundle.sources:
            assert str(models / source.target) in shown and f"{source.repo}/{source.file}" in shown
    assert hub.requests == [] and list(models.iterdir()) == []


def test_damaged_lock_file(models, capsys):
    (models / hub_files.LOCK_FILE).parent.mkdir()
    (models / hub_files.LOCK_FILE).write_text("[1")
    assert run(models, "lynx_lite") == 1
    assert "lock.json is damaged" in capsys.readouterr().err


def test_places_are_those_that_comfyui_searches():
    targets = {source.target for bundle in BUNDLES.values() for source in bundle.sources}
    folders = {target.rsplit("/", 1)[0] for target in targets}
    assert folders == {
        "lynx/lynx_full",
        "lynx/lynx_lite",
        "lynx/faces",
        "diffusion_models",
        "text_encoders",
        "vae",
        "insightface/models/buffalo_l",
        "insightface/models/antelopev2",
    }


def test_pins_are_whole():
    for bundle in BUNDLES.values():
        for source in bundle.sources:
            assert source.revision == download_sources.UNPINNED or len(source.revision) == 40
            assert source.sha256 is None or len(source.sha256) == FULL_SHA256
            assert source.sha256 or source.repo in ("ByteDance/lynx", "Comfy-Org/Wan_2.1_ComfyUI_repackaged")
