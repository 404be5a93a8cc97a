"""Downloads into one folder at once, and through a proxy that breaks off; real processes."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import threading
from pathlib import Path

import huggingface_hub
import pytest

from lynx_core import durable_file
from lynx_core.cli import download
from lynx_core.cli.download import DownloadLock, fetch_files
from lynx_core.cli.main import main
from lynx_core.cli.models_folder import ModelFolders
from lynx_core.formats.adapter import open_adapter
from lynx_core.formats.published_files import Source

REPO_DIR = Path(__file__).resolve().parents[2]
SOURCE = Source("some/repo", "main", "deep/in/weights.bin", "vae/weights.bin")


def run(models):
    return main(["download", "lynx_lite", "--models", str(models)])


def downloads(hub):
    return [request for request in hub.requests if request.startswith("GET /cdn")]


def start(models, hub):
    """The command in a process of its own."""
    environment = {**os.environ, "HF_ENDPOINT": hub.endpoint, "PYTHONPATH": str(REPO_DIR)}
    command = [sys.executable, "-m", "lynx_core.cli.main", "download", "lynx_lite", "--models", str(models)]
    return subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def test_two_downloads_into_one_folder_wait_for_each_other(published, models):
    published.hold_until = 4  # both have asked for the headers of both files
    both = [start(models, published) for _ in range(2)]
    said = [process.communicate(timeout=120)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    assert len(downloads(published)) == 2, "each file comes once"
    assert open_adapter(models / "lynx" / "lynx_lite").id.blocks == (0, 2)
    left = sorted(path.name for path in models.rglob("*") if path.is_file())
    assert left == ["comfy-lynx-download.lock.json", "ip_layers.safetensors", "resampler.safetensors"]


def test_a_download_that_waits_says_so(hub, models):
    hub.files["some/repo/deep/in/weights.bin"] = content = b"weights"
    partial = models / f"vae/.weights.bin.{hashlib.sha256(content).hexdigest()[:16]}.part"
    said, has_waited = [], threading.Event()

    def report(line):
        said.append(line)
        if "another download of it runs, waiting for that one" in line:
            has_waited.set()

    fetching = threading.Thread(
        target=fetch_files,
        args=([SOURCE], ModelFolders(models), DownloadLock(models)),
        kwargs={"report": report},
    )
    with durable_file.hold_alone(partial):
        fetching.start()
        assert has_waited.wait(30), said
        assert downloads(hub) == []
    fetching.join()
    assert (models / "vae/weights.bin").read_bytes() == content


def test_the_pins_of_another_download_are_kept(models):
    locks = [DownloadLock(models), DownloadLock(models)]
    sources = [Source("some/repo", "main", name, f"vae/{name}") for name in "ab"]
    for lock, source in zip(locks, sources, strict=True):
        lock.record(source, download.Pin(source.repo, source.file, "1" * 40, "0" * 64, 1))
    assert all(DownloadLock(models).find(source) for source in sources)


@pytest.fixture
def proxy(request, tmp_path, monkeypatch):
    """A proxy, in a process of its own, that breaks off the first two answers; gives its log of them."""
    log = tmp_path / "cut"
    command = [sys.executable, str(Path(__file__).parent / "cutting_proxy.py"), request.param, "2", str(log)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        for name in ("NO_PROXY", "no_proxy", "http_proxy"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{process.stdout.readline().strip()}")
        huggingface_hub.close_session()  # it looks for proxies when it is opened
        yield log
        process.kill()
    huggingface_hub.close_session()


@pytest.mark.parametrize("proxy", ["cut", "no length", "no ranges"], indirect=True)
def test_a_proxy_that_breaks_off(published, models, proxy, monkeypatch, capsys):
    """What has come is kept, the rest comes by itself or with the same command; nothing half is put in place."""
    monkeypatch.setattr("time.sleep", lambda _: None)  # the library waits between its retries
    for _ in range(4):
        if run(models) == 0:
            break
        assert "run the same command again; it resumes" in capsys.readouterr().err
        assert all(path.read_bytes() in published.files.values() for path in models.rglob("*.safetensors"))
    assert run(models) == 0
    assert len(proxy.read_text().splitlines()) == 2
    assert open_adapter(models / "lynx" / "lynx_lite").id.blocks == (0, 2)
    assert not list(models.rglob("*.part"))
