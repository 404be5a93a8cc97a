"""Figures of the Lynx paper (ByteDance, CVPR 2026), shown beside ours and marked as published.

They are of the paper's subjects, prompts and judges (Gemini-2.5-Pro, 18 raters), none of which are public: beside
ours they give the order of magnitude, never a difference.
"""

from __future__ import annotations

from dataclasses import dataclass, field

SOURCE = "Lynx paper: 40 subjects x 20 prompts, judged by Gemini-2.5-Pro and 18 raters"


@dataclass(frozen=True)
class PublishedRow:
    """One method's figures; a missing one was not published."""

    method: str
    faces: dict[str, float] = field(default_factory=dict)
    """Cosine by recogniser: facexlib, insightface, in-house."""
    judge: dict[str, float] = field(default_factory=dict)
    people: dict[str, float] = field(default_factory=dict)
    latency_s: float | None = None
    peak_memory_gb: float | None = None
    parameters: float | None = None


FACE_COLUMNS = ("facexlib", "insightface", "in-house")
JUDGE_COLUMNS = ("prompt_following", "aesthetics", "motion_naturalness", "video_quality")
PEOPLE_COLUMNS = ("face_resemblance", *JUDGE_COLUMNS)


def _row(
    method: str,
    faces: tuple[float, ...] = (),
    judge: tuple[float, ...] = (),
    people: tuple[float, ...] = (),
    latency_s: float | None = None,
    peak_memory_gb: float | None = None,
    parameters: float | None = None,
) -> PublishedRow:
    return PublishedRow(
        method,
        dict(zip(FACE_COLUMNS, faces, strict=False)),
        dict(zip(JUDGE_COLUMNS, judge, strict=False)),
        dict(zip(PEOPLE_COLUMNS, people, strict=False)),
        latency_s,
        peak_memory_gb,
        parameters,
    )


PUBLISHED = (
    _row(
        "SkyReels-A2",
        (0.715, 0.678, 0.725),
        (0.471, 0.704, 0.824, 0.870),
        (3.54, 2.87, 3.12, 3.11, 3.19),
        410,
        52.81,
    ),
    _row("VACE", (0.594, 0.548, 0.615), (0.691, 0.846, 0.851, 0.935), (3.12, 3.33, 3.29, 3.40, 3.26)),
    _row(
        "Phantom",
        (0.664, 0.659, 0.689),
        (0.690, 0.825, 0.828, 0.888),
        (3.35, 3.41, 3.29, 3.34, 3.31),
        147,
        64.19,
    ),
    _row("MAGREF", (0.575, 0.510, 0.591), (0.612, 0.787, 0.812, 0.886), (3.33, 3.26, 3.17, 3.01, 3.19)),
    _row("Stand-In", (0.611, 0.576, 0.634), (0.582, 0.807, 0.823, 0.926), (3.47, 3.21, 3.28, 3.18, 3.23)),
    _row(
        "Lynx",
        (0.779, 0.699, 0.781),
        (0.722, 0.871, 0.837, 0.956),
        (3.83, 3.57, 3.54, 3.41, 3.55),
        563,
        50.73,
        18.49e9,
    ),
    _row("Lynx, 100 subjects", (0.781, 0.702, 0.781), (0.691, 0.866, 0.825, 0.943)),
)
NOTES = {"Phantom": "latency and memory on 8 GPUs, memory of each"}

ABLATION = {
    "id": {"faces": 0.655, "prompt_following": 0.624, "video_quality": 0.925},
    "reference": {"faces": 0.523, "prompt_following": 0.738, "video_quality": 0.921},
    "full": {"faces": 0.699, "prompt_following": 0.722, "video_quality": 0.956},
}
"""By part of the adapter; faces by insightface."""
