"""The socket types that Lynx nodes pass to each other, and one of the host that it does not name in its API."""

from __future__ import annotations

from comfy_api.latest import io

Adapter = io.Custom("LYNX_ADAPTER")
FaceAnalyzer = io.Custom("LYNX_FACE_ANALYZER")
Face = io.Custom("LYNX_FACE")
FaceID = io.Custom("LYNX_ID")
Reference = io.Custom("LYNX_REFERENCE")
FaceTrack = io.Custom("LYNX_FACE_TRACK")

HostLandmarker = io.Custom("FACE_DETECTION_MODEL")
"""Of ComfyUI's Load Face Detection Model (MediaPipe); hosts older than 0.30.0 have none."""

CATEGORY = "Lynx"

NOT_CONNECTED = "not connected"
"""What a socket holds while inputs are checked; None is one whose value is not known yet."""

SEARCH_WORDS = [
    "instantid",
    "pulid",
    "faceid",
    "likeness",
    "character",
    "face swap",
    "photo to video",
    "consistent face",
]
"""What people look for who do not know Lynx by name; for the nodes that a graph begins with."""
