"""The socket types that Lynx nodes pass to each other."""

from __future__ import annotations

from comfy_api.latest import io

Adapter = io.Custom("LYNX_ADAPTER")
FaceAnalyzer = io.Custom("LYNX_FACE_ANALYZER")
Face = io.Custom("LYNX_FACE")
FaceID = io.Custom("LYNX_ID")
Reference = io.Custom("LYNX_REFERENCE")
FaceTrack = io.Custom("LYNX_FACE_TRACK")

CATEGORY = "Lynx"

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
