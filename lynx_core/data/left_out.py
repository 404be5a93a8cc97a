"""What a data set leaves out, in words: at the start of a run, at its end, and when it is too much."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from .manifest import LOW_SIMILARITY, Manifest, Pair, Rejection, count_kinds, describe_rejections

FILTERED = (LOW_SIMILARITY, "too short")
"""Reasons that the configuration asks for: data.min_face_similarity, decoding.min_frames."""


@dataclass(frozen=True)
class LeftOut:
    """The rows of a manifest that are set aside, at one moment."""

    path: Path
    """Of the manifest."""
    num_rows: int
    rejections: tuple[Rejection, ...]
    warnings: tuple[Rejection, ...]
    """What to know about pairs that are used."""
    quarantine_path: Path | None
    warnings_path: Path | None
    absent_files: int
    """Files that are gone, of pairs that the cache has seen."""

    @property
    def num_faults(self) -> int:
        """Rows that are set aside for a fault, not by a threshold of the configuration."""
        return sum(rejection.reason not in FILTERED for rejection in self.rejections)

    @property
    def share(self) -> float:
        """Of the rows that the thresholds leave, those set aside for a fault, 0 to 1."""
        wanted = self.num_rows - (len(self.rejections) - self.num_faults)
        return self.num_faults / wanted if wanted else 0.0

    def __str__(self) -> str:
        return f"{len(self.rejections)} of {self.num_rows} rows of {self.path} set aside"

    def describe_reasons(self) -> str:
        """Lines of reasons, and where all of them are; empty when nothing is set aside."""
        if not self.rejections:
            return ""
        return describe_rejections(self.rejections) + _where(self.quarantine_path)

    def describe_warnings(self) -> str:
        """Lines of warnings, and where all of them are; empty when there are none."""
        if not self.warnings:
            return ""
        return describe_rejections(self.warnings, "to look at") + _where(self.warnings_path)

    def describe_excess(self, limit: float) -> str:
        """Why a run stops here."""
        return (
            f"{self.num_faults} of {self.num_rows} rows of {self.path} are set aside, {self.share:.0%} of those "
            f"wanted, and data.max_quarantined allows {limit:.0%}; mend the rows, or raise it to go on without them"
        )


def describe_left_out(left_out: LeftOut, manifest: Manifest, pairs: Sequence[Pair]) -> str:
    """What a manifest gives and what not, for the start of a run.

    Args:
        pairs: those with files that can be used; some may be in the quarantine.
    """
    lost = {(rejection.id, rejection.line) for rejection in left_out.rejections}
    usable = [pair for pair in pairs if (pair.id, pair.line) not in lost]
    text = f"{left_out.path}: {left_out.num_rows} rows, {len(usable)} to train on{count_kinds(usable)}, "
    text += f"{len(left_out.rejections)} set aside{left_out.describe_reasons()}{left_out.describe_warnings()}"
    if left_out.absent_files:
        text += f"\n  {left_out.absent_files} files are gone; what the cache has made of them is used"
    return text + manifest.describe_ignored()


def _where(path: Path | None) -> str:
    return f"\n  all of them: {path}" if path else ""
