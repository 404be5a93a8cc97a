"""A vision model as a judge, behind any OpenAI-compatible server.

What it is shown: frames and the prompt, nothing of the method. What is kept: the raw answer, its tokens, and the
model that really answered. Another model's answer ends the run, for hosted models are replaced without notice, and
a table that two judges have filled compares nothing.
"""

from __future__ import annotations

import base64
import io
import os
import random
import threading
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
from openai import APIConnectionError, APIStatusError, OpenAI
from PIL import Image

from ..hashing import hash_values
from ..spec import first_line
from .configuration import JudgeSettings
from .errors import JudgeError
from .rubric import INSTRUCTION, SCHEMA, AnswerError, hash_rubric, parse_answer
from .video import Video

_LONGEST_WAIT_S = 30.0
_TEXT_TOKENS = len(INSTRUCTION) // 4 + 80
_ANSWER_TOKENS = 60
_PX_PER_TOKEN = 750


@dataclass(frozen=True)
class Answer:
    """What a judge said of one video."""

    marks: dict[str, int] | None
    """By criterion, 0 to 10; None when no answer was by the schema."""
    error: str | None
    raw: tuple[str, ...]
    """Every answer as it came, the refused ones too."""
    model: str
    input_tokens: int
    output_tokens: int


@dataclass(frozen=True)
class Estimate:
    """What judging will take, before the first request."""

    requests: int
    input_tokens: int
    output_tokens: int
    usd: float

    def __str__(self) -> str:
        cost = f", about ${self.usd:,.2f}" if self.usd else "; no prices are configured"
        return f"{self.requests:,} requests, about {self.input_tokens:,} input and {self.output_tokens:,} output tokens{cost}"


class Judge:
    """Asks one model.

    Args:
        settings: where and which.
        first_wait_s: pause after the first refusal; later ones double up to half a minute.
    """

    def __init__(self, settings: JudgeSettings, first_wait_s: float = 1.0) -> None:
        self.settings, self.first_wait_s = settings, first_wait_s
        self._has_answered = False
        self.stop = threading.Event()
        """Set to end all waiting."""
        key = os.environ.get(settings.api_key_variable) or "none"
        self._client = OpenAI(base_url=settings.base_url, api_key=key, max_retries=0, timeout=120)
        self.model = settings.answers_as or settings.model

    @property
    def version(self) -> str:
        """Of all that it is asked: the metric version of its scores."""
        settings = self.settings
        return f"1-{hash_rubric(settings.frames, settings.frame_px, settings.temperature)}"

    @property
    def sha256(self) -> str:
        """Tells the judge in the ledger; a hosted model has no bytes to hash, so it is its name."""
        return hash_values(f"judge:{self.model}")

    def estimate(self, num_requests: int, frame_size: tuple[int, int]) -> Estimate:
        """Tokens and cost of so many requests for videos of (height, width) px."""
        scale = min(1.0, self.settings.frame_px / max(frame_size))
        per_frame = max(1, round(frame_size[0] * frame_size[1] * scale**2 / _PX_PER_TOKEN))
        read = num_requests * (self.settings.frames * per_frame + _TEXT_TOKENS)
        written = num_requests * _ANSWER_TOKENS
        usd = (
            read * self.settings.usd_per_million_input + written * self.settings.usd_per_million_output
        ) / 1e6
        return Estimate(num_requests, read, written, usd)

    def ask(self, video: Video, prompt: str) -> Answer:
        """Have a video judged once.

        Raises:
            JudgeError: when the server cannot be reached, refuses the key or the request, or another model answers.
        """
        raw: list[str] = []
        problem, tokens = "", [0, 0]
        messages = self._write_messages(video, prompt)
        for _ in range(self.settings.attempts):
            response = self._request(messages)
            self._has_answered = True
            self._check_model(response.model)
            if response.usage:
                tokens = [
                    tokens[0] + response.usage.prompt_tokens,
                    tokens[1] + response.usage.completion_tokens,
                ]
            text = response.choices[0].message.content if response.choices else None
            raw.append(text or "")
            try:
                return Answer(parse_answer(text), None, tuple(raw), response.model, *tokens)
            except AnswerError as error:
                problem = str(error)
        return Answer(
            None, f"{len(raw)} answers broke the schema; the last: {problem}", tuple(raw), self.model, *tokens
        )

    def _check_model(self, answered: str) -> None:
        if answered != self.model:
            raise JudgeError(
                f"{self.settings.base_url} was asked for {self.settings.model!r}, and {answered!r} answered; its scores are "
                f"not comparable and were not stored. Pin a model that still answers; if this is its dated name, set "
                f"judge.answers_as = {answered!r}. All videos are then judged by it again"
            )

    def _write_messages(self, video: Video, prompt: str) -> list[dict[str, Any]]:
        content: list[dict[str, Any]] = [{"type": "text", "text": f"The prompt: {prompt}"}]
        for frame in choose_frames(video.frames, self.settings.frames):
            url = encode_frame(frame, self.settings.frame_px)
            content.append({"type": "image_url", "image_url": {"url": url}})
        return [{"role": "system", "content": INSTRUCTION}, {"role": "user", "content": content}]

    def _request(self, messages: list[dict[str, Any]]) -> Any:
        """One answer; 429, 5xx and dead connections are waited out."""
        deadline, wait_s = time.monotonic() + self.settings.patience_s, self.first_wait_s
        while True:
            try:
                return self._client.chat.completions.create(  # type: ignore[call-overload]
                    model=self.settings.model,
                    messages=messages,
                    temperature=self.settings.temperature,
                    response_format={
                        "type": "json_schema",
                        "json_schema": {"name": "marks", "strict": True, "schema": SCHEMA},
                    },
                )
            except APIStatusError as error:
                if error.status_code != 429 and error.status_code < 500:
                    raise JudgeError(
                        f"{self.settings.base_url} refuses: {error.status_code} {first_line(error)}"
                    ) from error
                asked = error.response.headers.get("retry-after", "")
                pause, why = (
                    float(asked) if asked.replace(".", "", 1).isdigit() else wait_s,
                    str(error.status_code),
                )
            except APIConnectionError as error:
                pause, why = wait_s, first_line(error)
                if not self._has_answered:  # nobody is there; a server that was there may come back
                    raise JudgeError(
                        f"no judge answers at {self.settings.base_url} ({why}); start it, or take [judge] out of the file"
                    ) from error
            if time.monotonic() + pause > deadline:
                raise JudgeError(
                    f"{self.settings.base_url} did not answer for {self.settings.patience_s:.0f} s (the last: {why}); what was "
                    f"judged is stored, run the same command later"
                )
            if self.stop.wait(pause * random.uniform(0.8, 1.2)):
                raise JudgeError("the judge was told to stop")
            wait_s = min(wait_s * 2, _LONGEST_WAIT_S)


def choose_frames(frames: np.ndarray, number: int) -> np.ndarray:
    """So many frames evenly from first to last; all when there are fewer."""
    if len(frames) <= number:
        return frames
    return frames[np.linspace(0, len(frames) - 1, number).round().astype(int)]


def encode_frame(frame: np.ndarray, size_px: int) -> str:
    """A frame [H, W, 3] uint8 as a JPEG data URL, its longest side at most `size_px`."""
    picture = Image.fromarray(frame)
    picture.thumbnail((size_px, size_px), Image.Resampling.LANCZOS)
    raw = io.BytesIO()
    picture.save(raw, "JPEG", quality=90)
    return "data:image/jpeg;base64," + base64.b64encode(raw.getvalue()).decode()
