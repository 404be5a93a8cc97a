"""What is seen of the faces of one shot, look by look, and the tracks that come of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ..engine.records import hash_texts
from ..faces.crops import crop_for_id, measure_face_px, measure_sharpness
from ..faces.detection import Face
from ..faces.errors import FaceError, import_package
from .configuration import FacesConfig
from .head_pose import estimate_pose
from .keeping import Look, LookKeeper
from .media import Footage, scale_down, write_jpeg
from .networks import FaceNetworks, embed_crops
from .occlusion import measure_occlusion
from .records import FaceSample, SourceFile, Track
from .tracking import FaceTracker

MAX_SAMPLES = 8
MAX_VIEWS = 3
VIEW_PX = 512
PICTURE_PX = 640
PICTURE_FACES = 2.4
"""Side of a sample's picture, in sides of the square of the ID crop: the reference crop, turned, fits inside."""
SCENE_PX = 16
SHADE_PX = 16
_FLOW_PX = 96
_MIN_NEIGHBOUR = 0.25
"""Area of another face, as a share of this one's, from which on it counts as a person beside."""


@dataclass(frozen=True, eq=False)
class _Glance:
    """A look at a face before its embedding is made."""

    frame: int
    score: float
    face_px: float
    sharpness: float
    brightness: float
    clipped: float
    occluded: float
    pose: tuple[float, float, float]
    landmarks: np.ndarray
    crop: np.ndarray
    picture: bytes


