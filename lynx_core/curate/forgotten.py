"""Who was removed from a set, remembered without anything of their face: places in files.

A file that is scanned anew shows them again; a face at such a place is then rejected as forgotten.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..engine.stage import Rejected
from ..foreign_text import parse_json
from .errors import CurationError
from .manifests import FORGOTTEN_NAME
from .records import JudgedTrack, TrackFacts
from .tracking import measure_overlap

_MIN_OVERLAP = 0.3


def describe_place(track: TrackFacts) -> dict[str, Any]:
    """Where a face is seen: file, frames, and the mean box in shares of the frame."""
    looks = track.looks.reshape(-1, 5)
    return {
        "file_hash": track.file_hash,
        "first_frame": int(looks[0, 0]),
        "end_frame": int(looks[-1, 0]) + 1,
        "box": [round(float(edge), 4) for edge in looks[:, 1:].mean(0)],
    }


def read_forgotten(output: Path) -> list[dict[str, Any]]:
    """The places of everyone who was removed.

    Raises:
        CurationError: when the file is damaged: to continue would bring people back.
    """
    path = output / FORGOTTEN_NAME
    if not path.is_file():
        return []
    try:
        places = parse_json(path.read_text(encoding="utf-8"))
        assert all({"file_hash", "first_frame", "end_frame", "box"} <= set(place) for place in places)
    except (OSError, ValueError, AssertionError, TypeError) as error:
        raise CurationError(
            f"{path} is damaged ({error}); it says who was removed from this set. Bring back a copy of it, or start "
            f"in another output folder without their files"
        ) from error
    return places


def drop_forgotten(
    tracks: Sequence[JudgedTrack], places: Sequence[dict[str, Any]]
) -> tuple[list[JudgedTrack], list[Rejected]]:
    """Tracks that are at none of the places, and the others."""
    by_file: dict[str, list[dict[str, Any]]] = {}
    for place in places:
        by_file.setdefault(place["file_hash"], []).append(place)
    kept, gone = [], []
    for track in tracks:
        if any(_is_there(track, place) for place in by_file.get(track.file_hash, [])):
            gone.append(Rejected("forgotten", "comfy-lynx forget removed this person", track.subject))
        else:
            kept.append(track)
    return kept, gone


def _is_there(track: JudgedTrack, place: dict[str, Any]) -> bool:
    own = describe_place(track)
    meets = own["first_frame"] < place["end_frame"] and place["first_frame"] < own["end_frame"]
    return meets and measure_overlap(np.array(own["box"]), np.array(place["box"])) >= _MIN_OVERLAP
