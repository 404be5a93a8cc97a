"""A video with what it should show, and the rows of scores that it should have."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from .ledger import Key, ScoreRow, VideoRow
from .prompts import Prompt
from .subjects import Subject

TEXT_ALIGNMENT, AESTHETIC_SCORE = "text_alignment", "aesthetic_score"
"""Metrics of CLIP; the first compares with the prompt."""


@dataclass(frozen=True)
class Cell:
    """A video with what it should show."""

    row: VideoRow
    subject: Subject
    prompt: Prompt

    @property
    def sha256(self) -> str:
        assert self.row.video_sha256 is not None
        return self.row.video_sha256

    @property
    def label(self) -> str:
        return f"{self.row.method} / {self.row.subject} / {self.row.prompt}"


@dataclass(frozen=True)
class Wanted:
    """A row that the ledger should have; all but the figure."""

    target_sha256: str
    metric: str
    metric_version: str
    model: str
    model_sha256: str
    repeat: int = 0

    def key(self, video_sha256: str) -> Key:
        return (
            video_sha256,
            self.target_sha256,
            self.metric,
            self.metric_version,
            self.model_sha256,
            self.repeat,
        )

    def fill(self, video_sha256: str, value: float | None, error: str | None, detail: Any = None) -> ScoreRow:
        return ScoreRow(
            video_sha256, self.target_sha256, self.metric, self.metric_version, self.model, self.model_sha256,
            self.repeat, value, error, json.dumps(detail if detail is not None else {}),
        )  # fmt: skip
