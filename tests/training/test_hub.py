"""The adapter goes to the Hugging Face Hub at the end of a run; a hub that is not there costs nothing but a line."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from small_run import make_configuration

from lynx_core.training.hub import push_adapter
from lynx_core.training.loop import train
from lynx_core.training.preflight import PreflightError


class Hub(BaseHTTPRequestHandler):
    """As much of the hub as an upload of a small file asks for."""

    files: dict[str, bytes]
    created: dict[str, object]

    def do_POST(self) -> None:
        length = self.headers["Content-Length"]
        body = self.rfile.read(int(length)) if length else self._read_chunks()
        if self.path == "/api/repos/create":
            self.created.update(json.loads(body))
            answer: dict[str, object] = {"url": f"http://{self.headers['Host']}/me/lynx"}
        elif "/preupload/" in self.path:
            names = [entry["path"] for entry in json.loads(body)["files"]]
            answer = {"files": [{"path": n, "uploadMode": "regular", "shouldIgnore": False} for n in names]}
        else:
            for line in body.splitlines():
                entry = json.loads(line)
                if entry["key"] == "file":
                    self.files[entry["value"]["path"]] = base64.b64decode(entry["value"]["content"])
            answer = {
                "commitUrl": f"http://{self.headers['Host']}/me/lynx/commit/1",
                "commitOid": "1",
                "success": True,
            }
        data = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _read_chunks(self) -> bytes:
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Hub]]:
    handler = type("OneHub", (Hub,), {"files": {}, "created": {}})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_TOKEN", "hf_of_a_test")
    yield handler
    server.shutdown()
    server.server_close()


def test_a_finished_run_uploads_its_adapter(
    world: Path, tmp_path: Path, hub: type[Hub], capsys: pytest.CaptureFixture[str]
) -> None:
    stage = [{"name": "images", "kind": "images", "steps": 1}]
    config = make_configuration(world, tmp_path / "run", stages=stage)
    run = {**vars(config.run), "output": str(tmp_path / "run"), "push_to_hub": "me/lynx"}
    assert train(make_configuration(world, tmp_path / "run", stages=stage, run=run)).ended == "finished"
    assert hub.files["adapter.safetensors"] == (tmp_path / "run" / "adapter.safetensors").read_bytes()
    assert hub.created["name"] == "lynx"
    assert "private" in (hub.created.get("visibility"), hub.created.get("private") and "private")
    assert "/me/lynx" in capsys.readouterr().err


def test_a_hub_that_is_not_there_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    path = tmp_path / "adapter.safetensors"
    path.write_bytes(b"0" * 64)
    told = push_adapter(path, "me/lynx")
    assert "could not be uploaded to me/lynx" in told and f"hf upload me/lynx {path}" in told


def test_a_wrong_name_or_no_token_is_told_before_the_run(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "none"))
    config = make_configuration(world, tmp_path / "run")
    run = {**vars(config.run), "output": str(tmp_path / "run"), "push_to_hub": "no name"}
    with pytest.raises(
        PreflightError, match=r"(?s)run\.push_to_hub is a repository.*needs a token"
    ) as caught:
        train(make_configuration(world, tmp_path / "run", run=run))
    assert len(caught.value.problems) == 2
