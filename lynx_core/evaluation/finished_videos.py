"""Videos that other programs made, taken in by a list that says what each is.

The list is JSONL; ids are never guessed from file names:

    {"subject": "ada", "prompt": "beach", "video": "magref/0001.mp4", "latency_s": 212.0, "peak_memory_gb": 41.3}
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable
from pathlib import Path

from pydantic import Field

from ..foreign_text import parse_json
from ..hashing import hash_every_byte, hash_values
from .cells import Matrix
from .configuration import Method, Section, build
from .errors import ConfigurationError
from .ledger import Ledger, VideoRow
from .video import VideoError, count_frames


class FinishedVideo(Section):
    """A line of the list."""

    subject: str
    prompt: str
    video: Path
    seed: int | None = None
    latency_s: float | None = Field(default=None, ge=0)
    peak_memory_gb: float | None = Field(default=None, ge=0)


def collect_finished(matrix: Matrix, videos: Ledger[VideoRow], note: Callable[[str], None]) -> None:
    """Take in the finished videos of all methods that have a list.

    Raises:
        ConfigurationError: when a list is wrong.
    """
    known = {(row.method, row.subject, row.prompt): row for row in videos.read()}
    for method in matrix.benchmark.methods:
        if method.videos is None:
            continue
        entries = read_list(method, matrix)
        for entry in entries:
            row = _make_row(matrix, method, entry)
            before = known.get((row.method, row.subject, row.prompt))
            if before is None or (before.recipe, before.error) != (row.recipe, row.error):
                videos.append([row])
                if row.error:
                    note(f"{method.name} / {row.subject} / {row.prompt}: {row.error}")
        missing = matrix.size - len(entries)
        note(
            f"{method.name}: {len(entries)} finished videos"
            + (f", {missing} cells have none" if missing else "")
        )


def read_list(method: Method, matrix: Matrix) -> list[FinishedVideo]:
    """The lines of a method's list that belong to the matrix.

    Raises:
        ConfigurationError: when a line is wrong, names an unknown person or prompt, or a cell or file comes twice.
    """
    path = method.videos
    assert path is not None
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(
            f"method {method.name!r}: the list {path} cannot be read: {error}"
        ) from error
    entries: dict[tuple[str, str], FinishedVideo] = {}
    files: dict[Path, int] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        try:
            values = parse_json(line)
        except ValueError as error:
            raise ConfigurationError(f"{where} is no JSON: {error}") from error
        entry: FinishedVideo = build(FinishedVideo, values, where)
        _check_id(where, "subject", entry.subject, matrix.known_subjects)
        _check_id(where, "prompt", entry.prompt, matrix.known_prompts)
        file = path.parent / entry.video
        if (entry.subject, entry.prompt) in entries:
            raise ConfigurationError(f"{where}: a second video of {entry.subject!r} and {entry.prompt!r}")
        if file in files:
            raise ConfigurationError(f"{where}: {file} is already the video of line {files[file]}")
        files[file] = number
        entries[entry.subject, entry.prompt] = entry.model_copy(update={"video": file})
    return [
        entry
        for entry in entries.values()
        if entry.subject in matrix.subjects and entry.prompt in matrix.prompts
    ]


def _check_id(where: str, what: str, value: str, known: Iterable[str]) -> None:
    known = list(known)
    if value not in known:
        near = difflib.get_close_matches(value, known, n=1, cutoff=0.0)
        raise ConfigurationError(
            f"{where}: there is no {what} {value!r} in this benchmark; did you mean {near[0]!r}?"
        )


def _make_row(matrix: Matrix, method: Method, entry: FinishedVideo) -> VideoRow:
    subject, prompt = matrix.subjects[entry.subject], matrix.prompts[entry.prompt]
    digest, error = None, None
    try:
        count_frames(entry.video)
        digest = hash_every_byte(entry.video)
    except (VideoError, OSError) as failure:
        error = str(failure)
    return VideoRow(
        method=method.name,
        subject=subject.id,
        prompt=prompt.id,
        recipe=hash_values(["finished", digest, subject.reference_hash, prompt.sha256]),
        seed=entry.seed,
        video_sha256=digest,
        suffix=entry.video.suffix,
        error=error,
        photo_sha256=subject.reference_hash,
        prompt_sha256=prompt.sha256,
        workflow_sha256=None,
        model_files="{}",
        attempts=1,
        server=None,
        latency_s=entry.latency_s,
        peak_memory_gb=entry.peak_memory_gb,
        memory_source="as the list says" if entry.peak_memory_gb is not None else None,
        parameters=method.parameters,
        source=str(entry.video.absolute()) if digest else None,
    )
