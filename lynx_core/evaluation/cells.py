"""The matrix of a benchmark: subjects x prompts x methods, each cell with its seed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from ..hashing import hash_values
from .configuration import Benchmark
from .prompts import Prompt, load_prompts
from .subjects import Subject, load_subjects


@dataclass(frozen=True)
class Matrix:
    """A benchmark with its people and prompts."""

    benchmark: Benchmark

    @cached_property
    def subjects(self) -> dict[str, Subject]:
        """By id, in order."""
        config = self.benchmark
        return {
            subject.id: subject
            for subject in load_subjects(config.subjects, config.split, config.max_subjects)
        }

    @cached_property
    def prompts(self) -> dict[str, Prompt]:
        """By id, in order."""
        return {
            prompt.id: prompt for prompt in load_prompts(self.benchmark.prompts, self.benchmark.max_prompts)
        }

    @cached_property
    def known_subjects(self) -> list[str]:
        """Ids of the whole split, those beyond `max_subjects` too."""
        return [subject.id for subject in load_subjects(self.benchmark.subjects, self.benchmark.split)]

    @cached_property
    def known_prompts(self) -> list[str]:
        """Ids of the whole file."""
        return [prompt.id for prompt in load_prompts(self.benchmark.prompts)]

    @property
    def output(self) -> Path:
        return self.benchmark.output

    @property
    def size(self) -> int:
        """Cells of one method."""
        return len(self.subjects) * len(self.prompts)

    def list_cells(self) -> Iterator[tuple[Subject, Prompt]]:
        for subject in self.subjects.values():
            for prompt in self.prompts.values():
                yield subject, prompt

    def seed_of(self, subject: Subject, prompt: Prompt) -> int:
        """The noise of a cell: one for each cell, and the same for all methods, so that they are paired."""
        return int(hash_values(f"{self.benchmark.seed}/{subject.id}/{prompt.id}")[:8], 16)
