"""The extension that ComfyUI loads."""

from __future__ import annotations

from comfy_api.latest import ComfyExtension, io

from .apply import LynxApply
from .face import LynxCropFace, LynxEncodeID
from .guide import LynxGuider, LynxSampler
from .load import LynxLoadAdapter, LynxLoadFaceAnalyzer
from .model_files import provide_example_photo, register_folders
from .reference import LynxEncodeReference
from .small_text_encoder import accept_small_text_encoders


class LynxExtension(ComfyExtension):
    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        # Here and not in `on_load`, which older hosts never call.
        register_folders()
        provide_example_photo()
        accept_small_text_encoders()
        return [
            LynxLoadAdapter,
            LynxLoadFaceAnalyzer,
            LynxCropFace,
            LynxEncodeID,
            LynxEncodeReference,
            LynxApply,
            LynxGuider,
            LynxSampler,
        ]
