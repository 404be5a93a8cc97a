"""Captions of targets: from a text file beside the media, or from a vision server, and the rule for them.

A caption names scene, clothing and action. What it says of the face is learned from the words instead of from
the photo, so such captions are found by their words and rejected or cut. The words are English; a caption in
another language passes unchecked, and the report says how many did.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from ..engine.stage import EngineError, Rejected, Stage, StageFunction
from .configuration import CaptionsConfig
from .records import Caption, CaptionRequest
from .vision_server import ServerError, VisionServer

CAPTION_VERSION = 1

_FACE_WORDS = (
    r"eyes?", r"eye-?colou?r", r"eyebrows?", r"eyelash(?:es)?", r"nose", r"nostrils?", r"lips?", r"cheeks?",
    r"cheekbones?", r"chin", r"jaw(?:line)?", r"forehead", r"freckles?", r"freckled", r"wrinkles?", r"wrinkled", r"dimples?",
    r"beard(?:ed)?", r"moustache", r"mustache", r"goatee", r"stubble", r"complexion", r"skin(?:ned)?", r"facial features",
    r"\w+-(?:eyed|faced|skinned|haired|nosed|lipped|cheeked)", r"hair", r"hairstyle", r"haircut", r"blonde?", r"brunette",
    r"redhead(?:ed)?", r"bald(?:ing)?", r"handsome", r"beautiful face", r"scars?", r"moles?",
)  # fmt: skip
_ALLOWED = (
    r"close(?:s|d)? (?:her|his|their) eyes",
    r"opens? (?:her|his|their) eyes",
    r"eye contact",
    r"eye level",
)
"""Actions that name a part of the face and say nothing of how it looks."""

_FACE = re.compile(rf"\b(?:{'|'.join(_FACE_WORDS)})\b", re.IGNORECASE)
_ACTIONS = re.compile(rf"\b(?:{'|'.join(_ALLOWED)})\b", re.IGNORECASE)
_SENTENCE = re.compile(r"(?<=[.!?])\s+")


def make_caption_stage(config: CaptionsConfig) -> Stage:
    """The stage: from `CaptionRequest` to `Caption`."""
    settings = {name: value for name, value in asdict(config).items() if name not in _NO_EFFECT}
    return Stage(
        "captions",
        CAPTION_VERSION,
        CaptionRequest,
        Caption,
        settings=settings,
        open_worker=OpenCaptioner(config),
        batch_rows=8,
    )


_NO_EFFECT = ("timeout_s", "attempts", "key_variable")


@dataclass(frozen=True)
class OpenCaptioner:
    """Finds the server's key where the work is done."""

    config: CaptionsConfig

    def __call__(self) -> StageFunction:
        return self.caption

    def caption(self, requests: Sequence[CaptionRequest]) -> list[list[Caption | Rejected]]:
        return [[self.caption_one(request)] for request in requests]

    def caption_one(self, request: CaptionRequest) -> Caption | Rejected:
        """The caption of a target, or why there is none."""
        config = self.config
        text = request.sidecar.strip()
        if config.source != "server" and text:
            return self._apply_rule(request, text, "sidecar")
        if config.source == "sidecar":
            detail = "write a .txt of the same name beside the file, or name a server in captions.url"
            return Rejected("no caption", detail, request.subject)
        key = os.environ.get(config.key_variable, "") if config.key_variable else ""
        if config.key_variable and not key:
            raise EngineError(f"captions.key_variable names {config.key_variable}, which is not set")
        server = VisionServer(config.url, config.model, key, config.timeout_s, config.attempts)
        try:
            answer = server.describe(request.views)
            if find_face_words(answer.text):  # once more, with what was wrong
                answer = server.describe(request.views, find_face_words(answer.text))
        except ServerError as error:
            return Rejected(error.reason, error.detail, request.subject, retry=error.retry)
        return self._apply_rule(request, answer.text, answer.model)

    def _apply_rule(self, request: CaptionRequest, text: str, origin: str) -> Caption | Rejected:
        words = find_face_words(text)
        if words and self.config.on_face == "strip":
            text = strip_face_sentences(text)
            words = []
        if not text:
            return Rejected("caption describes the face only", "nothing is left of it", request.subject)
        if words and self.config.on_face == "reject":
            detail = f"it says {', '.join(words)}: {text[:200]!r}; name scene, clothing and action, or set captions.on_face"
            return Rejected("caption describes the face", detail, request.subject)
        return Caption(request.id, " ".join(text.split()), origin)


def find_face_words(text: str) -> list[str]:
    """What a caption says of the face; empty when it keeps to the rule."""
    found = _FACE.findall(_ACTIONS.sub(" ", text))
    return list(dict.fromkeys(word.lower() for word in found))


def strip_face_sentences(text: str) -> str:
    """The caption without the sentences, or clauses between commas, that describe the face."""
    kept = []
    for sentence in _SENTENCE.split(text):
        clauses = sentence.split(",")
        if not find_face_words(clauses[0]):
            kept.append(",".join(clause for clause in clauses if not find_face_words(clause)))
    joined = " ".join(sentence.strip() for sentence in kept if sentence.strip())
    return joined if not joined or joined[-1] in ".!?" else joined + "."
