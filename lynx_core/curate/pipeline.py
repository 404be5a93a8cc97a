"""All stages in their order, from folders to manifests.

    files -> scan -> quality -> people -> pairs -> captions, variants, crops -> manifests, page

`scan` alone looks at all pixels. `quality` judges tracks one by one, `people` and `pairs` need all of them. Each stage
is done once for each input and setting; a rerun does what is left.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..engine.engine import Engine, StageResult
from ..engine.parts import RecordReader
from ..engine.parts_index import RowRef
from ..engine.stage import Rejection
from .buckets import fetch_sources
from .captions import make_caption_stage
from .configuration import CurationConfig
from .manifests import WORK_DIR
from .media import read_jpeg, write_jpeg
from .networks import FaceNetworks
from .pairing import make_pairing_stage
from .people import make_people_stage
from .quality import make_judge_stage
from .records import (
    Candidate,
    Caption,
    CaptionRequest,
    CroppedTarget,
    CropRequest,
    JudgedTrack,
    Membership,
    SourceFile,
    TrackId,
    TrackPictures,
    Variant,
    VariantRequest,
)
from .safety import make_safety_stage
from .scan import make_scan_stage
from .sources import list_sources
from .target_crops import cut_view, make_crop_stage
from .thresholds import Threshold, resolve_threshold
from .variants import make_variant_stage

Progress = Callable[[str, int, int], None]


@dataclass
class CurationState:
    """What the stages have found."""

    config: CurationConfig
    threshold: Threshold
    licences: dict[str, str]
    rejections: list[Rejection]
    num_files: int
    stages: list[StageResult] = field(default_factory=list)
    tracks: dict[str, JudgedTrack] = field(default_factory=dict)
    memberships: dict[str, Membership] = field(default_factory=dict)
    candidates: list[Candidate] = field(default_factory=list)
    captions: dict[str, Caption] = field(default_factory=dict)
    variants: dict[str, Variant] = field(default_factory=dict)
    crops: dict[str, RowRef] = field(default_factory=dict)
    """By target."""
    pictures: dict[str, RowRef] = field(default_factory=dict)

    def read_pictures(self, track: str) -> TrackPictures:
        """The pictures of a track, from disk."""
        return self._reader.read(self.pictures[track])

    def read_crop(self, target: str) -> CroppedTarget:
        """A target that was cut out, from disk."""
        return self._crop_reader.read(self.crops[target])

    def __post_init__(self) -> None:
        self._reader, self._crop_reader = RecordReader(TrackPictures), RecordReader(CroppedTarget)


def run_stages(config: CurationConfig, on_progress: Progress | None = None) -> CurationState:
    """Run every stage, or what is left of it.

    Raises:
        CurationError: when the configuration names what is not there, or nothing is left to pair.
        EngineError: when a stage cannot go on.
    """
    networks = FaceNetworks(config.faces)
    threshold = resolve_threshold(config.identity, networks.recogniser.name)
    engine = Engine(config.output / WORK_DIR, config.runner, config.workers, on_progress)
    sources, odd = fetch_sources(config, engine.on_progress)
    files, rejected = list_sources(sources)
    rejected += odd
    state = CurationState(
        config, threshold, dict(networks.licences), list(rejected), len(files) + len(rejected)
    )
    scanned = _run(engine, state, make_scan_stage(config), engine.put("files", files, SourceFile))
    state.pictures = {
        record.id: ref for ref, record in zip(scanned.refs(), scanned.records(TrackId), strict=True)
    }
    judged = _run(engine, state, make_judge_stage(config.quality, threshold.value), scanned)
    state.tracks = {track.id: track for track in judged.records(JudgedTrack)}
    unsafe = _find_unsafe(engine, state, scanned)
    stage = make_people_stage(config.identity, threshold.value, config.output, unsafe)
    people = engine.run_table(stage, judged)
    _note(state, people)
    state.memberships = {member.track: member for member in people.records(Membership)}
    stage = make_pairing_stage(config, threshold.value, list(state.memberships.values()))
    paired = engine.run_table(stage, judged, people)
    _note(state, paired)
    state.candidates = list(paired.records(Candidate))
    _caption(engine, state)
    _augment(engine, state)
    _crop(engine, state)
    return state


def _run(engine: Engine, state: CurationState, stage: Any, inputs: StageResult) -> StageResult:
    result = engine.run(stage, inputs)
    _note(state, result)
    return result


def _note(state: CurationState, result: StageResult) -> None:
    state.stages.append(result)
    # Nothing to work on is said by the stage before.
    state.rejections += [item for item in result.rejections() if item.reason != "no records"]


def _find_unsafe(engine: Engine, state: CurationState, scanned: StageResult) -> frozenset[str]:
    """Tracks that the classifier leaves out, if there is one."""
    if state.config.safety.classifier is None:
        return frozenset()
    checked = _run(engine, state, make_safety_stage(state.config.safety, state.config.gpus), scanned)
    safe = {track.id for track in checked.records(TrackId)}
    return frozenset(track.id for track in scanned.records(TrackId) if track.id not in safe)


def target_id(candidate: Candidate) -> str:
    """One name for all pairs of a target."""
    return f"{candidate.track}:{candidate.first_frame}-{candidate.end_frame}"


def _describe(candidate: Candidate) -> str:
    place = f", frames {candidate.first_frame}-{candidate.end_frame - 1}" if candidate.end_frame else ""
    return f"{candidate.target}{place}"


def _caption(engine: Engine, state: CurationState) -> None:
    """Captions of the targets that have a pair; targets without one lose their pairs."""
    asks = state.config.captions.source != "sidecar"
    requests = {}
    for candidate in state.candidates:
        name = target_id(candidate)
        if name not in requests:
            sidecar = state.tracks[candidate.track].sidecar
            needs = asks and (state.config.captions.source == "server" or not sidecar)
            views = _choose_views(state, candidate) if needs else ()
            requests[name] = CaptionRequest(name, _describe(candidate), sidecar, views)
    inputs = engine.put("captions", requests.values(), CaptionRequest)
    result = _run(engine, state, make_caption_stage(state.config.captions), inputs)
    state.captions = {caption.id: caption for caption in result.records(Caption)}
    state.candidates = [pair for pair in state.candidates if target_id(pair) in state.captions]


def _choose_views(state: CurationState, candidate: Candidate) -> tuple[bytes, ...]:
    """Frames of the target's window, or the nearest one."""
    pictures = state.read_pictures(candidate.track)
    inside = [
        view
        for frame, view in zip(pictures.view_frames, pictures.views, strict=True)
        if not candidate.end_frame or candidate.first_frame <= frame < candidate.end_frame
    ]
    views = tuple(inside) or pictures.views[:1]
    if not candidate.crop:
        return views
    width_px = state.tracks[candidate.track].width_px
    return tuple(write_jpeg(cut_view(read_jpeg(view), candidate.crop, width_px), 85) for view in views)


