"""Which looks at a face are good enough, and which tracks are left with none."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields

import numpy as np

from ..engine.stage import Rejected, Stage, StageFunction
from .configuration import QualityConfig
from .records import FaceSample, JudgedTrack, TrackFacts

JUDGE_VERSION = 2


def make_judge_stage(config: QualityConfig, threshold: float) -> Stage:
    """The stage: from `TrackFacts` to `JudgedTrack`.

    Args:
        threshold: cosine from which on two faces are one person.
    """
    settings = {**asdict(config), "threshold": threshold}
    judge = OpenJudge(config, threshold)
    return Stage(
        "quality",
        JUDGE_VERSION,
        TrackFacts,
        JudgedTrack,
        settings=settings,
        open_worker=judge,
        batch_rows=256,
    )


@dataclass(frozen=True)
class OpenJudge:
    """Needs no models, so that opening it is nothing."""

    config: QualityConfig
    threshold: float

    def __call__(self) -> StageFunction:
        return self.judge

    def judge(self, tracks: Sequence[TrackFacts]) -> list[list[JudgedTrack | Rejected]]:
        return [judge_track(track, self.config, self.threshold) for track in tracks]


def judge_track(track: TrackFacts, config: QualityConfig, threshold: float) -> list[JudgedTrack | Rejected]:
    """The track with its usable looks, and each look that is none with its reason; or why there is no track."""
    if track.media == "clip" and 0 <= track.face_change < config.min_face_change:
        detail = f"it changes by {track.face_change:.2f} of 255 from look to look, the bound is {config.min_face_change}"
        return [Rejected("a still picture of a face", f"{detail}; a poster or a painting?", track.subject)]
    faults = [find_fault(sample, config) for sample in track.samples]
    good = [number for number, fault in enumerate(faults) if fault is None]
    if not good:
        reason, _ = Counter(fault[0] for fault in faults if fault).most_common(1)[0]
        detail = next(fault[1] for fault in faults if fault and fault[0] == reason)
        return [Rejected(reason, detail, track.subject)]
    embeddings = np.stack([track.samples[number].embedding for number in good])
    cosines = embeddings @ embeddings.T
    medoid = int(cosines.sum(0).argmax())
    same = cosines[medoid] >= threshold
    if same.sum() * 2 <= len(good) and len(good) > 1:
        detail = (
            f"only {int(same.sum())} of {len(good)} looks are the same person (threshold {threshold:.3f})"
        )
        return [Rejected("more than one person in a track", detail, track.subject)]
    usable = sorted(
        (number for number, holds in zip(good, same, strict=True) if holds),
        key=lambda number: -rate_sample(track.samples[number]),
    )
    mean = embeddings[same].mean(0)
    values = {field.name: getattr(track, field.name) for field in fields(TrackFacts)}
    judged = JudgedTrack(**values, usable=tuple(usable), embedding=mean / np.linalg.norm(mean))
    left_out = [
        Rejected(f"look: {fault[0]}", fault[1], f"{track.path}, frame {sample.frame}")
        for sample, fault in zip(track.samples, faults, strict=True)
        if fault
    ]
    strangers = [
        Rejected("look: another face than the rest of the track", f"cosine {cosine:.2f}", f"{track.path}")
        for cosine, holds in zip(cosines[medoid], same, strict=True)
        if not holds
    ]
    return [judged, *left_out, *strangers]


def find_fault(sample: FaceSample, config: QualityConfig) -> tuple[str, str] | None:
    """Reason and detail of what is wrong with a look; None for a good one."""
    darkest, lightest = config.brightness
    checks = (
        (sample.face_px >= config.min_face_px, "face too small", f"{sample.face_px:.0f} px, the bound is {config.min_face_px:.0f}"),
        (sample.sharpness >= config.min_sharpness, "face blurred", f"sharpness {sample.sharpness:.0f}, the bound is {config.min_sharpness:.0f}"),
        (abs(sample.yaw_deg) <= config.max_yaw_deg, "face turned away", f"yaw {sample.yaw_deg:.0f} degrees, the bound is {config.max_yaw_deg:.0f}"),
        (abs(sample.pitch_deg) <= config.max_pitch_deg, "face turned away", f"pitch {sample.pitch_deg:.0f} degrees, the bound is {config.max_pitch_deg:.0f}"),
        (sample.brightness >= darkest, "face too dark", f"mean {sample.brightness:.0f} of 255, the bound is {darkest:.0f}"),
        (sample.brightness <= lightest, "face too bright", f"mean {sample.brightness:.0f} of 255, the bound is {lightest:.0f}"),
        (sample.clipped <= config.max_clipped, "face badly exposed", f"{sample.clipped:.0%} of it is black or white, the bound is {config.max_clipped:.0%}"),
        (sample.occluded <= config.max_occluded, "face covered", f"{sample.occluded:.0%} of it has another colour than the skin around the eyes, the bound is {config.max_occluded:.0%}"),
    )  # fmt: skip
    return next(((reason, detail) for holds, reason, detail in checks if not holds), None)


def rate_sample(sample: FaceSample) -> float:
    """How good a reference it makes: sharp, large, frontal. Between looks of one person; no absolute figure."""
    frontal = np.cos(np.radians(sample.yaw_deg)) * np.cos(np.radians(sample.pitch_deg))
    return float(sample.score * min(sample.face_px, 256.0) * min(sample.sharpness, 200.0) * frontal)
