"""Targets with several people: a box around one of them that stays still, and the clip or photo cut out by it.

The box ends half-way to the neighbours' faces, and at most `_SIDES` face widths beside the face; it is the same in
every frame, for one that follows the face would take its motion away. Afterwards the detector looks into the cut
picture: another person in it, which no track showed, costs the target.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from ..engine.stage import Rejected, Stage, StageFunction
from ..faces.errors import import_package
from .configuration import CurationConfig, FacesConfig, TargetsConfig, list_values
from .media import MediaError, open_footage
from .networks import FaceNetworks
from .records import CroppedTarget, CropRequest, TrackFacts
from .windows import Window, select_inside

CROP_VERSION = 1
_SIDES, _ABOVE, _BELOW = 2.2, 1.0, 3.0
"""What the box shows beside, above and below the face, in its widths and heights."""
_ROOM = 0.25
"""Around the face, in its widths and heights: with less of it the people are too close."""
_MIN_NEIGHBOUR = 0.25
_CHECKED_FRAMES = 3
_CRF = "12"


def find_crop(
    track: TrackFacts, window: Window, beside: Sequence[TrackFacts], config: TargetsConfig
) -> tuple[int, ...] | Rejected:
    """Left, top, width and height in pixels of the file, even numbers; or why there is no box.

    Args:
        beside: the other tracks of the shot.
    """
    face = _cover(track, window)
    assert face is not None
    width, height = face[2] - face[0], face[3] - face[1]
    box = [
        max(face[0] - _SIDES * width, 0.0),
        max(face[1] - _ABOVE * height, 0.0),
        min(face[2] + _SIDES * width, float(track.width_px)),
        min(face[3] + _BELOW * height, float(track.height_px)),
    ]
    for other in (_cover(neighbour, window) for neighbour in beside):
        if other is None or other[1] >= box[3] or other[3] <= box[1]:
            continue
        if other[0] + other[2] < face[0] + face[2]:
            box[0] = max(box[0], (other[2] + face[0]) / 2)
        else:
            box[2] = min(box[2], (other[0] + face[2]) / 2)
    needed = (
        face[0] - _ROOM * width, face[1] - _ROOM * height, face[2] + _ROOM * width, face[3] + _ROOM * height
    )  # fmt: skip
    if box[0] > max(needed[0], 0) or box[2] < min(needed[2], track.width_px):
        detail = "no still box holds one face and leaves the others out"
        return Rejected("people too close for a crop", detail, track.subject)
    left, top = (2 * int(np.ceil(edge / 2)) for edge in box[:2])
    wide, high = (2 * int((end - start) // 2) for start, end in zip((left, top), box[2:], strict=True))
    if min(wide, high) < config.min_crop_px:
        detail = f"{wide}x{high} px, targets.min_crop_px is {config.min_crop_px}"
        return Rejected("crop too small", detail, track.subject)
    return left, top, wide, high


def _cover(track: TrackFacts, window: Window) -> np.ndarray | None:
    """The box that holds the face in all looks of a window, in pixels of the file; None where it has none."""
    looks = track.looks.reshape(-1, 5)
    looks = looks if window.end_frame == 0 else select_inside(looks, window)
    if not len(looks):
        return None
    size = np.array([track.width_px, track.height_px] * 2)
    return np.concatenate([looks[:, 1:3].min(0), looks[:, 3:5].max(0)]) * size


def cut_view(pixels: np.ndarray, crop: Sequence[int], width_px: int) -> np.ndarray:
    """The part of a scaled frame that a crop shows; `width_px` is that of the file."""
    scale = pixels.shape[1] / width_px
    left, top, right, bottom = (
        round(edge * scale) for edge in (crop[0], crop[1], crop[0] + crop[2], crop[1] + crop[3])
    )
    return pixels[top : max(bottom, top + 1), left : max(right, left + 1)]


def make_crop_stage(config: CurationConfig) -> Stage:
    """The stage: from `CropRequest` to `CroppedTarget`."""
    settings = {
        "faces": list_values(config.faces),
        "max_people": config.targets.max_people,
        "networks": FaceNetworks(config.faces).fingerprint,
    }
    return Stage(
        "crops",
        CROP_VERSION,
        CropRequest,
        CroppedTarget,
        settings=settings,
        open_worker=OpenCropper(config.faces, config.targets.max_people),
        batch_rows=4,
        gpus=config.gpus,
    )


@dataclass(frozen=True)
class OpenCropper:
    """Opens the detector where the work is done."""

    faces: FacesConfig
    max_people: int

    def __call__(self) -> StageFunction:
        networks = FaceNetworks(self.faces)
        return lambda requests: [[self._cut(request, networks)] for request in requests]

    def _cut(self, request: CropRequest, networks: FaceNetworks) -> CroppedTarget | Rejected:
        try:
            frames, fps = _read_crop(request)
        except MediaError as error:
            return Rejected(error.reason, error.detail, request.subject)
        for number in np.linspace(0, len(frames) - 1, _CHECKED_FRAMES).round().astype(int):
            found = [f for f in networks.detector.detect(frames[number]) if f.score >= self.faces.min_score]
            largest = max((face.area for face in found), default=0.0)
            people = sum(face.area >= _MIN_NEIGHBOUR * largest for face in found)
            if people > self.max_people:
                detail = f"{people} faces in the crop, targets.max_people is {self.max_people}"
                return Rejected("another person in the crop", detail, request.subject)
        if request.end_frame:
            return CroppedTarget(request.id, _encode_clip(frames, fps), ".mp4")
        return CroppedTarget(request.id, _encode_photo(frames[0]), ".png")


def _read_crop(request: CropRequest) -> tuple[list[np.ndarray], float]:
    """The frames of a crop, and their rate."""
    left, top, width, height = request.crop
    footage = open_footage(Path(request.path), 2**16)
    frames = []
    for number, pixels in footage.read():
        if request.first_frame <= number < max(request.end_frame, 1):
            frames.append(pixels[top : top + height, left : left + width].copy())
        if number + 1 >= max(request.end_frame, 1):
            break
    if not frames:
        raise MediaError(Path(request.path), "changed", "it has no such frames any more")
    return frames, request.fps


def _encode_clip(frames: Sequence[np.ndarray], fps: float) -> bytes:
    """H.264 at a quality that training does not tell from the source."""
    av: Any = import_package("av", "cutting clips")
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as file:
        rate = Fraction(fps).limit_denominator(1001)
        stream = file.add_stream("libx264", rate=rate, options={"crf": _CRF, "preset": "medium"})
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = "yuv420p"
        for packet in _encode(stream, av, frames):
            file.mux(packet)
    return buffer.getvalue()


def _encode(stream: Any, av: Any, frames: Sequence[np.ndarray]) -> Iterator[Any]:
    for frame in frames:
        yield from stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24"))
    yield from stream.encode()


def _encode_photo(pixels: np.ndarray) -> bytes:
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()
