"""The people of a benchmark: photos with consent, licence and source.

A JSONL file, a person a line; paths count from the file's folder:

    {"id": "ada", "photos": ["ada_1.jpg", "ada_2.jpg"], "kind": "licensed", "split": "main",
     "consent": "signed release 2026-01-12, kept by the studio", "licence": "CC-BY-4.0",
     "source": "https://example.org/ada"}

The first photo is the reference that methods see; the others serve as anchors: what the same person scores.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator

from ..foreign_text import parse_json
from ..hashing import hash_every_byte
from .configuration import Name, Section, build
from .errors import ConfigurationError

Text = Field(min_length=3, pattern=r"\S")
NOTHING_SAID = {"none", "unknown", "n/a", "todo", "tbd", "???", "null"}


class Subject(Section):
    """One person."""

    id: Name
    photos: tuple[Path, ...] = Field(min_length=1)
    kind: Literal["celebrity", "generated", "licensed", "drawn"]
    consent: str = Text
    """On what ground the photos may be used for this; "none needed: drawn" for one who does not exist."""
    licence: str = Text
    source: str = Text
    split: str = "main"
    lookalikes: tuple[str, ...] = ()
    """Ids of other subjects who look alike and are other people, as twins."""

    @field_validator("consent", "licence", "source")
    @classmethod
    def _refuse_nothing(cls, value: str) -> str:
        if value.strip().casefold() in NOTHING_SAID:
            raise ValueError(f"says nothing ({value!r}); name the ground, or leave the person out")
        return value

    @property
    def reference(self) -> Path:
        """The photo that methods see."""
        return self.photos[0]

    @cached_property
    def photo_hashes(self) -> tuple[str, ...]:
        """SHA-256 of each photo's bytes."""
        return tuple(hash_every_byte(photo) for photo in self.photos)

    @property
    def reference_hash(self) -> str:
        return self.photo_hashes[0]


def load_subjects(path: Path, split: str, most: int | None = None) -> list[Subject]:
    """The people of one split, in the order of the file.

    Raises:
        ConfigurationError: when the file cannot be read, a photo is missing, or a photo or an id occurs twice.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"the subjects {path} cannot be read: {error}") from error
    subjects = [_parse_line(path, number, line) for number, line in enumerate(lines, 1) if line.strip()]
    _refuse_duplicates(path, subjects)
    chosen = [subject for subject in subjects if subject.split == split][:most]
    if not chosen:
        known = sorted({subject.split for subject in subjects})
        raise ConfigurationError(
            f"{path} has nobody in the split {split!r}; it has: {', '.join(known) or 'none'}"
        )
    return chosen


def _parse_line(path: Path, number: int, line: str) -> Subject:
    try:
        values = parse_json(line)
    except ValueError as error:
        raise ConfigurationError(f"{path}, line {number} is no JSON: {error}") from error
    subject: Subject = build(Subject, values, f"{path}, line {number}")
    photos = tuple(path.parent / photo for photo in subject.photos)
    for photo in photos:
        if not photo.is_file():
            raise ConfigurationError(
                f"{path}, line {number}: subject {subject.id!r}: there is no photo {photo}"
            )
    return subject.model_copy(update={"photos": photos})


def _refuse_duplicates(path: Path, subjects: Sequence[Subject]) -> None:
    """The same id, or the same bytes as a photo of two people or twice of one."""
    owners: dict[str, str] = {}
    ids: set[str] = set()
    for subject in subjects:
        if subject.id in ids:
            raise ConfigurationError(f"{path}: two subjects have the id {subject.id!r}")
        ids.add(subject.id)
        for photo, digest in zip(subject.photos, subject.photo_hashes, strict=True):
            if digest in owners:
                whom = (
                    f"subject {owners[digest]!r}" if owners[digest] != subject.id else "another photo of them"
                )
                raise ConfigurationError(
                    f"{path}: {photo} of subject {subject.id!r} is the same file as {whom}"
                )
            owners[digest] = subject.id
