"""What stops a benchmark; everything else becomes a row of the ledger."""

from __future__ import annotations

from ..spec import LynxError


class EvaluationError(LynxError):
    """Names the thing, the value seen and the way out."""


class ConfigurationError(EvaluationError):
    """The benchmark's TOML, its subjects or its prompts are wrong."""


class LedgerError(EvaluationError):
    """The ledger cannot be read or written."""


class ServerLost(EvaluationError):
    """A ComfyUI server does not answer any more."""


class PromptFailed(EvaluationError):
    """A ComfyUI server refused a workflow, or failed in it; the message is the node's own."""


class GenerationError(EvaluationError):
    """Videos are missing at the end of a run."""


class JudgeError(EvaluationError):
    """The vision judge cannot be used: it is unreachable, refuses the key, or another model answers."""


class AnswersError(EvaluationError):
    """A rater's file cannot be taken."""
