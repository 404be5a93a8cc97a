"""Downloads land where ComfyUI looks, checked and pinned, through the real huggingface_hub."""

from __future__ import annotations

import errno
import hashlib
import json
import shutil
import tempfile
from pathlib import Path

import pytest

from lynx_core import durable_file
from lynx_core.cli import download
from lynx_core.cli.download import DownloadError, DownloadLock, fetch_files
from lynx_core.cli.main import main
from lynx_core.cli.models_folder import ModelFolders
from lynx_core.formats import published_files
from lynx_core.formats.adapter import open_adapter
from lynx_core.formats.published_files import BUNDLES, Source

FULL_SHA256 = 64


def run(models, *arguments):
    return main(["download", *arguments, "--models", str(models)])


def downloads(hub):
    return [request for request in hub.requests if request.startswith("GET /cdn")]


def test_release_arrives_pinned_and_opens(published, models, capsys):
    assert run(models, "lynx_lite") == 0
    assert open_adapter(models / "lynx" / "lynx_lite").id.blocks == (0, 2)
    lock = json.loads((models / download.LOCK_FILE).read_text())
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
    assert len(json.loads((models / download.LOCK_FILE).read_text())) == 2


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
    assert json.loads((models / download.LOCK_FILE).read_text())["lynx/lynx_lite/ip_layers.safetensors"][
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


def fetch(source, models):
    fetch_files([source], ModelFolders(models), DownloadLock(models), report=lambda _: None)


SOURCE = Source("some/repo", "main", "deep/in/weights.bin", "vae/weights.bin")


def test_broken_download_resumes(hub, models, monkeypatch):
    hub.files["some/repo/deep/in/weights.bin"] = content = bytes(range(256)) * 40_000
    hub.break_after = 4_000_000
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 1_000_000)
    monkeypatch.setattr("time.sleep", lambda _: None)  # the library waits between its retries
    with pytest.raises(DownloadError, match="run the same command again; it resumes"):
        fetch(SOURCE, models)
    assert not (models / "vae/weights.bin").exists()
    hub.down = False
    fetch(SOURCE, models)
    assert (models / "vae/weights.bin").read_bytes() == content
    assert downloads(hub)[-1].endswith("bytes=4000000-")


def test_sha256_on_record_is_held_against_the_hub(hub, models):
    hub.files["some/repo/deep/in/weights.bin"] = b"other"
    source = Source(
        "some/repo", "main", "deep/in/weights.bin", "vae/weights.bin", 4, hashlib.sha256(b"good").hexdigest()
    )
    with pytest.raises(DownloadError, match=r"should be [0-9a-f]{64}\. It was not fetched"):
        fetch(source, models)
    assert downloads(hub) == []


def test_file_or_revision_that_is_gone(hub, models):
    with pytest.raises(DownloadError, match=r"The hub has no some/repo/deep/in/weights\.bin.*--latest"):
        fetch(SOURCE, models)


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


OTHER_DISK = Path("/dev/shm")
needs_two_disks = pytest.mark.skipif(
    not OTHER_DISK.is_dir() or OTHER_DISK.stat().st_dev == Path(tempfile.gettempdir()).stat().st_dev,
    reason="a second disk is needed",
)


@pytest.fixture
def other_disk():
    with tempfile.TemporaryDirectory(dir=OTHER_DISK) as folder:
        yield Path(folder)


@needs_two_disks
def test_a_model_folder_may_be_a_link_to_another_disk(published, models, other_disk, capsys):
    (models / "lynx").symlink_to(other_disk)
    assert run(models, "lynx_lite") == 0, capsys.readouterr().err
    assert open_adapter(other_disk / "lynx_lite").id.blocks == (0, 2)
    left = sorted(path.name for path in other_disk.rglob("*") if path.is_file())
    assert left == ["comfy-lynx-download.lock.json", "ip_layers.safetensors", "resampler.safetensors"]


@needs_two_disks
def test_a_file_may_be_a_link_to_another_disk(hub, models, other_disk):
    hub.files["some/repo/deep/in/weights.bin"] = b"weights"
    (models / "vae").mkdir()
    (models / "vae/weights.bin").symlink_to(other_disk / "weights.bin")
    fetch(SOURCE, models)
    assert (models / "vae/weights.bin").is_symlink() and (
        other_disk / "weights.bin"
    ).read_bytes() == b"weights"


@needs_two_disks
def test_space_is_checked_on_the_disk_of_each_folder(hub, models, other_disk, monkeypatch):
    """Two files of 60 bytes fit one by one, but not together; the disk of `models` itself is nearly full."""
    (models / "vae").symlink_to(other_disk)
    free = {other_disk.stat().st_dev: 100, models.stat().st_dev: 1}
    usage = lambda path: shutil._ntuple_diskusage(0, 0, free[Path(path).stat().st_dev])  # noqa: E731
    monkeypatch.setattr(shutil, "disk_usage", usage)
    hub.files |= {"some/repo/a": b"a" * 60, "some/repo/b": b"b" * 60}
    sources = [Source("some/repo", "main", name, f"vae/{name}") for name in "ab"]
    with pytest.raises(DownloadError, match=r"100 bytes free, and 120 are needed \(a, b\); make room"):
        fetch_files(sources, ModelFolders(models), DownloadLock(models))
    assert downloads(hub) == []
    fetch(sources[0], models)
    with pytest.raises(DownloadError, match="1 bytes free, and 60 are needed"):
        fetch(Source("some/repo", "main", "b", "text_encoders/b"), models)