class ShotLooks:
    """Takes the looks of one shot.

    Args:
        number, start: of the shot, and its first frame.
        step: frames from one look to the next.
        footage: the file.
    """

    def __init__(
        self,
        number: int,
        start: int,
        step: int,
        footage: Footage,
        networks: FaceNetworks,
        config: FacesConfig,
    ) -> None:
        self.number, self.start, self.step = number, start, step
        self.footage, self.networks, self.config = footage, networks, config
        self.tracker = FaceTracker(max_gap=max(round(footage.fps), step))
        self._cv2: Any = import_package("cv2", "curating")
        self._glances: dict[int, LookKeeper[_Glance]] = {}
        self._views: LookKeeper[tuple[int, bytes]] = LookKeeper()
        self._others: dict[int, list[tuple[int, int]]] = {}
        self._changes: dict[int, list[float]] = {}
        self._last_crops: dict[int, np.ndarray] = {}
        self._motion: list[tuple[int, float]] = []
        self._last_grey: np.ndarray | None = None
        self._scenes: LookKeeper[np.ndarray] = LookKeeper()

    def add(self, frame: int, pixels: np.ndarray) -> None:
        """Take a look at a frame, [H, W, 3] uint8 RGB."""
        found = self.networks.detector.detect(pixels)
        faces = [face for face in found if face.score >= self.config.min_score and _is_usable(face)]
        tracks = self.tracker.add(frame, faces)
        self._measure_motion(frame, pixels)
        time_s = (frame - self.start) / (self.footage.fps or 1.0)
        if self._views.wants(time_s, 0, 0, 0):
            self._views.add(Look(time_s, 0, 0, 0, (frame, write_jpeg(scale_down(pixels, VIEW_PX), 85))))
            self._scenes.add(Look(time_s, 0, 0, 0, sign_scene(pixels, faces)))
        for track, face in zip(tracks, faces, strict=True):
            beside = sum(
                1 for other in faces if other is not face and other.area >= _MIN_NEIGHBOUR * face.area
            )
            self._others.setdefault(track.number, []).append((frame, beside))
            self._glance(track.number, frame, time_s, face, pixels)

    def _glance(self, track: int, frame: int, time_s: float, face: Face, pixels: np.ndarray) -> None:
        crop = crop_for_id(pixels, face.landmarks)
        if track in self._last_crops:
            change = np.abs(crop.astype(np.int16) - self._last_crops[track]).mean()
            self._changes.setdefault(track, []).append(float(change))
        self._last_crops[track] = crop
        keeper = self._glances.setdefault(track, LookKeeper())
        pose = estimate_pose(face.landmarks)
        face_px, sharpness = measure_face_px(face.landmarks) / self.footage.scale, measure_sharpness(crop)
        goodness = face.score * min(face_px, 256.0) * min(sharpness, 200.0)
        if not keeper.wants(time_s, pose[0], pose[1], goodness):
            return
        grey = crop.mean(-1)
        picture, landmarks = cut_picture(pixels, face)
        glance = _Glance(
            frame, face.score, face_px, sharpness, float(grey.mean()), float(((grey < 8) | (grey > 247)).mean()),
            measure_occlusion(crop), pose, landmarks, crop, picture,
        )  # fmt: skip
        keeper.add(Look(time_s, pose[0], pose[1], goodness, glance))

    def _measure_motion(self, frame: int, pixels: np.ndarray) -> None:
        height = max(round(pixels.shape[0] * _FLOW_PX / pixels.shape[1]), 8)
        small = self._cv2.resize(pixels, (_FLOW_PX, height), interpolation=self._cv2.INTER_AREA)
        grey = self._cv2.cvtColor(small, self._cv2.COLOR_RGB2GRAY)
        moved = 0.0
        if self._last_grey is not None:
            flow = self._cv2.calcOpticalFlowFarneback(self._last_grey, grey, None, 0.5, 3, 15, 3, 5, 1.2, 0)
            moved = float(np.linalg.norm(flow, axis=-1).mean()) / _FLOW_PX
        self._motion.append((frame, moved))
        self._last_grey = grey

    def finish(self, end: int, file: SourceFile, picture_hash: str) -> list[Track]:
        """The tracks of the shot, which ends before frame `end`."""
        views = [look.kept for look in self._views.choose(MAX_VIEWS)]
        scenes = np.stack([look.kept for look in self._scenes.choose(MAX_VIEWS)]) if views else None
        if scenes is None:
            return []
        seen = scenes >= 0
        scene = np.where(seen.any(0), np.where(seen, scenes, 0).sum(0) / np.maximum(seen.sum(0), 1), -1)
        return [
            self._make_track(track.number, end, file, picture_hash, scene, views)
            for track in self.tracker.tracks
        ]

    def _make_track(
        self,
        number: int,
        end: int,
        file: SourceFile,
        picture_hash: str,
        scene: np.ndarray,
        views: list[tuple[int, bytes]],
    ) -> Track:
        track, footage = self.tracker.tracks[number], self.footage
        glances = [look.kept for look in self._glances[number].choose(MAX_SAMPLES)]
        embeddings = embed_crops(self.networks.recogniser, [glance.crop for glance in glances])
        scale = footage.scale
        shares = np.stack(track.boxes) / (
            np.array([footage.width_px, footage.height_px] * 2, np.float32) * scale
        )
        looks = np.column_stack([np.array(track.frames, np.float32), shares]).astype(np.float32)
        changes = self._changes.get(number, [])
        return Track(
            id=name_track(footage, self.start, number),
            path=file.path,
            file_hash=footage.file_hash,
            media="clip" if footage.is_clip else "photo",
            width_px=footage.width_px,
            height_px=footage.height_px,
            fps=footage.fps,
            num_frames=footage.num_frames,
            shot=self.number,
            shot_start=self.start,
            shot_end=end,
            step=self.step,
            looks=looks.ravel(),
            others=np.array(self._others[number], np.float32).ravel(),
            motion=np.array(self._motion, np.float32).ravel(),
            face_change=float(np.mean(changes)) if changes else -1.0,
            scene=scene.astype(np.float32),
            picture_hash=picture_hash,
            folder_name=file.folder_name,
            consent=file.consent,
            licence=file.licence,
            sidecar=file.sidecar,
            samples=tuple(_make_sample(glance, row) for glance, row in zip(glances, embeddings, strict=True)),
            pictures=tuple(glance.picture for glance in glances),
            views=tuple(raw for _, raw in views),
            view_frames=tuple(frame for frame, _ in views),
        )


