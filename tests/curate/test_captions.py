"""Captions keep to the rule, and a server that misbehaves costs its caption alone."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from lynx_core.curate.captions import OpenCaptioner, find_face_words, strip_face_sentences
from lynx_core.curate.configuration import CaptionsConfig
from lynx_core.curate.records import Caption, CaptionRequest
from lynx_core.engine.stage import EngineError, Rejected


class Server(ThreadingHTTPServer):
    """Answers with what it is told, in turn; keeps what it was asked."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.answers: list = []
        self.asked: list[dict] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"


class Handler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.asked.append({"path": self.path, "key": self.headers.get("Authorization"), **body})
        answers = self.server.answers
        answer = answers.pop(0) if len(answers) > 1 else answers[0]
        if answer == "silence":
            time.sleep(1.5)
            return
        status, text = answer if isinstance(answer, tuple) else (200, answer)
        content = json.dumps({"model": "seer-2", "choices": [{"message": {"content": text}}]})
        self.send_response(status)
        self.end_headers()
        self.wfile.write(content.encode())

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()


def ask(server: Server, *answers, **changes) -> Caption | Rejected:
    server.answers = list(answers)
    values = {
        "source": "server",
        "url": server.url,
        "model": "seer",
        "timeout_s": 0.5,
        "attempts": 2,
    } | changes
    request = CaptionRequest("t:0-9", "clip.mp4, frames 0-8", "", (b"\xff\xd8one", b"\xff\xd8two"))
    return OpenCaptioner(CaptionsConfig(**values)).caption_one(request)


GOOD = '{"caption": "A man in a red coat walks along a beach."}'


def test_a_caption_comes_with_the_model_that_answered(server, monkeypatch):
    monkeypatch.setenv("MY_KEY", "secret")
    caption = ask(server, GOOD, key_variable="MY_KEY")
    assert (caption.text, caption.origin) == ("A man in a red coat walks along a beach.", "seer-2")
    (asked,) = server.asked
    assert asked["path"] == "/v1/chat/completions" and asked["key"] == "Bearer secret"
    assert sum(part["type"] == "image_url" for part in asked["messages"][0]["content"]) == 2


def test_prose_around_the_answer_does_not_hurt(server):
    assert ask(server, f"Sure! Here it is:\n```json\n{GOOD}\n```").text.startswith("A man")


@pytest.mark.parametrize(
    ("answer", "reason", "retry", "asked"),
    [
        ("A man walks.", "caption server answered in prose", True, 2),
        ("I'm sorry, I can't describe people.", "caption server declined", False, 1),
        ((500, "busy"), "caption server refused the request", True, 2),
        ((401, "no key"), "caption server refused the request", False, 1),
        ("silence", "caption server did not answer", True, 2),
        ('{"caption": ""}', "caption server answered in prose", True, 2),
    ],
)
def test_a_server_that_does_not_caption_is_told_apart(server, answer, reason, retry, asked):
    rejected = ask(server, answer)
    assert (rejected.reason, rejected.retry) == (reason, retry) and rejected.subject
    assert len(server.asked) == asked


def test_a_fault_that_passes_is_asked_again(server):
    assert isinstance(ask(server, (503, ""), GOOD), Caption)


def test_nobody_listens():
    config = CaptionsConfig("server", "http://127.0.0.1:9/v1", "seer", attempts=1)
    assert OpenCaptioner(config).caption_one(CaptionRequest("a", "b", "", ())).retry


def test_a_missing_key_stops_the_run(server):
    with pytest.raises(EngineError, match="LYNX_NO_SUCH_KEY"):
        ask(server, GOOD, key_variable="LYNX_NO_SUCH_KEY")


def test_a_server_that_describes_the_face_is_asked_once_more(server):
    bad = '{"caption": "A blue-eyed man with a beard smiles."}'
    assert ask(server, bad, GOOD).text.startswith("A man in a red coat")
    assert "blue-eyed, beard" in server.asked[1]["messages"][0]["content"][0]["text"]
    rejected = ask(server, bad)
    assert rejected.reason == "caption describes the face" and "beard" in rejected.detail


def caption_sidecar(text: str, **changes) -> Caption | Rejected:
    return OpenCaptioner(CaptionsConfig(**changes)).caption_one(CaptionRequest("t", "photo.png", text, ()))


def test_a_sidecar_keeps_to_the_rule_too():
    assert caption_sidecar("A woman rides a bicycle.\n").text == "A woman rides a bicycle."
    assert caption_sidecar("").reason == "no caption"
    assert caption_sidecar("A woman with green eyes rides.").reason == "caption describes the face"
    kept = caption_sidecar("A woman with green eyes rides.", on_face="keep")
    assert kept.text == "A woman with green eyes rides."
    cut = caption_sidecar(
        "A woman rides a bicycle, her blonde hair loose. Her eyes are green.", on_face="strip"
    )
    assert cut.text == "A woman rides a bicycle."
    assert caption_sidecar("Green eyes.", on_face="strip").reason == "caption describes the face only"


def test_words_of_the_face_are_found_and_actions_are_not():
    assert find_face_words("Long dark hair and a square jawline, dark-skinned") == [
        "hair",
        "jawline",
        "dark-skinned",
    ]
    for harmless in (
        "He closes his eyes and nods.",
        "She wears a hat.",
        "A chair by the window.",
        "Skiing downhill.",
    ):
        assert not find_face_words(harmless), harmless
    assert strip_face_sentences("He sits down, a scar on his cheek, and reads") == "He sits down, and reads."
