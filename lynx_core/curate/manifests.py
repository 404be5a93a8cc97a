"""What a curation leaves behind: manifests, reference pictures, rejections.

train.parquet, heldout.parquet    pairs, as `prepare` and `train` take them, with columns of their origin
references/<person>/<name>.jpg    the photos of the pairs
targets/<person>/<name>.mp4       targets cut out of footage with several people
rejections.parquet                everything that gave no pair: stage, subject, reason, detail
curation.json                     figures, thresholds, models, licences, weights
page.html                         the same to look at
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..engine.stage import Rejection
from .files import write_table
from .splits import HELDOUT, TRAIN

REJECTIONS_NAME, FIGURES_NAME, PAGE_NAME, PAGE_DATA_NAME = (
    "rejections.parquet", "curation.json", "page.html", "page.json",
)  # fmt: skip
REFERENCES_DIR, TARGETS_DIR, MEDIA_DIR, WORK_DIR, FORGOTTEN_NAME = (
    "references",
    "targets",
    "media",
    "work",
    "forgotten.json",
)


@dataclass(frozen=True)
class PairRow:
    """A row of the manifest. The first eight columns are the trainer's; the others tell where it comes from."""

    id: str
    target: str
    references: tuple[str, ...]
    caption: str
    kind: str
    face_similarity: float
    frame_range: tuple[int, ...] | None
    person: str
    split: str
    raw_kind: str
    weight: float
    """Of its kind, over the share of its kind: rows drawn by it give the kinds in these weights."""
    target_track: str
    caption_origin: str
    recogniser: str
    threshold: float
    augmenter: str | None
    augmenter_licence: str | None
    look_alike: bool
    consent: str
    licence: str


def make_schema(facts: dict[str, Any]) -> Any:
    """The columns of a manifest, with facts about the curation in the file's metadata."""
    import pyarrow

    from ..engine.records import arrow_fields

    fields = arrow_fields(PairRow)
    return pyarrow.schema(fields, {"lynx_curation": json.dumps(facts, ensure_ascii=False)})


def write_manifests(output: Path, rows: Sequence[PairRow], facts: dict[str, Any]) -> None:
    """Write both manifests; one without rows is taken away, since a manifest has some."""
    from ..engine.records import as_row

    for split in (TRAIN, HELDOUT):
        path = output / f"{split}.parquet"
        chosen = [as_row(row) for row in rows if row.split == split]
        if chosen:
            write_table(path, chosen, make_schema(facts))
        else:
            path.unlink(missing_ok=True)


def write_rejections(output: Path, rejections: Iterable[Rejection]) -> Counter[tuple[str, str]]:
    """Write all rejections; gives how many of each (stage, reason)."""
    import pyarrow

    rows = [vars(rejection) for rejection in rejections]
    schema = pyarrow.schema([(name, pyarrow.string()) for name in ("stage", "subject", "reason", "detail")])
    write_table(output / REJECTIONS_NAME, rows, schema)
    return Counter((row["stage"], row["reason"]) for row in rows)


def weigh_kinds(kinds: Counter[str], weights: dict[str, float]) -> dict[str, float]:
    """Weight of a row of each kind, with a mean of 1 over all rows."""
    total = sum(kinds.values())
    wanted = {kind: weights.get(kind, 1.0) for kind in kinds}
    whole = sum(wanted.values()) or 1.0
    return {kind: wanted[kind] / whole * total / count for kind, count in kinds.items()}


def name_folder(person: str) -> str:
    """A folder name for a person whose name may be in any script; different names never share one."""
    plain = re.sub(r"[^A-Za-z0-9]+", "-", person).strip("-")[:24] or "person"
    return f"{plain}-{hashlib.sha256(person.encode()).hexdigest()[:8]}"
