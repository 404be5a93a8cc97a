"""How well the shipped detector finds held-out people, through insightface's own decoding."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from lynx_core.faces.detection import FaceDetector
from lynx_core.rng import numpy_generator

from ..world.clip import FRAME_PX, NUM_FRAMES
from ..world.draws import FIRST_HELD_OUT_IDENTITY, draw_shot
from ..world.head import Head
from ..world.identity import draw_identity
from .detector_pictures import draw_nobody
from .landmarks import trace_points

NUM_PICTURES = 256
PACK = "lynx_mini"


def score_detector(assets: Path) -> dict[str, float]:
    """Of portraits of 256 to 512 px and of frames of 64 px: finds, and errors in distances of the eyes."""
    detector = FaceDetector(assets / "insightface", PACK)
    detector.load()
    portraits = _score_pictures(detector, (256, 320, 384, 448, 512))
    frames = _score_pictures(detector, (FRAME_PX,))
    places = [draw_nobody(numpy_generator("detector places", number), 256) for number in range(64)]
    return {
        **{f"portraits_{name}": value for name, value in portraits.items()},
        **{f"frames_64px_{name}": value for name, value in frames.items()},
        "places_with_a_find": float(np.mean([bool(detector.detect(place)) for place in places])),
    }


def _score_pictures(detector: FaceDetector, sizes_px: tuple[int, ...]) -> dict[str, float]:
    found, alone, errors = [], [], []
    for number in range(NUM_PICTURES):
        rng = numpy_generator("detector score", number)
        size_px, frame = int(rng.choice(sizes_px)), int(rng.integers(NUM_FRAMES))
        shot = draw_shot(draw_identity(FIRST_HELD_OUT_IDENTITY + number), int(rng.integers(2**31)))
        faces = detector.detect(shot.draw_frame(frame, size_px))
        truth = shot.find_landmarks(frame, size_px)
        # Of a turned head the eyes are near to each other in the picture, not on the head.
        unit = 2 * Head(shot.identity, shot.pose, size_px).eye_x * shot.pose_at(frame).scale * size_px
        best = min(
            (float(np.linalg.norm(face.landmarks - truth, axis=1).mean()) for face in faces), default=np.inf
        )
        found.append(best < 0.3 * unit)
        alone.append(len(faces) == 1)
        if found[-1]:
            errors.append(best / unit)
    return {
        "found": float(np.mean(found)),
        "exactly_one": float(np.mean(alone)),
        "landmark_error": float(np.mean(errors)),
        "landmark_error_highest_twentieth": float(np.quantile(errors, 0.95)),
    }


def score_landmarks(assets: Path) -> dict[str, float]:
    """Of the 106 points on held-out portraits, detector included: the error in distances of the eyes."""
    from insightface.app import FaceAnalysis

    folder = assets / "insightface" / "models" / PACK
    analysis = FaceAnalysis(name=str(folder), root=str(folder), providers=["CPUExecutionProvider"])
    analysis.prepare(ctx_id=0, det_thresh=0.5, det_size=(640, 640))
    errors = []
    for number in range(NUM_PICTURES // 2):
        shot = draw_shot(draw_identity(FIRST_HELD_OUT_IDENTITY + number), 10**5 + number)
        head = Head(shot.identity, shot.pose_at(number % NUM_FRAMES), 256)
        faces = analysis.get(shot.draw_frame(number % NUM_FRAMES, 256))
        if faces:
            off = np.linalg.norm(faces[0].landmark_2d_106 - trace_points(head), axis=1).mean()
            errors.append(float(off) / (2 * head.eye_x * head.unit_px))
    return {"points106_error": float(np.mean(errors)), "points106_read": len(errors) / (NUM_PICTURES // 2)}
