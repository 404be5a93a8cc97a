"""The prompts of a benchmark: what happens, where, and how it is filmed; never how the person looks."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal

from pydantic import Field

from ..hashing import hash_values
from .configuration import Name, Section, build, read_toml
from .errors import ConfigurationError


class Prompt(Section):
    """One prompt."""

    id: Name
    text: str = Field(min_length=3, pattern=r"\S")
    level: Literal["unbiased", "hard"] = "unbiased"
    challenge: str = ""
    """What makes a hard one hard, as "small face"."""
    truth: dict[str, str] = Field(default_factory=dict)
    """What a video of it must show, where that can be checked, as {"place": "beach"}."""

    @property
    def sha256(self) -> str:
        return hash_values(self.text)


class _PromptFile(Section):
    prompts: tuple[Prompt, ...] = Field(min_length=1)
    licence: str = ""
    source: str = ""


def load_prompts(path: Path, most: int | None = None) -> list[Prompt]:
    """The prompts of a TOML file with a table [[prompts]] each, in its order.

    Raises:
        ConfigurationError: when the file cannot be read, or two prompts have one id or say the same.
    """
    prompts: tuple[Prompt, ...] = build(_PromptFile, read_toml(path), str(path)).prompts
    ids: set[str] = set()
    said: dict[str, str] = {}
    for prompt in prompts:
        if prompt.id in ids:
            raise ConfigurationError(f"{path}: two prompts have the id {prompt.id!r}")
        ids.add(prompt.id)
        words = " ".join(re.findall(r"\w+", prompt.text.casefold()))
        if words in said:
            raise ConfigurationError(
                f"{path}: the prompts {said[words]!r} and {prompt.id!r} say the same: {prompt.text!r}; delete one"
            )
        said[words] = prompt.id
    return list(prompts[:most])
