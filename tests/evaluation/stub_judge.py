"""A vision server on this machine that answers as told: well, badly, or not at all."""

from __future__ import annotations

import base64
import io
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
from PIL import Image

CRITERIA = ("prompt_following", "aesthetics", "motion_naturalness", "video_quality")


def give_marks(prompt: str, frames: list[np.ndarray]) -> str:
    return json.dumps(dict.fromkeys(CRITERIA, 7))


@dataclass
class StubJudge:
    """What the server does and has seen."""

    answer: Callable[[str, list[np.ndarray]], str] = give_marks
    """Content of the answer, from the prompt and the frames [H, W, 3]."""
    model: str = "stub-1"
    """Name that it answers with."""
    failures: list[int] = field(default_factory=list)
    """Status codes to answer with first, one a request."""
    requests: list[dict[str, Any]] = field(default_factory=list)
    url: str = ""
    _lock: Any = field(default_factory=threading.Lock)

    def handle(self, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        with self._lock:
            self.requests.append(body)
            if self.failures:
                return self.failures.pop(0), {"error": {"message": "not now"}}
        content = body["messages"][-1]["content"]
        prompt = next(part["text"] for part in content if part["type"] == "text").removeprefix("The prompt: ")
        frames = [_decode(part["image_url"]["url"]) for part in content if part["type"] == "image_url"]
        return 200, {
            "id": "1",
            "object": "chat.completion",
            "created": 0,
            "model": self.model,
            "choices": [
                {
                    "index": 0,
                    "finish_reason": "stop",
                    "message": {"role": "assistant", "content": self.answer(prompt, frames)},
                }
            ],
            "usage": {"prompt_tokens": 100, "completion_tokens": 20, "total_tokens": 120},
        }


def _decode(url: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))).convert("RGB"))


class _Handler(BaseHTTPRequestHandler):
    stub: StubJudge

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        status, answer = self.stub.handle(body)
        raw = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(raw)))
        self.end_headers()
        self.wfile.write(raw)

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def serve(stub: StubJudge) -> Iterator[StubJudge]:
    """Run a stub; its `url` is that of the API."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"stub": stub}))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    stub.url = f"http://127.0.0.1:{server.server_port}/v1"
    try:
        yield stub
    finally:
        server.shutdown()
        server.server_close()
