"""Tracks made of numbers, for the rules that need no pixels."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lynx_core.curate.records import FaceSample, JudgedTrack

DIM = 32


def person_vector(person: int, noise: float = 0.0, seed: int = 0) -> np.ndarray:
    """The unit vector of a person; two people's are nearly orthogonal."""
    vector = np.random.default_rng(person).normal(size=DIM)
    vector /= np.linalg.norm(vector)
    vector = vector + noise * np.random.default_rng(1000 + seed).normal(size=DIM) / np.sqrt(DIM)
    return (vector / np.linalg.norm(vector)).astype(np.float32)


def make_sample(vector: np.ndarray, frame: int = 0, **changes) -> FaceSample:
    values = {
        "frame": frame, "score": 0.99, "face_px": 150.0, "sharpness": 300.0, "brightness": 120.0, "clipped": 0.0, "occluded": 0.0,
        "yaw_deg": 0.0, "pitch_deg": 0.0, "roll_deg": 0.0, "landmarks": np.zeros(10, np.float32), "embedding": vector,
        "shade": np.tile([1.0, -1.0], 128).astype(np.float32),
    }  # fmt: skip
    return FaceSample(**(values | changes))


def make_track(
    name: str,
    vector: np.ndarray,
    path: str | None = None,
    samples: Sequence[FaceSample] | None = None,
    frames: Sequence[int] | None = None,
    scene: float = 0.0,
    **changes,
) -> JudgedTrack:
    """A photo, or with `frames` the looks of a clip of 25 frames a second."""
    is_clip = frames is not None
    frames = list(frames) if frames is not None else [0]
    samples = tuple(samples or (make_sample(vector, frames[0]),))
    looks = np.array([[frame, 0.4, 0.3, 0.6, 0.6] for frame in frames], np.float32)
    values = {
        "id": name, "path": path or f"/media/{name}.{'mp4' if is_clip else 'png'}", "file_hash": name,
        "media": "clip" if is_clip else "photo", "width_px": 640, "height_px": 480, "fps": 25.0 if is_clip else 0.0,
        "num_frames": frames[-1] + 1, "shot": 0, "shot_start": frames[0], "shot_end": frames[-1] + 1,
        "step": frames[1] - frames[0] if len(frames) > 1 else 1, "looks": looks.ravel(),
        "others": np.array([[frame, 0] for frame in frames], np.float32).ravel(),
        "motion": np.array([[frame, 0.01] for frame in frames], np.float32).ravel(), "face_change": 8.0,
        "scene": np.full(768, scene, np.float32), "picture_hash": f"{abs(hash(name)) % 2**64:016x}", "folder_name": "",
        "consent": "", "licence": "", "sidecar": "a person", "samples": samples, "usable": tuple(range(len(samples))),
        "embedding": vector,
    }  # fmt: skip
    return JudgedTrack(**(values | changes))
