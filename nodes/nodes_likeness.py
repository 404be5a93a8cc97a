"""Nodes that measure how alike a video is to a person, and use the measure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import comfy.model_management
import comfy.utils
import numpy as np
import torch
from comfy_api.latest import io
from torch import Tensor

from ..lynx_core.evaluation.face_scores import FaceScore, make_judge, score_frames
from ..lynx_core.evaluation.likeness_pictures import draw_plot, draw_sheet
from ..lynx_core.faces.analyzer import FaceAnalyzer
from ..lynx_core.faces.combination import find_outliers
from ..lynx_core.faces.detection import FACE_ORDERS, Face, FaceDetector
from ..lynx_core.faces.photo import convert_image, convert_photos
from . import sockets
from .host.conditioned_by import explain_recogniser_use
from .host.identity import FaceID
from .host.messages import raise_plainly, show_note
from .nodes_face import find_crops

ALL_THAT_PASS, BEST = "all that pass", "the best alone"


class LynxFaceSimilarity(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LynxFaceSimilarity",
            display_name="Lynx Face Similarity",
            category=sockets.CATEGORY,
            description="Measures how alike the person in a video is to a photo, frame by frame: cosine of face "
            "embeddings, with a plot and a contact sheet. Of several people in a frame the right one is followed.",
            search_aliases=[
                "likeness",
                "face similarity",
                "face score",
                "arcface",
                "same person",
                "identity score",
            ],
            inputs=[
                io.Image.Input("images", tooltip="Frames of one video, from VAE Decode."),
                sockets.FaceAnalyzer.Input(
                    "face_analyzer",
                    tooltip="Its recogniser scores. One that did not condition the video, such as the detector pack's own, "
                    "is the fairer judge.",
                ),
                io.Image.Input(
                    "reference",
                    optional=True,
                    tooltip="Photo of the person, or a batch of photos: the score is the mean over them.",
                ),
                sockets.FaceID.Input(
                    "id", optional=True, tooltip="An identity to compare with, of the same recogniser."
                ),
                io.Int.Input(
                    "window",
                    default=0,
                    min=0,
                    max=4096,
                    optional=True,
                    advanced=True,
                    tooltip="Frames of a part whose mean is told, to see drift in a long take, 0 to 4096; 0: the whole.",
                ),
            ],
            outputs=[
                io.Float.Output(
                    display_name="mean_detected", tooltip="Mean over the frames with the face, -1 to 1."
                ),
                io.Float.Output(
                    display_name="detection_rate", tooltip="Share of the frames with the face, 0 to 1."
                ),
                io.Float.Output(
                    display_name="mean_all",
                    tooltip="Mean over all frames, those without the face as 0, -1 to 1.",
                ),
                io.Image.Output(display_name="plot", tooltip="The score of every frame."),
                io.Image.Output(
                    display_name="contact_sheet", tooltip="Frames with the measured face and its score."
                ),
            ],
            hidden=[io.Hidden.unique_id, io.Hidden.prompt],
        )

    @classmethod
    @raise_plainly
    def execute(
        cls,
        images: Tensor,
        face_analyzer: FaceAnalyzer,
        reference: Tensor | None = None,
        id: FaceID | None = None,
        window: int = 0,
    ) -> io.NodeOutput:
        frames = np.stack(convert_image(images))
        person, photo, warnings = embed_person(face_analyzer, reference, id)
        recogniser = make_judge(face_analyzer)
        detector: Any = WatchedDetector(face_analyzer.detector, len(frames))
        (score,) = score_frames(frames, [person], detector, [recogniser])
        warnings += explain_faces(score)
        remark = explain_recogniser_use(face_analyzer, id, cls.hidden)
        lines = describe_score(score, recogniser.name) + describe_windows(score.similarity.scores, window)
        show_note(cls, *lines, remark, warnings=warnings)
        plot = draw_plot(score, f"Likeness by {recogniser.name}")
        likeness = score.similarity
        return io.NodeOutput(
            likeness.mean_detected,
            likeness.detection_rate,
            likeness.mean_all,
            convert_photos([plot]),
            convert_photos([draw_sheet(frames, score, photo)]),
        )


class WatchedDetector:
    """A detector that shows how far it is, and stops when the user stops the queue."""

    def __init__(self, detector: FaceDetector, num_frames: int) -> None:
        self.detector = detector
        self.progress = comfy.utils.ProgressBar(num_frames)

    def detect(self, image: np.ndarray) -> list[Face]:
        comfy.model_management.throw_exception_if_processing_interrupted()
        faces = self.detector.detect(image)
        self.progress.update(1)
        return faces


def embed_person(
    analyzer: FaceAnalyzer, reference: Tensor | None, face_id: FaceID | None
) -> tuple[Tensor, np.ndarray | None, list[str]]:
    """Give the mean embedding of what a video is compared with, [dim], the first photo's crop, and warnings.

    Not brought to length 1: its cosine is then the mean of the cosines.

    Raises:
        ValueError: when nothing is connected, or the identity is of another recogniser.
        FaceError: when a photo has no face.
    """
    vectors, crops = [], []
    if reference is not None:
        crops, _ = find_crops(reference, analyzer, FACE_ORDERS[0], 1)
        vectors += list(analyzer.recogniser.embed([crop.id_crop for crop in crops]))
    if face_id is not None:
        if face_id.recogniser != analyzer.recogniser.name:
            raise ValueError(
                f"The identity in id is of the recogniser {face_id.recogniser!r}, but face_analyzer has "
                f"{analyzer.recogniser.name!r}, whose numbers mean other things. Connect a photo to reference instead, or "
                "the face analyzer that the identity was made with."
            )
        vectors.append(face_id.embedding.float())
    if not vectors:
        raise ValueError(
            "Lynx Face Similarity has nobody to compare with: connect a photo of the person to reference, or an identity "
            "to id."
        )
    stacked = torch.stack(vectors)
    warnings = [warning for crop in crops for warning in crop.warnings]
    warnings += [
        f"{'id' if outlier.index == len(crops) else f'reference photo {outlier.index + 1}'} is unlike the others (cosine "
        f"{outlier.cosine:.2f}): does it show the same person?"
        for outlier in find_outliers(stacked)
    ]
    return stacked.mean(0), crops[0].reference_crop if crops else None, warnings


def explain_faces(score: FaceScore) -> list[str]:
    """Say what the figures cannot show: no face, or several people."""
    if not score.faces:
        return ["No face is found in any frame: all figures are 0."]
    if score.num_people > 1:
        return [f"{score.num_people} people are in these frames; the one most like the person is measured."]
    return []


def describe_score(score: FaceScore, recogniser: str) -> list[str]:
    """Say the three figures and the drift."""
    likeness = score.similarity
    return [
        f"likeness {likeness.mean_detected:.3f} over {likeness.detection_rate:.0%} of the frames, "
        f"{likeness.mean_all:.3f} with the others as 0",
        f"drift {score.drift:+.3f} over {len(likeness.scores)} frames, by {recogniser}",
    ]


def describe_windows(scores: Sequence[float | None], window: int) -> list[str]:
    """Say the mean of each part of a video, and its distance from the first part's."""
    if not window or window >= len(scores):
        return []
    lines, first = [], None
    for start in range(0, len(scores), window):
        part = scores[start : start + window]
        seen = [score for score in part if score is not None]
        name = f"frames {start + 1} to {start + len(part)}"
        if not seen:
            lines.append(f"{name}: no face")
            continue
        mean = sum(seen) / len(seen)
        first = mean if first is None else first
        lines.append(f"{name}: {mean:.3f} ({mean - first:+.3f})")
    return lines


