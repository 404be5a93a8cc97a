"""A threshold for a recogniser, at a stated rate of false accepts, on the user's own labelled photos.

Every pair of photos in different files is compared: of one person, and of two. The threshold is the lowest cosine
at which no more than the stated share of the strangers' pairs pass. What the photos cannot tell is said: with N
pairs of strangers no rate below 1/N is seen, and none below 3/N is sure (95 %, the rule of three).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ..engine.engine import Engine
from ..offline_page import make_histogram
from .configuration import CurationConfig, SourceConfig
from .errors import CurationError
from .files import write_json
from .networks import FaceNetworks
from .quality import find_fault
from .records import SourceFile, TrackFacts
from .scan import make_scan_stage
from .sources import list_sources
from .thresholds import read_calibrations

_STEP = 1e-4


@dataclass(frozen=True)
class Calibration:
    """A threshold and what it rests on."""

    recogniser: str
    threshold: float
    false_accept_rate: float
    """Asked for."""
    seen_false_accept_rate: float
    """Of the pairs of strangers, those at or above the threshold."""
    true_accept_rate: float
    """Of the pairs of one person."""
    num_people: int
    num_photos: int
    num_same: int
    num_different: int
    histogram: dict[str, Any]
    warnings: tuple[str, ...]


def calibrate(
    config: CurationConfig,
    photos: Path,
    false_accept_rate: float,
    on_progress: Callable[[str, int, int], None] | None = None,
) -> Calibration:
    """Measure photos that lie in one folder a person.

    Args:
        config: its networks and bounds of quality are used, and its output's work folder.

    Raises:
        CurationError: when the photos tell nothing: fewer than two people, or no one with two photos.
    """
    if not 0 < false_accept_rate < 1:
        raise CurationError(f"--false-accept-rate lies between 0 and 1, got {false_accept_rate}")
    networks = FaceNetworks(config.faces)
    engine = Engine(config.output / "work", config.runner, config.workers, on_progress)
    files, _ = list_sources([SourceConfig(photos, "folder")])
    if not files:
        raise CurationError(f"{photos} holds no photos in folders of people")
    scanned = engine.run(make_scan_stage(config), engine.put("files", files, SourceFile))
    best: dict[str, tuple[str, np.ndarray, float]] = {}
    for track in scanned.records(TrackFacts):
        for sample in track.samples:
            largest = best.get(track.path, ("", sample.embedding, 0.0))[2]
            if find_fault(sample, config.quality) is None and sample.face_px > largest:
                best[track.path] = (track.folder_name, sample.embedding, sample.face_px)
    names = np.array([name for name, _, _ in best.values()])
    vectors = np.stack([vector for _, vector, _ in best.values()]) if best else np.zeros((0, 1))
    return measure(networks.recogniser.name, names, vectors, false_accept_rate)


def measure(recogniser: str, names: np.ndarray, vectors: np.ndarray, false_accept_rate: float) -> Calibration:
    """The calibration of unit vectors [n, dim] with the names of their people [n].

    Raises:
        CurationError: when there are no pairs of one kind.
    """
    one, other = np.triu_indices(len(names), 1)
    cosines = np.einsum("nd,nd->n", vectors[one], vectors[other]).astype(np.float64)
    is_same = names[one] == names[other]
    same, different = cosines[is_same], np.sort(cosines[~is_same])[::-1]
    if not len(same) or not len(different):
        people = len(set(names.tolist()))
        raise CurationError(
            f"{len(names)} usable photos of {people} people give {len(same)} pairs of one person and {len(different)} of "
            f"two; calibrating takes two people or more, and two photos or more of some, in one folder a person"
        )
    allowed = int(false_accept_rate * len(different))
    threshold = min(float(different[allowed]) + _STEP, 1.0)
    seen = float((different >= threshold).mean())
    warnings = []
    if allowed < 1:
        warnings.append(
            f"{len(different)} pairs of strangers cannot show a rate of {false_accept_rate:g}: the threshold lies just above "
            f"all of them, and the true rate may be up to {min(3 / len(different), 1):.2g}"
        )
    accepted = float((same >= threshold).mean())
    if accepted < 0.8:
        warnings.append(
            f"only {accepted:.0%} of the pairs of one person pass; look for wrong labels, or use a better recogniser"
        )
    histogram = make_histogram(
        f"Pairs of labelled photos, {recogniser}",
        {"one person": same.tolist(), "two people": different.tolist()},
        {"threshold": threshold},
    )
    return Calibration(
        recogniser, round(threshold, 6), false_accept_rate, seen, accepted, len(set(names.tolist())), len(names),
        len(same), len(different), histogram, tuple(warnings),
    )  # fmt: skip


def keep_calibration(path: Path, calibration: Calibration) -> None:
    """Put a calibration into a file beside those of other recognisers."""
    known = read_calibrations(path)
    known[calibration.recogniser] = asdict(replace(calibration))
    write_json(path, known)


def write_calibration_page(path: Path, calibration: Calibration) -> None:
    """Draw the two histograms as an HTML file."""
    from ..durable_file import write_durably
    from .page import render_calibration

    write_durably(path, render_calibration(asdict(calibration)).encode("utf-8"))
