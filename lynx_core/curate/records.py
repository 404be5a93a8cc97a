"""Rows of the stages: files, tracks of faces, people, pairs. Lengths are in pixels of the frame as looked at."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class SourceFile:
    """A file as found in a folder; its size and time are part of it, so that a changed file is another one."""

    path: str
    size_bytes: int
    modified_ns: int
    folder_name: str
    """Name of the person after whom its folder is called; empty when people are found from faces."""
    consent: str
    licence: str
    sidecar: str
    """Text of the caption file beside it; empty when there is none."""


@dataclass(frozen=True, eq=False)
class FaceSample:
    """One look at a face that was kept."""

    frame: int
    """Number in the file."""
    score: float
    face_px: float
    """Side of the square that becomes the 112 px crop, in pixels of the file."""
    sharpness: float
    brightness: float
    clipped: float
    """Share of the crop that is black or white."""
    occluded: float
    """Share of the face that something of another colour covers."""
    yaw_deg: float
    """Positive: the nose points to the right of the picture."""
    pitch_deg: float
    """Positive: down."""
    roll_deg: float
    landmarks: np.ndarray
    """Of its picture, [10]: x and y of the eyes, the nose tip and the corners of the mouth."""
    embedding: np.ndarray
    """Unit vector of the recogniser."""
    shade: np.ndarray
    """The aligned crop as 16x16 grey values, standardised, [256]: another expression or light differs in it."""


@dataclass(frozen=True, eq=False)
class TrackFacts:
    """A face followed through one shot, or the face of a photo: all that is decided on."""

    id: str
    path: str
    file_hash: str
    media: str
    """"photo" or "clip"."""
    width_px: int
    height_px: int
    fps: float
    num_frames: int
    shot: int
    shot_start: int
    shot_end: int
    """Frame after the last."""
    step: int
    """Frames from one look to the next."""
    looks: np.ndarray
    """Frame, and left, top, right, bottom as shares of the frame, of each look that saw the face, [n * 5]."""
    others: np.ndarray
    """Frame of each look, and faces beside this one, those of a quarter of its area or more, [n * 2]."""
    motion: np.ndarray
    """Frame of each look, and mean flow since the one before as a share of the width, [n * 2]."""
    face_change: float
    """Mean difference of successive aligned crops, 0 to 255; -1 with fewer than two looks."""
    scene: np.ndarray
    """The frame as 16x16 colours, 0 to 255, -1 where the person is, [768]."""
    picture_hash: str
    """Perceptual hash of the file's first picture, 16 hex digits."""
    folder_name: str
    consent: str
    licence: str
    sidecar: str
    samples: tuple[FaceSample, ...]

    @property
    def subject(self) -> str:
        """What rejections call it."""
        place = f", frames {self.shot_start}-{self.shot_end - 1}" if self.media == "clip" else ""
        return f"{self.path}{place}"


@dataclass(frozen=True, eq=False)
class Track(TrackFacts):
    """A track with its pictures, as it is kept on disk."""

    pictures: tuple[bytes, ...]
    """Of each sample: the face with its surroundings, JPEG."""
    views: tuple[bytes, ...]
    """A few whole frames of the shot, JPEG, 512 px at most: for captions and the page."""
    view_frames: tuple[int, ...]


@dataclass(frozen=True)
class TrackId:
    """The name alone."""

    id: str


@dataclass(frozen=True)
class TrackViews:
    """A few frames of a track's shot."""

    id: str
    path: str
    views: tuple[bytes, ...]


@dataclass(frozen=True, eq=False)
class TrackPictures:
    """The pictures alone."""

    id: str
    pictures: tuple[bytes, ...]
    views: tuple[bytes, ...]
    view_frames: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class JudgedTrack(TrackFacts):
    """A track of which at least one look may be a reference."""

    usable: tuple[int, ...]
    """Numbers of those samples, the best first."""
    embedding: np.ndarray
    """Mean of their embeddings, a unit vector."""


@dataclass(frozen=True)
class Membership:
    """Whose a track is."""

    track: str
    person: str
    similarity: float
    """Cosine to the mean of the person's other tracks; 1 for an only one."""
    runner_up: str
    """The person that is next; empty when there is none."""
    runner_up_similarity: float
    look_alike: bool
    """Whether the two are closer than the margin allows, or the next one is near the threshold."""
    scene: int
    """Number of the scene among the person's; equal numbers are one place in one light."""


@dataclass(frozen=True)
class SampleRef:
    """A sample of a track."""

    track: str
    sample: int


@dataclass(frozen=True)
class Candidate:
    """A pair before its caption is written and its pictures are made."""

    id: str
    person: str
    track: str
    """Of the target."""
    target: str
    """Path of the file."""
    first_frame: int
    end_frame: int
    """Frame after the last; both 0 for a photo."""
    crop: tuple[int, ...]
    """Left, top, width and height of the part that is the target, pixels of the file; empty: all of it."""
    references: tuple[SampleRef, ...]
    raw_kind: str
    """Of `RAW_KINDS`."""
    kind: str
    """As the trainer has it: single-scene, multi-scene, augmented."""
    similarity: float
    """Cosine of the first reference and the target."""


@dataclass(frozen=True)
class CaptionRequest:
    """A target that needs a caption."""

    id: str
    """Track and frames of the target."""
    subject: str
    """What rejections call it."""
    sidecar: str
    views: tuple[bytes, ...]
    """JPEG frames for a server; empty when none is asked."""


@dataclass(frozen=True)
class Caption:
    """Of a target."""

    id: str
    """Track and frames of the target."""
    text: str
    origin: str
    """"sidecar", or the model that answered."""


@dataclass(frozen=True)
class CropRequest:
    """A target that is to be cut out of a file."""

    id: str
    """Track and frames of the target."""
    subject: str
    path: str
    first_frame: int
    end_frame: int
    """Both 0 for a photo."""
    fps: float
    crop: tuple[int, ...]


@dataclass(frozen=True)
class CroppedTarget:
    """A target that was cut out."""

    id: str
    """Track and frames of the target."""
    content: bytes
    suffix: str
    """Of its file."""


@dataclass(frozen=True, eq=False)
class VariantRequest:
    """A reference that an augmenter is to edit."""

    pair: str
    subject: str
    picture: bytes
    landmarks: np.ndarray
    """[10], in the picture."""
    embedding: np.ndarray
    """Of the unedited face."""


@dataclass(frozen=True, eq=False)
class Variant:
    """An edited reference whose identity was verified."""

    pair: str
    picture: bytes
    landmarks: np.ndarray
    similarity: float
    """Cosine to the unedited face."""
    augmenter: str
    licence: str


RAW_KINDS = ("single image", "single video", "multi-scene images", "multi-scene videos")
"""The paper's four kinds of raw data, by the target and by how many scenes show the person."""