def name_track(footage: Footage, shot_start: int, number: int) -> str:
    """The id of a track, 16 hex digits: 12 of the file's content, so that people keep their names when a
    folder moves, and 4 of its path, so that copies differ."""
    content = hash_texts([footage.file_hash, str(shot_start), str(number)])
    return content[:12] + hash_texts([str(footage.path)])[:4]


def _make_sample(glance: _Glance, embedding: np.ndarray) -> FaceSample:
    return FaceSample(
        glance.frame, glance.score, glance.face_px, glance.sharpness, glance.brightness, glance.clipped,
        glance.occluded, *glance.pose, glance.landmarks.ravel(), embedding, shade_crop(glance.crop),
    )  # fmt: skip


def _is_usable(face: Face) -> bool:
    """Whether its landmarks span a face; a detector gives degenerate ones now and then."""
    try:
        return bool(np.isfinite(face.bbox).all()) and measure_face_px(face.landmarks) >= 8
    except FaceError:
        return False


def shade_crop(crop: np.ndarray) -> np.ndarray:
    """An ID crop as 16x16 grey values, standardised, [256] float32."""
    cv2: Any = import_package("cv2", "curating")
    grey = cv2.cvtColor(
        cv2.resize(crop, (SHADE_PX, SHADE_PX), interpolation=cv2.INTER_AREA), cv2.COLOR_RGB2GRAY
    )
    values = grey.astype(np.float32).ravel()
    spread = float(values.std())
    return (values - values.mean()) / spread if spread > 1e-6 else np.zeros_like(values)


def cut_picture(pixels: np.ndarray, face: Face) -> tuple[bytes, np.ndarray]:
    """The face with its surroundings as a JPEG, and the landmarks in it, [5, 2]."""
    side = PICTURE_FACES * measure_face_px(face.landmarks)
    middle = face.landmarks.mean(0)
    left, top = np.maximum(np.floor(middle - side / 2), 0).astype(int)
    right, bottom = np.minimum(np.ceil(middle + side / 2), pixels.shape[1::-1]).astype(int)
    cut = np.ascontiguousarray(pixels[top : max(bottom, top + 1), left : max(right, left + 1)])
    small = scale_down(cut, PICTURE_PX)
    scale = np.array(small.shape[1::-1]) / np.array(cut.shape[1::-1])
    return write_jpeg(small), np.float32((face.landmarks - [left, top]) * scale)


def sign_scene(pixels: np.ndarray, faces: list[Face]) -> np.ndarray:
    """A frame as 16x16 colours, [768] float32, 0 to 255; -1 where people are (head and body below it)."""
    cv2: Any = import_package("cv2", "curating")
    grid = cv2.resize(pixels, (SCENE_PX, SCENE_PX), interpolation=cv2.INTER_AREA).astype(np.float32)
    per_x, per_y = SCENE_PX / pixels.shape[1], SCENE_PX / pixels.shape[0]
    for face in faces:
        wide, high = face.bbox[2] - face.bbox[0], face.bbox[3] - face.bbox[1]
        left, right = (face.bbox[0] - 0.4 * wide) * per_x, (face.bbox[2] + 0.4 * wide) * per_x
        top = (face.bbox[1] - 0.4 * high) * per_y
        shoulder = face.bbox[3] * per_y
        grid[max(int(top), 0) :, max(int(left), 0) : max(int(np.ceil(right)), 0)] = -1
        body = slice(max(int(left - wide * per_x), 0), max(int(np.ceil(right + wide * per_x)), 0))
        grid[max(int(shoulder), 0) :, body] = -1
    return grid.ravel()