class LynxLikenessGate(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LynxLikenessGate",
            display_name="Lynx Likeness Gate",
            category=sockets.CATEGORY,
            description="Passes a video on when its likeness reaches the threshold, and stops what comes behind it when it "
            "does not. Of a list of videos (several seeds) it keeps all that pass, or the best alone.",
            search_aliases=["likeness", "threshold", "best of n", "filter", "switch", "pick best seed"],
            inputs=[
                io.Image.Input("images", tooltip="Frames of a video, or a list of videos."),
                io.Float.Input(
                    "score",
                    default=0.0,
                    min=-1.0,
                    max=1.0,
                    step=0.01,
                    force_input=True,
                    tooltip="From Lynx Face Similarity, mean_all or mean_detected: one for each video, -1 to 1.",
                ),
                io.Float.Input(
                    "threshold",
                    default=0.4,
                    min=-1.0,
                    max=1.0,
                    step=0.01,
                    tooltip="Least likeness that passes, -1 to 1. Photos of two people are mostly below 0.3.",
                ),
                io.Combo.Input(
                    "keep",
                    options=[ALL_THAT_PASS, BEST],
                    default=ALL_THAT_PASS,
                    tooltip="Of a list: all that pass, or the best alone.",
                ),
            ],
            outputs=[
                io.Image.Output(display_name="images", is_output_list=True),
                io.Float.Output(display_name="score", is_output_list=True),
                io.Int.Output(
                    display_name="number", is_output_list=True, tooltip="Place in the list, from 1."
                ),
            ],
            hidden=[io.Hidden.unique_id],
            is_input_list=True,
        )

    @classmethod
    @raise_plainly
    def execute(
        cls, images: list[Tensor], score: list[float], threshold: list[float], keep: list[str]
    ) -> io.NodeOutput:
        if len(images) != len(score):
            raise ValueError(
                f"Lynx Likeness Gate gets {len(images)} videos and {len(score)} scores: connect the images that Lynx Face "
                "Similarity measured, and its score."
            )
        kept = choose_videos(score, threshold[0], keep[0])
        figures = ", ".join(f"{each:.3f}" for each in score)
        if not kept:
            message = (
                f"Lynx Likeness Gate: no video passes. The likeness is {figures}, the threshold {threshold[0]:g}. Try another "
                "seed, more strength, or a lower threshold."
            )
            show_note(cls, warnings=[message])
            # The host drops a block that comes without outputs.
            return io.NodeOutput([], [], [], block_execution=message)
        numbers = ", ".join(str(place + 1) for place in kept)
        show_note(cls, f"passes on {numbers} of {len(score)}: likeness {figures}, threshold {threshold[0]:g}")
        return io.NodeOutput(
            [images[place] for place in kept], [score[place] for place in kept], [place + 1 for place in kept]
        )


def choose_videos(scores: list[float], threshold: float, keep: str) -> list[int]:
    """Give the places of the videos that pass, from 0; of those with the best score the first alone, if asked for.

    Raises:
        ValueError: when `keep` is no choice, or a number is not finite.
    """
    if keep not in (ALL_THAT_PASS, BEST):
        raise ValueError(f"keep {keep!r} is none of: {ALL_THAT_PASS}, {BEST}")
    if not np.isfinite([*scores, threshold]).all():
        raise ValueError(f"likeness {scores} and threshold {threshold} must be numbers; NaN passes nothing")
    passing = [place for place, score in enumerate(scores) if score >= threshold]
    return [max(passing, key=scores.__getitem__)] if passing and keep == BEST else passing
