"""Nodes that make a small face anew: follow it through a video, and put it back."""

from __future__ import annotations

import numpy as np
import torch
from comfy_api.latest import io, ui

from ..lynx_core.evaluation.face_scores import make_judge
from ..lynx_core.evaluation.face_tracks import choose_track, find_faces, link_faces
from ..lynx_core.faces.analyzer import FaceAnalyzer
from ..lynx_core.faces.moving_crop import MovingCrop, follow_face
from ..lynx_core.faces.photo import convert_image
from . import sockets
from .host.messages import raise_plainly, show_note
from .nodes_likeness import WatchedDetector, embed_person

LARGE_FACE_PX = 200
"""A face of this size holds as much as Wan can draw."""


class LynxTrackFace(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LynxTrackFace",
            display_name="Lynx Track Face",
            category=sockets.CATEGORY,
            description="Follows a person's face through a video and cuts a square round it, large enough to be sampled "
            "again. Lynx Paste Face puts the new face back.",
            search_aliases=[
                "face detailer",
                "refine face",
                "crop face",
                "follow face",
                "small face",
                "inpaint face",
            ],
            inputs=[
                io.Image.Input("images", tooltip="Frames of the video."),
                sockets.FaceAnalyzer.Input(
                    "face_analyzer", tooltip="Finds the faces, and tells people apart."
                ),
                io.Image.Input(
                    "reference", tooltip="Photo of the person: of several people this one is followed."
                ),
                io.Int.Input(
                    "size",
                    default=480,
                    min=64,
                    max=1280,
                    step=16,
                    tooltip="Side of the crops, 64 to 1280 px.",
                ),
                io.Float.Input(
                    "room",
                    default=2.0,
                    min=1.0,
                    max=5.0,
                    step=0.1,
                    tooltip="Side of the square in heights of the face, 1 to 5. More shows the model more around it.",
                ),
                io.Int.Input(
                    "smoothing",
                    default=4,
                    min=0,
                    max=48,
                    tooltip="Frames to each side over which the square is steadied, 0 to 48. Less for fast motion.",
                ),
            ],
            outputs=[
                io.Image.Output(display_name="faces", tooltip="The squares, for VAE Encode."),
                sockets.FaceTrack.Output(display_name="track", tooltip="For Lynx Paste Face."),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    @raise_plainly
    def execute(
        cls,
        images: torch.Tensor,
        face_analyzer: FaceAnalyzer,
        reference: torch.Tensor,
        size: int,
        room: float,
        smoothing: int,
    ) -> io.NodeOutput:
        frames = np.stack(convert_image(images))
        person, _, warnings = embed_person(face_analyzer, reference, None)
        found = find_faces(frames, WatchedDetector(face_analyzer.detector, len(frames)))  # type: ignore[arg-type]
        track = choose_track(link_faces(found, make_judge(face_analyzer)), person)
        if not track.faces:
            raise ValueError(
                f"Lynx Track Face finds no face in any of the {len(frames)} frames. A face of fewer than about 20 px is "
                "not found: scale the video up first, or take another face analyzer."
            )
        boxes = {number: face.face.bbox for number, face in track.faces.items()}
        crop = follow_face(boxes, len(frames), frames.shape[1:3], room, smoothing)
        heights = [float(box[3] - box[1]) for box in boxes.values()]
        if min(heights) > LARGE_FACE_PX:
            warnings.append(f"The face is {min(heights):.0f} px and more: making it anew brings little.")
        show_note(
            cls,
            f"a face in {len(boxes)} of {len(frames)} frames, {min(heights):.0f} to {max(heights):.0f} px",
            f"squares of {crop.sides.min():.0f} to {crop.sides.max():.0f} px become {size} px",
            warnings=warnings,
        )
        faces = crop.cut(images[..., :3].cpu(), size)
        return io.NodeOutput(faces, crop, ui=ui.PreviewImage(faces[:1], cls=cls))


class LynxPasteFace(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LynxPasteFace",
            display_name="Lynx Paste Face",
            category=sockets.CATEGORY,
            description="Puts faces that were made anew back into the video that Lynx Track Face cut them from, with a "
            "soft edge.",
            search_aliases=["face detailer", "refine face", "composite", "uncrop", "stitch face"],
            inputs=[
                io.Image.Input("images", tooltip="The frames that Lynx Track Face was given."),
                io.Image.Input("faces", tooltip="The new faces, from VAE Decode."),
                sockets.FaceTrack.Input("track", tooltip="From Lynx Track Face."),
                io.Float.Input(
                    "feather",
                    default=0.2,
                    min=0.0,
                    max=0.5,
                    step=0.01,
                    tooltip="Share of the square over which its edge fades, 0 to 0.5.",
                ),
            ],
            outputs=[io.Image.Output()],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    @raise_plainly
    def execute(
        cls, images: torch.Tensor, faces: torch.Tensor, track: MovingCrop, feather: float
    ) -> io.NodeOutput:
        size = tuple(images.shape[1:3])
        if len(images) != len(track) or size != tuple(track.frame_size):
            height, width = track.frame_size
            raise ValueError(
                f"The track is of {len(track)} frames of {width} x {height} px, but images holds {len(images)} of "
                f"{size[1]} x {size[0]} px. Connect the frames that Lynx Track Face was given."
            )
        if faces.shape[1] != faces.shape[2]:
            raise ValueError(
                f"The new faces are {faces.shape[2]} x {faces.shape[1]} px; Lynx Track Face cuts squares. Connect the "
                "frames that were sampled from them."
            )
        warnings = []
        if len(faces) < len(images):
            warnings.append(
                f"There are {len(faces)} new faces for {len(images)} frames: the last {len(images) - len(faces)} keep "
                "theirs. Wan makes 4 n + 1 frames."
            )
        show_note(cls, warnings=warnings)
        return io.NodeOutput(track.paste(images[..., :3].cpu(), faces[..., :3].cpu(), feather))
