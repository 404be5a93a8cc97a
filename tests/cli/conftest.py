"""A small hub on this machine, and a lite adapter in the release layout."""

from __future__ import annotations

import hashlib
import re
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from lynx_core.models.adapters import IDAdapterConfig, IDAdapterLayer, Resampler, ResamplerConfig


def write_lite_release(folder: Path) -> Path:
    """Write a tiny lynx_lite: blocks 0 and 2 of width 32."""
    torch.manual_seed(3)
    folder.mkdir(parents=True, exist_ok=True)
    resampler = Resampler(ResamplerConfig(16, 2, 1, 4, 512, 24, 32))
    save_file(resampler.state_dict(), folder / "resampler.safetensors")
    config = IDAdapterConfig(32, 24, (0, 2), 0, False, "weightless")
    layers = {f"{j}.{k}": t for j in range(2) for k, t in IDAdapterLayer(config).state_dict().items()}
    save_file(layers, folder / "ip_layers.safetensors")
    return folder


@pytest.fixture
def lite_release(tmp_path: Path) -> Path:
    return write_lite_release(tmp_path / "lynx_lite")


@dataclass
class SmallHub:
    """Serves files as the hub does: commit, sha256 and size in headers, content from another host, in ranges."""

    files: dict[str, bytes] = field(default_factory=dict)
    """By `owner/name/path/in/repository`."""
    commits: dict[str, str] = field(default_factory=lambda: {"main": "1" * 40})
    """Revision to commit."""
    requests: list[str] = field(default_factory=list)
    """`METHOD path`, with the range asked for."""
    wrong_content: bool = False
    """Send other bytes than the headers promise."""
    break_after: int | None = None
    """Go down after so many bytes of a file."""
    down: bool = False
    """Drop every connection."""
    endpoint: str = ""
    hold_until: int = 0
    """Send no content before so many requests for headers have come."""

    def await_headers(self) -> None:
        """Wait until `hold_until` is reached, at most a minute."""
        end = time.monotonic() + 60
        while (
            sum(each.startswith("HEAD /") for each in list(self.requests)) < self.hold_until
            and time.monotonic() < end
        ):
            time.sleep(0.02)


class _Handler(BaseHTTPRequestHandler):
    hub: SmallHub
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def _answer(self, *, with_body: bool) -> None:
        if self.hub.down:
            self._drop()
            return
        asked_range = self.headers.get("Range", "")
        self.hub.requests.append(f"{self.command} {self.path} {asked_range}".strip())
        cdn = re.fullmatch(r"/cdn/(.+)", self.path)
        if cdn:
            self.hub.await_headers()
            self._send(self.hub.files[cdn[1]], asked_range, with_body=with_body)
            return
        match = re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", self.path)
        commit = match and (self.hub.commits.get(match[2]) or (match[2] if len(match[2]) == 40 else None))
        content = self.hub.files.get(f"{match[1]}/{match[3]}") if match else None
        if match is None or content is None or commit is None:
            self.send_response(404)
            self.send_header("X-Error-Code", "EntryNotFound" if commit else "RevisionNotFound")
        else:
            self.send_response(302)
            self.send_header("X-Repo-Commit", commit)
            self.send_header("X-Linked-ETag", f'"{hashlib.sha256(content).hexdigest()}"')
            self.send_header("X-Linked-Size", str(len(content)))
            port = self.connection.getsockname()[1]
            self.send_header("Location", f"http://localhost:{port}/cdn/{match[1]}/{match[3]}")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _send(self, content: bytes, asked_range: str, *, with_body: bool) -> None:
        start = int(re.findall(r"\d+", asked_range)[0]) if asked_range else 0
        self.send_response(206 if start else 200)
        self.send_header("Accept-Ranges", "bytes")
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        if not with_body:
            return
        body = b"x" * len(content) if self.hub.wrong_content else content
        if self.hub.break_after is not None:
            self.wfile.write(body[start : self.hub.break_after])
            self.wfile.flush()
            self.hub.break_after, self.hub.down = None, True
            self._drop()
            return
        self.wfile.write(body[start:])

    def _drop(self) -> None:
        self.close_connection = True
        self.connection.shutdown(socket.SHUT_RDWR)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[SmallHub]:
    """A hub that huggingface_hub talks to instead of the real one."""
    from huggingface_hub import constants

    small_hub = SmallHub()
    handler = type("Handler", (_Handler,), {"hub": small_hub})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    endpoint = small_hub.endpoint = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(constants, "ENDPOINT", endpoint)
    monkeypatch.setattr(
        constants, "HUGGINGFACE_CO_URL_TEMPLATE", endpoint + "/{repo_id}/resolve/{revision}/{filename}"
    )
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    yield small_hub
    server.shutdown()
    server.server_close()


@pytest.fixture
def models(tmp_path: Path) -> Path:
    folder = tmp_path / "models"
    folder.mkdir()
    return folder


@pytest.fixture
def published(hub: SmallHub, lite_release: Path) -> SmallHub:
    """The hub with a lynx_lite on it."""
    for name in ("resampler", "ip_layers"):
        content = (lite_release / f"{name}.safetensors").read_bytes()
        hub.files[f"ByteDance/lynx/lynx_lite/{name}.safetensors"] = content
    return hub
