"""A vision model behind an OpenAI-compatible server (vLLM, Ollama, llama.cpp, hosted), asked for captions.

The answer must be a JSON object with the caption; prose, refusals, other models and silence are told apart,
because each has another way out.
"""

from __future__ import annotations

import base64
import json
import re
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..foreign_text import parse_json
from ..spec import LynxError

_RULE = (
    "These are frames of one clip, or one photo. Write one caption of one or two English sentences for training a "
    "video model: the scene, the light, the clothing and what the person does. Call the person 'a man', 'a woman' or 'a "
    "person'. Say nothing of the face, the hair, the skin or the age: these must come from a photo. "
    'Answer with JSON only: {"caption": "..."}'
)
_REFUSAL = re.compile(
    r"\b(?:i'?m sorry|i can(?:no|')t|i am unable|i'?m unable|cannot assist|can't help)\b", re.IGNORECASE
)
_FIRST_WAIT_S = 0.5


class ServerError(LynxError):
    """A caption that did not come."""

    def __init__(self, reason: str, detail: str, retry: bool) -> None:
        super().__init__(reason, detail)
        self.reason, self.detail, self.retry = reason, detail, retry


@dataclass(frozen=True)
class Answer:
    """A caption, and the model that the server says wrote it."""

    text: str
    model: str


@dataclass(frozen=True)
class VisionServer:
    """A server at `url`, as http://localhost:8000/v1."""

    url: str
    model: str
    key: str = ""
    timeout_s: float = 60.0
    attempts: int = 3

    def describe(self, views: Sequence[bytes], avoid: Sequence[str] = ()) -> Answer:
        """Ask for the caption of frames.

        Args:
            views: JPEG files.
            avoid: words of an earlier answer that break the rule.

        Raises:
            ServerError: when no caption comes; `retry` where another run may fare better.
        """
        text = _RULE + (f" Your last caption said {', '.join(avoid)}; leave that out." if avoid else "")
        pictures = [
            {
                "type": "image_url",
                "image_url": {"url": "data:image/jpeg;base64," + base64.b64encode(view).decode()},
            }
            for view in views
        ]
        body = {
            "model": self.model,
            "messages": [{"role": "user", "content": [{"type": "text", "text": text}, *pictures]}],
            "temperature": 0,
            "max_tokens": 200,
            "response_format": {"type": "json_object"},
        }
        fault = ServerError("caption server did not answer", "no attempt was made", True)
        for attempt in range(self.attempts):
            if attempt:
                time.sleep(_FIRST_WAIT_S * 2 ** (attempt - 1))
            try:
                return _read_answer(self._post(body), self.model)
            except ServerError as error:
                fault = error
                if not error.retry:
                    break
        raise fault

    def _post(self, body: dict[str, Any]) -> Any:
        request = urllib.request.Request(
            self.url.rstrip("/") + "/chat/completions",
            json.dumps(body).encode(),
            {"Content-Type": "application/json"}
            | ({"Authorization": f"Bearer {self.key}"} if self.key else {}),
        )
        try:
            with urllib.request.urlopen(request, timeout=self.timeout_s) as response:
                return parse_json(response.read())
        except urllib.error.HTTPError as error:
            detail = f"{self.url}: HTTP {error.code} {error.read()[:200].decode(errors='replace')}"
            busy = error.code in (408, 409, 425, 429) or error.code >= 500
            raise ServerError("caption server refused the request", detail, busy) from error
        except TimeoutError as error:
            detail = f"{self.url} gave no answer within captions.timeout_s = {self.timeout_s}"
            raise ServerError("caption server did not answer", detail, True) from error
        except (OSError, ValueError) as error:
            raise ServerError("caption server did not answer", f"{self.url}: {error}", True) from error


def _read_answer(answer: Any, asked: str) -> Answer:
    try:
        text = str(answer["choices"][0]["message"]["content"] or "")
    except (KeyError, IndexError, TypeError) as error:
        raise ServerError(
            "caption server answered otherwise", f"no message in {str(answer)[:200]}", True
        ) from error
    opening, closing = text.find("{"), text.rfind("}")
    try:
        caption = parse_json(text[opening : closing + 1])["caption"]
        if not isinstance(caption, str) or not caption.strip():
            raise TypeError
    except (ValueError, KeyError, TypeError) as error:
        refused = bool(_REFUSAL.search(text))
        reason = "caption server declined" if refused else "caption server answered in prose"
        raise ServerError(reason, repr(text[:200]), retry=not refused) from error
    return Answer(caption.strip(), str(answer.get("model") or asked))
