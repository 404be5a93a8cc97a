"""The cosine from which on two faces are one person: read from a calibration, or given."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..foreign_text import parse_json
from .configuration import IdentityConfig
from .errors import CurationError


@dataclass(frozen=True)
class Threshold:
    """A threshold, and where it comes from."""

    value: float
    recogniser: str
    origin: str
    """"given", or the rate at which it was calibrated."""


def resolve_threshold(config: IdentityConfig, recogniser: str) -> Threshold:
    """The threshold of a recogniser.

    Raises:
        CurationError: when there is no calibration of this recogniser.
    """
    if config.threshold is not None:
        return Threshold(config.threshold, recogniser, "given in identity.threshold")
    assert config.calibration is not None
    known = read_calibrations(config.calibration)
    if recogniser not in known:
        seen = ", ".join(known) or "none"
        raise CurationError(
            f"{config.calibration} holds no threshold of the recogniser {recogniser} (it holds: {seen}); "
            f"make one: comfy-lynx calibrate CONFIG --photos FOLDER"
        )
    entry = known[recogniser]
    rate = f"false accepts {entry['false_accept_rate']:g} on {entry['num_different']} pairs of strangers"
    return Threshold(float(entry["threshold"]), recogniser, rate)


def read_calibrations(path: Path) -> dict[str, dict[str, Any]]:
    """Recogniser to its calibration; a missing file holds none.

    Raises:
        CurationError: when the file is damaged.
    """
    if not path.is_file():
        return {}
    try:
        known = parse_json(path.read_text(encoding="utf-8"))
        return {str(name): {**entry, "threshold": float(entry["threshold"])} for name, entry in known.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CurationError(
            f"{path} is no calibration ({error}); make it anew: comfy-lynx calibrate"
        ) from error
