"""What a vision judge is asked, and the only answer that counts.

The rubric's hash is part of each score's version: another wording, another number of frames or another schema are
other scores. Marks are whole numbers from 0 to 10 with anchors, which models give more evenly than shares.
"""

from __future__ import annotations

from typing import Any

from ..foreign_text import parse_json
from ..hashing import hash_values
from .errors import EvaluationError

CRITERIA = {
    "prompt_following": "Does the video show what the prompt asks for: the action, the place, the camera? "
    "0 nothing of it, 5 about half of it, 10 all of it.",
    "aesthetics": "Composition, light and colour as a viewer would like them. 0 ugly, 5 ordinary, 10 as from a good film.",
    "motion_naturalness": "Do people and things move as they would? 0 frozen or broken, 5 odd in places, 10 natural.",
    "video_quality": "Sharpness, artefacts, flicker, anatomy. 0 unwatchable, 5 clear faults, 10 no fault.",
}
MOST = 10
INSTRUCTION = (
    "You are shown frames of one short video in order, and the prompt it was made for. Judge only what is to be seen. "
    "Who the person is, and how they look, does not count. Give each criterion a whole number from 0 to 10:\n"
    + "\n".join(f"- {name}: {text}" for name, text in CRITERIA.items())
    + "\nAnswer with the JSON object alone."
)
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {name: {"type": "integer", "minimum": 0, "maximum": MOST} for name in CRITERIA},
    "required": list(CRITERIA),
    "additionalProperties": False,
}


class AnswerError(EvaluationError):
    """An answer that is not exactly what the schema asks for."""


def hash_rubric(frames: int, frame_px: int, temperature: float) -> str:
    """Of all that decides what a judge is asked, 12 hex digits."""
    return hash_values([INSTRUCTION, SCHEMA, frames, frame_px, temperature])[:12]


def parse_answer(text: str | None) -> dict[str, int]:
    """Read an answer by the schema; nothing is mended, guessed or picked out of prose.

    Raises:
        AnswerError: when it is no JSON, lacks a criterion, has another, or a mark is no whole number from 0 to 10.
    """
    try:
        answer = parse_json(text or "")
    except ValueError as error:
        raise AnswerError(f"no JSON: {(text or 'nothing')[:120]!r}") from error
    if not isinstance(answer, dict) or set(answer) != set(CRITERIA):
        seen = ", ".join(answer) if isinstance(answer, dict) else type(answer).__name__
        raise AnswerError(f"the criteria are {', '.join(CRITERIA)}; got {seen}")
    for name, mark in answer.items():
        if isinstance(mark, bool) or not isinstance(mark, int) or not 0 <= mark <= MOST:
            raise AnswerError(f"{name} is a whole number from 0 to {MOST}, got {mark!r}")
    return answer
