"""One curation from start to end: the stages, then the files that are left behind."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..durable_file import write_durably
from ..engine.records import hash_texts
from ..faces.crops import crop_for_reference
from .buckets import publish
from .configuration import CurationConfig
from .errors import CurationError
from .files import write_json
from .manifests import (
    FIGURES_NAME,
    REFERENCES_DIR,
    TARGETS_DIR,
    PairRow,
    name_folder,
    weigh_kinds,
    write_manifests,
    write_rejections,
)
from .media import read_jpeg
from .page import write_page
from .page_data import collect_page
from .pipeline import CurationState, Progress, run_stages, target_id
from .records import Candidate, Variant
from .splits import split_people


@dataclass(frozen=True)
class CurationReport:
    """What came of it."""

    output: Path
    num_files: int
    num_people: int
    kinds: Counter[str]
    splits: Counter[str]
    reasons: Counter[tuple[str, str]]
    threshold: str
    num_reused: int

    def __str__(self) -> str:
        kinds = ", ".join(f"{count} {kind}" for kind, count in self.kinds.most_common()) or "none"
        splits = ", ".join(f"{count} in {split}" for split, count in sorted(self.splits.items()))
        lines = [
            f"{self.num_files} files, {self.num_people} people, {sum(self.kinds.values())} pairs ({kinds}; {splits}) in {self.output}",
            f"one person from a cosine of {self.threshold}",
        ]
        lines += [f"  {count} {stage}: {reason}" for (stage, reason), count in self.reasons.most_common()]
        return "\n".join(lines)


def curate(config: CurationConfig, on_progress: Progress | None = None) -> CurationReport:
    """Make the manifests of a configuration, or bring them up to date.

    Raises:
        CurationError: when no pair is left, with the reasons; all of them are in rejections.parquet then.
        EngineError: when a stage cannot go on.
    """
    with hold_output(config.output):
        state = run_stages(config, on_progress)
        reasons = write_rejections(config.output, state.rejections)
        paired = {pair.person for pair in state.candidates}
        members = (member for member in state.memberships.values() if member.person in paired)
        places = ((state.tracks[member.track].path, member.person) for member in members)
        splits = split_people(places, config.splits)
        rows = _write_pairs(state, splits, on_progress)
        facts = _collect_facts(state, rows)
        write_manifests(config.output, rows, facts)
        write_json(config.output / FIGURES_NAME, facts | {"rejections": _list_reasons(reasons)})
        write_page(config.output, collect_page(state, rows, facts, reasons))
        report = CurationReport(
            output=config.output,
            num_files=state.num_files,
            num_people=len({member.person for member in state.memberships.values()}),
            kinds=Counter(row.kind for row in rows),
            splits=Counter(row.split for row in rows),
            reasons=reasons,
            threshold=f"{state.threshold.value:.3f} ({state.threshold.origin}) of {state.threshold.recogniser}",
            num_reused=sum(stage.num_reused for stage in state.stages),
        )
        if not rows:
            raise CurationError(f"no pair is left:\n{report}")
        if config.publish:
            publish(config.output, config.publish, on_progress or (lambda *count: None))
        return report


@contextmanager
def hold_output(output: Path) -> Iterator[None]:
    """Keep the output folder to one process.

    Raises:
        CurationError: when another one has it.
    """
    from filelock import FileLock, Timeout

    output.mkdir(parents=True, exist_ok=True)
    lock = FileLock(output / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise CurationError(
            f"another process works in {output}; wait for it, or choose another output"
        ) from error
    try:
        yield
    finally:
        lock.release()


def _write_pairs(state: CurationState, splits: dict[str, str], on_progress: Progress | None) -> list[PairRow]:
    kinds = Counter(pair.kind for pair in state.candidates)
    weights = weigh_kinds(kinds, state.config.kind_weights)
    rows = []
    for number, pair in enumerate(state.candidates, start=1):
        rows.append(_make_row(state, pair, splits[pair.person], weights[pair.kind]))
        if on_progress is not None:
            on_progress("manifests", number, len(state.candidates))
    _remove_strays(state.config.output, rows)
    return rows


def _make_row(state: CurationState, pair: Candidate, split: str, weight: float) -> PairRow:
    track, caption = state.tracks[pair.track], state.captions[target_id(pair)]
    variant = state.variants.get(pair.id)
    target = _write_target(state, pair) if pair.crop else pair.target
    return PairRow(
        id=pair.id,
        target=target,
        references=tuple(_write_references(state, pair, variant)),
        caption=caption.text,
        kind=pair.kind,
        face_similarity=round(variant.similarity if variant else pair.similarity, 6),
        frame_range=(pair.first_frame, pair.end_frame) if pair.end_frame and not pair.crop else None,
        person=pair.person,
        split=split,
        raw_kind=pair.raw_kind,
        weight=weight,
        target_track=pair.track,
        caption_origin=caption.origin,
        recogniser=state.threshold.recogniser,
        threshold=state.threshold.value,
        augmenter=variant.augmenter if variant else None,
        augmenter_licence=variant.licence if variant else None,
        look_alike=state.memberships[pair.track].look_alike,
        consent=track.consent,
        licence=track.licence,
    )


def _write_target(state: CurationState, pair: Candidate) -> str:
    """Write the target of a pair that was cut out, if it is not there yet; gives its path relative to the output."""
    name = hash_texts([target_id(pair), str(pair.crop)])[:16]
    suffix = ".mp4" if pair.end_frame else ".png"
    path = Path(TARGETS_DIR) / name_folder(pair.person) / f"{name}{suffix}"
    if not (state.config.output / path).is_file():
        write_durably(state.config.output / path, state.read_crop(target_id(pair)).content)
    return path.as_posix()


def _write_references(state: CurationState, pair: Candidate, variant: Variant | None) -> Iterator[str]:
    """Write the pictures of a pair that are not there yet; gives their paths relative to the output."""
    folder = Path(REFERENCES_DIR) / name_folder(pair.person)
    for ref in pair.references:
        name = pair.id if variant else f"{ref.track}-{ref.sample}"
        is_aligned = state.config.references.form == "aligned"
        path = folder / f"{name}{'-aligned.png' if is_aligned else '.jpg'}"
        if variant or not (state.config.output / path).is_file():
            if variant:
                picture, landmarks = variant.picture, variant.landmarks
            else:
                picture = state.read_pictures(ref.track).pictures[ref.sample]
                landmarks = state.tracks[ref.track].samples[ref.sample].landmarks
            raw = _align(picture, landmarks) if is_aligned else picture
            write_durably(state.config.output / path, raw)
        yield path.as_posix()


def _align(picture: bytes, landmarks: np.ndarray) -> bytes:
    """The 256 px reference crop, as PNG."""
    import io

    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(crop_for_reference(read_jpeg(picture), landmarks.reshape(5, 2))).save(buffer, "PNG")
    return buffer.getvalue()


def _remove_strays(output: Path, rows: list[PairRow]) -> None:
    """References and cut targets of an earlier run that no pair has any more."""
    used = {path for row in rows for path in (*row.references, row.target)}
    for name in (REFERENCES_DIR, TARGETS_DIR):
        for path in (output / name).rglob("*"):
            if path.is_file() and path.relative_to(output).as_posix() not in used:
                path.unlink()


def _collect_facts(state: CurationState, rows: list[PairRow]) -> dict[str, Any]:
    kinds, raw = Counter(row.kind for row in rows), Counter(row.raw_kind for row in rows)
    total = max(len(rows), 1)
    augmenters = {row.augmenter: row.augmenter_licence for row in rows if row.augmenter}
    return {
        "recogniser": state.threshold.recogniser,
        "threshold": state.threshold.value,
        "threshold_origin": state.threshold.origin,
        "too_alike": state.config.identity.too_alike,
        "licences": state.licences | {f"augmenter {name}": licence for name, licence in augmenters.items()},
        "kinds": {
            kind: {"pairs": count, "share": count / total, "weight": state.config.kind_weights.get(kind, 1.0)}
            for kind, count in kinds.items()
        },
        "raw_kinds": {kind: {"pairs": count, "share": count / total} for kind, count in raw.items()},
        "sources": _count_sources(rows),
    }


def _count_sources(rows: list[PairRow]) -> list[dict[str, Any]]:
    found = Counter((row.licence, row.consent) for row in rows)
    return [
        {"licence": licence, "consent": consent, "pairs": count}
        for (licence, consent), count in found.most_common()
    ]


def _list_reasons(reasons: Counter[tuple[str, str]]) -> list[dict[str, Any]]:
    return [
        {"stage": stage, "reason": reason, "count": count} for (stage, reason), count in reasons.most_common()
    ]
