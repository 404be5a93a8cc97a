"""Scores of one video, without a benchmark: what `comfy-lynx evaluate score --video X --photo Y` prints."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ..faces.detection import FaceDetector
from .face_scores import FaceScore, find_largest_face, score_faces
from .motion import MotionScores, measure_motion
from .seen_faces import Recogniser
from .video import Video, read_video


def score_video(
    video_path: Path, photo: Path, detector: FaceDetector, recognisers: Sequence[Recogniser]
) -> tuple[Video, list[FaceScore], MotionScores]:
    """Likeness by each recogniser, and motion.

    Raises:
        VideoError: when the video cannot be read.
        FaceError: when a face model fails, or the photo has no face.
    """
    video = read_video(video_path)
    face = find_largest_face(photo, detector)
    person = [recogniser.embed([face])[0] for recogniser in recognisers]
    return video, score_faces(video, person, detector, recognisers), measure_motion(video)


def format_scores(
    video: Video, faces: Sequence[FaceScore], motion: MotionScores, recognisers: Sequence[Recogniser]
) -> str:
    """A table for the terminal."""
    width = max(len(recogniser.name) for recogniser in recognisers)
    lines = [
        f"{len(video.frames)} frames of {video.frames.shape[2]} x {video.frames.shape[1]} px, {video.fps:.3g} fps",
        f"{'likeness':<{width}}  with face  all frames  found in  drift",
    ]
    for recogniser, score in zip(recognisers, faces, strict=True):
        likeness = score.similarity
        lines.append(
            f"{recogniser.name:<{width}}  {likeness.mean_detected:9.3f}  {likeness.mean_all:10.3f}  "
            f"{likeness.detection_rate:8.0%}  {score.drift:+.3f}"
        )
    if faces[0].num_people > 1:
        lines.append(f"{faces[0].num_people} people were seen; the one most like the photo was scored")
    lines.append(
        f"motion {motion.motion:.3f} diagonals/s, temporal consistency {motion.temporal_consistency:.3f}, "
        f"sharpness {motion.sharpness:.0f}"
    )
    return "\n".join(lines)