def test_what_has_come_before_is_not_needed_again(hub, models, monkeypatch):
    hub.files["some/repo/deep/in/weights.bin"] = content = b"x" * 100
    partial = models / f"vae/.weights.bin.{hashlib.sha256(content).hexdigest()[:16]}.part"
    partial.parent.mkdir()
    partial.write_bytes(content[:90])
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(100, 90, 10))
    fetch(SOURCE, models)
    assert (models / "vae/weights.bin").read_bytes() == content and not partial.exists()


def test_a_folder_that_cannot_be_written_is_said_before_anything_comes(hub, models, monkeypatch):
    """Two at once: the folder of the second file, and that of the lock file."""
    hub.files |= {"some/repo/a": b"a", "some/repo/b": b"b"}
    make = tempfile.TemporaryFile
    blocked = [models / "vae", models / "lynx"]
    for folder in blocked:
        folder.mkdir()

    def refuse(dir):
        if dir in blocked:
            raise OSError(errno.EROFS, "Read-only file system")
        return make(dir=dir)

    monkeypatch.setattr(
        tempfile, "TemporaryFile", refuse
    )  # root may write everywhere, and a mount needs root
    sources = [
        Source("some/repo", "main", name, target)
        for name, target in (("a", "text_encoders/a"), ("b", "vae/b"))
    ]
    with pytest.raises(DownloadError) as refusal:
        fetch_files(sources, ModelFolders(models), DownloadLock(models))
    for folder in blocked:
        assert f"{folder} cannot be written (Read-only file system)" in str(refusal.value)
    assert downloads(hub) == [] and not (models / "text_encoders").exists()


def test_a_disk_that_fills_up_on_the_way_is_no_fault_of_the_network(hub, models, monkeypatch):
    hub.files["some/repo/deep/in/weights.bin"] = b"x" * 100

    def fill(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(durable_file.os, "fsync", fill)
    with pytest.raises(
        DownloadError, match=r"vae/weights\.bin could not be written: No space left.*make room"
    ) as refusal:
        fetch(SOURCE, models)
    assert "connection" not in str(refusal.value)


def test_all_files_in_the_way_are_named_at_once(published, models, capsys):
    for name in ("resampler", "ip_layers"):
        (models / "lynx/lynx_lite").mkdir(parents=True, exist_ok=True)
        (models / f"lynx/lynx_lite/{name}.safetensors").write_text("mine")
    assert run(models, "lynx_lite") == 1
    error = capsys.readouterr().err
    assert "resampler.safetensors is there" in error and "ip_layers.safetensors is there" in error


@pytest.mark.parametrize("folder", ["unet", "diffusion_models", "elsewhere"])
def test_a_model_in_any_folder_of_the_host_is_not_fetched_again(hub, models, tmp_path, folder):
    hub.files["some/repo/wan"] = b"wan"
    source = Source("some/repo", "main", "wan", "diffusion_models/wan.safetensors")
    place = (tmp_path / "disk" if folder == "elsewhere" else models) / folder / "wan.safetensors"
    place.parent.mkdir(parents=True)
    place.write_bytes(b"wan")
    (models.parent / "extra_model_paths.yaml").write_text(
        "mine:\n  base_path: disk\n  unet: |\n    elsewhere/\n    nowhere/\nempty:\n"
    )
    said = []
    fetch_files([source], ModelFolders(models), DownloadLock(models), report=said.append)
    assert downloads(hub) == [] and "already there" in said[0]
    assert (str(place) in said[0]) == (folder != "diffusion_models")


def test_a_default_folder_of_the_configuration_gets_the_files(hub, models, tmp_path):
    hub.files["some/repo/deep/in/weights.bin"] = b"weights"
    config = tmp_path / "own.yaml"
    config.write_text(f"big_disk:\n  base_path: {tmp_path}/big\n  is_default: true\n  vae: vae\n")
    fetch_files([SOURCE], ModelFolders(models, [config]), DownloadLock(models))
    assert (tmp_path / "big/vae/weights.bin").read_bytes() == b"weights" and not (models / "vae").exists()


@pytest.mark.parametrize("content", ["a: [", "- a list", "a:\n  vae: 3", "a:\n  vae: {b: c}"])
def test_a_damaged_configuration_is_named(models, capsys, content):
    (models.parent / "extra_model_paths.yaml").write_text(content)
    assert run(models, "lynx_lite", "--dry-run") == 1
    error = capsys.readouterr().err
    assert "extra_model_paths.yaml cannot be read as ComfyUI reads it" in error and "Traceback" not in error


def test_dry_run_lists_everything_and_asks_nobody(hub, models, capsys):
    assert run(models, *BUNDLES, "--dry-run") == 0
    shown = capsys.readouterr().out
    for bundle in BUNDLES.values():
        for source in bundle.sources:
            assert str(models / source.target) in shown and f"{source.repo}/{source.file}" in shown
    assert hub.requests == [] and list(models.iterdir()) == []


def test_damaged_lock_file(models, capsys):
    (models / download.LOCK_FILE).parent.mkdir()
    (models / download.LOCK_FILE).write_text("[1")
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
            assert source.revision == published_files.UNPINNED or len(source.revision) == 40
            assert source.sha256 is None or len(source.sha256) == FULL_SHA256
            assert source.sha256 or source.repo in ("ByteDance/lynx", "Comfy-Org/Wan_2.1_ComfyUI_repackaged")