def _augment(engine: Engine, state: CurationState) -> None:
    """Variants of references; a pair whose variant was rejected is left out."""
    wanted = [pair for pair in state.candidates if pair.kind == "augmented"]
    if not wanted:
        return
    requests = []
    for pair in wanted:
        ref = pair.references[0]
        sample = state.tracks[ref.track].samples[ref.sample]
        picture = state.read_pictures(ref.track).pictures[ref.sample]
        requests.append(VariantRequest(pair.id, _describe(pair), picture, sample.landmarks, sample.embedding))
    inputs = engine.put("variants", requests, VariantRequest)
    result = _run(engine, state, make_variant_stage(state.config, state.threshold.value), inputs)
    state.variants = {variant.pair: variant for variant in result.records(Variant)}
    state.candidates = [
        pair for pair in state.candidates if pair.kind != "augmented" or pair.id in state.variants
    ]


def _crop(engine: Engine, state: CurationState) -> None:
    """Targets cut out of footage with several people; a pair whose crop was rejected is left out."""
    wanted = {target_id(pair): pair for pair in state.candidates if pair.crop}
    if not wanted:
        return
    requests = [
        CropRequest(
            name, _describe(pair), pair.target, pair.first_frame, pair.end_frame, state.tracks[pair.track].fps, pair.crop
        )
        for name, pair in wanted.items()
    ]  # fmt: skip
    inputs = engine.put("crops", requests, CropRequest)
    result = _run(engine, state, make_crop_stage(state.config), inputs)
    names = (record.id for record in result.records(TrackId))
    state.crops = dict(zip(names, result.refs(), strict=True))
    state.candidates = [pair for pair in state.candidates if not pair.crop or target_id(pair) in state.crops]


@dataclass(frozen=True)
class Estimate:
    """What a run would do."""

    num_photos: int
    num_clips: int
    num_bytes: int
    num_left: int
    """Files that no earlier run has looked at."""
    rejections: tuple[Rejection, ...]
    seconds: float | None
    """Of the scan, from the rate of earlier runs; None when there was none."""


def estimate_run(config: CurationConfig, measure: bool = True) -> Estimate:
    """Count the files, and say how long the scan will take, by looking at a few of those left.

    Args:
        measure: scan up to three files for the rate; their results are kept.
    """
    from time import monotonic

    from .media import CLIP_SUFFIXES

    sources, odd = fetch_sources(config, lambda *count: None)  # a rate needs files to look at
    files, rejected = list_sources(sources)
    rejected += odd
    resolve_threshold(config.identity, FaceNetworks(config.faces).recogniser.name)
    engine = Engine(config.output / WORK_DIR)
    stage = make_scan_stage(config)
    inputs = engine.put("files", files, SourceFile)
    num_left = sum(1 for _ in engine.find_left(stage, inputs))
    seconds = 0.0 if not num_left else None
    if num_left and measure:
        reader = RecordReader(SourceFile)
        left = [reader.read(ref) for ref in engine.find_left(stage, inputs)]
        few = sorted(left, key=lambda file: file.size_bytes)[len(left) // 2 :][:3]
        started = monotonic()
        engine.run(stage, engine.put("files", few, SourceFile))
        per_byte = (monotonic() - started) / max(sum(file.size_bytes for file in few), 1)
        rest = sum(file.size_bytes for file in left) - sum(file.size_bytes for file in few)
        seconds, num_left = per_byte * rest / config.workers, num_left - len(few)
    is_clip = [file.path.lower().endswith(CLIP_SUFFIXES) for file in files]
    return Estimate(
        num_photos=len(files) - sum(is_clip),
        num_clips=sum(is_clip),
        num_bytes=sum(file.size_bytes for file in files),
        num_left=num_left,
        rejections=tuple(rejected),
        seconds=seconds,
    )


def count_reasons(rejections: Sequence[Rejection]) -> Counter[tuple[str, str]]:
    """How often each (stage, reason) came."""
    return Counter((rejection.stage, rejection.reason) for rejection in rejections)
