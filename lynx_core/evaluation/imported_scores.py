"""Figures that other benchmarks' own programs gave for this one's videos, taken into the ledger.

VBench and OpenS2V-Eval pin old packages, so they run in environments of their own, on the folder `videos` of the
output; the JSON that they write comes back here. A video is told by its file name, which is the hash of its bytes.

    VBench         {"metric": [mean, [{"video_path": path, "video_results": number}, ...]], ...}
    OpenS2V-Eval   {"file name without suffix": number or {"metric": number, ...}, ...}
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..foreign_text import parse_json
from ..hashing import hash_every_byte, hash_values
from .cells import Matrix
from .errors import ConfigurationError
from .ledger import ScoreRow, open_scores, open_videos
from .scored_cell import Wanted

IMPORTED = "imported_"
"""Begins the metrics' names."""
VBENCH, OPENS2V = "VBench", "OpenS2V-Eval"
_FORMATS = "VBench writes {metric: [mean, [{video_path, video_results}]]}, OpenS2V-Eval {file name: figures}"


@dataclass(frozen=True)
class Entry:
    """A figure of a file."""

    program: str
    metric: str
    video: str
    value: Any


def import_scores(matrix: Matrix, files: Sequence[Path], note: Callable[[str], None] = print) -> None:
    """Take the figures of result files into the ledger; later ones replace earlier ones.

    Raises:
        ConfigurationError: when a file is no such result, or names a video that the benchmark does not have.
            Then nothing of any file is taken.
    """
    videos = _list_videos(matrix)
    rows, lines = [], []
    for path in files:
        entries = list(_read_entries(path))
        found = {name: _find(videos, name) for name in {entry.video for entry in entries}}
        unknown = sorted(name for name, digest in found.items() if digest is None)
        if unknown:
            raise ConfigurationError(
                f"{path}: {len(unknown)} of {len(found)} videos are none of {matrix.output}, as "
                f"{unknown[0]!r}; run {entries[0].program} on files that keep their names, those of {matrix.output / 'videos'}"
            )
        detail = {"file": path.name, "sha256": hash_every_byte(path)}
        taken = [_make_row(entry, found[entry.video] or "", detail) for entry in entries]
        rows += taken
        scored = {row.video_sha256 for row in taken}
        failed = sum(row.error is not None for row in taken)
        lines.append(
            f"{path}: {len({row.metric for row in taken})} metrics of {entries[0].program}, {len(scored)} of "
            f"{len(set(videos.values()))} videos" + (f"; {failed} figures are errors" if failed else "")
        )
    open_scores(matrix.output).append(rows)
    for line in lines:
        note(line)


def _make_row(entry: Entry, video_sha256: str, detail: dict[str, str]) -> ScoreRow:
    wanted = Wanted("", f"{IMPORTED}{entry.metric}", "1", entry.program, hash_values([entry.program]))
    value = entry.value
    if isinstance(value, (bool, int, float)) and math.isfinite(value):
        return wanted.fill(video_sha256, float(value), None, detail)
    return wanted.fill(video_sha256, None, f"{entry.program} gave {value!r}", detail)


def _list_videos(matrix: Matrix) -> dict[str, str]:
    """Hash of each video by what a result file may call it: its path, and its name without suffix."""
    found: dict[str, str] = {}
    twice = set()
    for row in open_videos(matrix.output).read():
        if row.video_sha256 is None:
            continue
        found[row.video_sha256] = row.video_sha256
        if row.source is not None:
            source = Path(row.source)
            found[str(source.resolve())] = row.video_sha256
            if found.setdefault(source.stem, row.video_sha256) != row.video_sha256:
                twice.add(source.stem)  # two finished videos of one name: only their paths tell them apart
    return {name: digest for name, digest in found.items() if name not in twice}


def _find(videos: dict[str, str], name: str) -> str | None:
    return videos.get(str(Path(name).resolve())) or videos.get(Path(name).stem)


def _read_entries(path: Path) -> Iterator[Entry]:
    try:
        content = parse_json(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise ConfigurationError(f"{path} is no JSON: {error}") from error
    if not isinstance(content, dict) or not content:
        raise ConfigurationError(f"{path} holds no figures by name; {_FORMATS}")
    for name, value in content.items():
        if isinstance(value, list):
            yield from _read_vbench(path, name, value)
        elif isinstance(value, dict):
            yield from (Entry(OPENS2V, metric, name, figure) for metric, figure in value.items())
        else:
            yield Entry(OPENS2V, path.stem, name, value)


def _read_vbench(path: Path, metric: str, value: list[Any]) -> Iterator[Entry]:
    try:
        _, results = value
        found = [Entry(VBENCH, metric, str(each["video_path"]), each["video_results"]) for each in results]
    except (TypeError, ValueError, KeyError) as error:
        raise ConfigurationError(f"{path}: {metric!r} holds no figures of videos; {_FORMATS}") from error
    if not found:
        raise ConfigurationError(f"{path}: {metric!r} holds the figure of no video")
    yield from found
