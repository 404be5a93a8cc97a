"""How clean the pictures are, whoever they show.

Three figures: the distance of their features from those of drawn frames (Fréchet distance, Heusel et al., 2017, here
in the space of the reader of identity), the share of frames in which the detector finds a face, and how far the
face's points are from those of the drawn head. A video holds its head as it likes, so the drawn head takes the pose
that was read in the frame, and the points are laid over each other by shift, turn and scale. The points are found by a
network made for it (points.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..parts.detector_scores import PACK
from ..world.head import Head
from ..world.identity import Identity
from ..world.labels import POSE_MIDDLES, POSE_NAMES, POSE_SPREADS
from ..world.scene import Pose
from .points import WEIGHTS_NAME, PointReader, list_points, load_points
from .readers import Rows
from .statistics import estimate_mean

Faces = dict[str, np.ndarray]
"""Of the frames of some cases: `found` [cases, T], and `landmark_error` [cases, T], NaN where no face was found."""


class FaceProbe:
    """Finds faces with the detector of the miniature, and their points.

    Args:
        assets: folder of the shipped files.
        points: what finds the points; None for the one among the files.
    """

    def __init__(self, assets: Path, points: PointReader | None = None) -> None:
        from insightface.app import FaceAnalysis

        self._points = points or load_points(assets / WEIGHTS_NAME)
        folder = assets / "insightface" / "models" / PACK
        self._analysis: Any = FaceAnalysis(
            name=str(folder),
            root=str(folder),
            providers=["CPUExecutionProvider"],
            allowed_modules=["detection"],
        )
        self._analysis.prepare(ctx_id=0, det_thresh=0.5, det_size=(640, 640))

    def probe(self, clips: np.ndarray, people: Sequence[Identity], poses: np.ndarray) -> Faces:
        """Look for the faces of people in their clips.

        Args:
            clips: [cases, T, H, W, 3] uint8 RGB.
            people: whom the clips should show.
            poses: that were read in the frames, [cases, T, 6] in spreads.
        """
        errors = np.full(clips.shape[:2], np.nan)
        found = np.zeros(clips.shape[:2], bool)
        for case, person in enumerate(people):
            places = self._points.find(clips[case])
            for frame, pixels in enumerate(clips[case]):
                if self._analysis.get(np.ascontiguousarray(pixels)):
                    found[case, frame] = True
                    head = Head(person, to_pose(poses[case, frame]), pixels.shape[0])
                    errors[case, frame] = measure_shape_error(places[frame], head)
        return {"found": found, "landmark_error": errors}


def to_pose(numbers: np.ndarray) -> Pose:
    """The pose that `pose_numbers` gave these numbers for, in the middle of the picture."""
    values = numbers * np.array(POSE_SPREADS) + np.array(POSE_MIDDLES)
    return Pose(**{name: float(value) for name, value in zip(POSE_NAMES, values, strict=True)}, x=0.5, y=0.5)


def measure_shape_error(points: np.ndarray, head: Head) -> float:
    """Mean distance of points [P, 2] from those of a drawn head, in distances of its eyes."""
    wanted = list_points(head).astype(float)
    off = np.linalg.norm(lay_over(points.astype(float), wanted) - wanted, axis=1).mean()
    return float(off / (2 * head.eye_x * head.unit_px))


def lay_over(points: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Shift, turn and scale points [N, 2] to lie as near to others as they can (Umeyama, 1991)."""
    middle, wanted = points.mean(0), target.mean(0)
    # As complex numbers, turning and scaling are one factor.
    here, there = ((each - m) @ np.array([1, 1j]) for each, m in ((points, middle), (target, wanted)))
    moved = here * (np.vdot(here, there) / np.vdot(here, here))
    return np.stack([moved.real, moved.imag], 1) + wanted


def measure_frechet(made: np.ndarray, drawn: np.ndarray) -> float:
    """The Fréchet distance of the Gaussians of two sets of features, [N, D] and [M, D]."""
    means, spreads = zip(*((each.mean(0), np.cov(each.T)) for each in (made, drawn)), strict=True)
    root = _root(spreads[0])
    cross = _root(root @ spreads[1] @ root)
    gap = means[0] - means[1]
    return float(gap @ gap + np.trace(spreads[0]) + np.trace(spreads[1]) - 2 * np.trace(cross))


def _root(matrix: np.ndarray) -> np.ndarray:
    """Of a symmetric matrix without negative eigenvalues."""
    values, vectors = np.linalg.eigh(matrix)
    return (vectors * np.sqrt(values.clip(0))) @ vectors.T


def estimate_quality(rows: Sequence[Rows], faces: Sequence[Faces], drawn: Rows) -> dict[str, Any]:
    """The figures of one variant from the rows and faces of each seed.

    Means have their 95 % intervals; the Fréchet distance, which grows with fewer samples, has the lowest and the
    highest of its seeds.
    """
    distances = [measure_frechet(_features(each), _features(drawn)) for each in rows]
    found = np.stack([each["found"].mean(1) for each in faces])
    with np.errstate(invalid="ignore"):
        errors = np.stack([_mean_known(each["landmark_error"]) for each in faces])
    frechet: dict[str, Any] = {"mean": np.mean(distances), "lo": min(distances), "hi": max(distances)}
    return {
        "frechet": {name: round(float(value), 4) for name, value in frechet.items()} | {"n": len(distances)},
        "found": estimate_mean(found).as_json(),
        "landmark_error": estimate_mean(errors).as_json(),
    }


def _features(rows: Rows) -> np.ndarray:
    embeddings = rows["frame_embeddings"].astype(float)
    return embeddings.reshape(-1, embeddings.shape[-1])


def _mean_known(values: np.ndarray) -> np.ndarray:
    """Mean over frames [cases, T] with a face; NaN of cases with none."""
    known = ~np.isnan(values)
    return np.where(known, values, 0).sum(1) / np.where(known.any(1), known.sum(1), np.nan)
